"""Wrong grids are refused whole, and the entry at fault is named."""

import pytest
from tiny_grid import TOP, files_below, train

from d2l_lab.grid import Config, load_grid
from d2l_lab.run import Run

# What stands in the table of variant a, and what the message must say of which entry.
WRONG_SETTINGS = {
    "learning_rate = 0.1": "variants.a: .*learning_rate",
    'augment = ["flip", "mixup"]': r"variants.a.augment\[1\]: .*mixup",
    "seeds = [1, true]": r"variants.a.seeds\[1\]: .*bool",
    "lr = nan": "variants.a.lr: ",
    f"arch = [[1, {10**30}]]": "variants.a: this network is impossible: ",
    "resolution = 1": "variants.a: this network is impossible: images of 1 x 1",
    "head = [0]": "variants.a: this network is impossible: a width of head is 0",
    "train_size = 50001\nholdout = 10000": "variants.a.train_size is 50001 and holdout 10000",
    "epochs = 0": "variants.a.epochs is 0",
    'start = "c"': "variants.a builds on 'c', which is no variant",
    'teacher = "c"': "variants.a builds on 'c', which is no variant",
    'start = "b"\n[variants.b]\nteacher = "c"\n[variants.c]\nstart = "a"': "first: .*, .*, ",
    'start = "b"\n[variants.b]\nstart = "c"\ntransform = {svd = [2]}\n[variants.c]': (
        "variants.a builds on 'b', which is transformed"
    ),
    'seeds = [0, 7]\nstart = "b"\n[variants.b]': "variants.a builds on 'b', which has no seed 7",
    'start = "b"\n[variants.b]\nholdout = 255': "'b', which is trained on images .* held out",
    'arch = [[2, 4]]\nstart = "b"\n[variants.b]': "variants.a.arch is .*, as in 'b'",
    'resolution = 8\nstart = "b"\n[variants.b]': "variants.a.resolution is 8; it must be 4",
    'resolution = 8\nteacher = "b"\n[variants.b]': "variants.a.teacher cannot take these images",
    'start = "b"\ntransform = {svd = [2], prune = 0.5}\n[variants.b]': "variants.a.transform: ",
    "transform = {svd = [2]}": "variants.a.transform has no start",
    'start = "b"\ntransform = {svd = [9]}\n[variants.b]': "a.transform is impossible: .*rank.* 9",
    'start = "b"\nepochs = 0\ntransform = {int8 = false}\n[variants.b]': "a.transform: int8",
    'start = "b"\ntransform = {int8 = true}\n[variants.b]': "a.transform: int8 .*epochs",
}
WRONG_GRIDS = {
    "colour": {"top": f'{TOP}colour = "red"\n'},
    "seeds": {"top": 'question = ""\n'},
    "variants.*int": {"variants": "[variants]\na = 3\n"},
    "defaults.lr: ": {"defaults": "[defaults]\nlr = -1\n"},
    "variants.a: .*arch": {"defaults": "[defaults]\nlr = 0.1\n"},
    "variants.a/b names files": {"variants": '[variants."a/b"]\n'},
    r"variants.\.a names files": {"variants": '[variants.".a"]\n'},
    "line 13": {"variants": "[variants.a]\nlr = \n"},
}


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_a_wrong_setting_is_named(write, settings):
    path = write(f"[variants.good]\n[variants.a]\n{settings}\n")
    with pytest.raises(ValueError, match=f"^{path}: .*{WRONG_SETTINGS[settings]}"):
        load_grid(path)


@pytest.mark.parametrize("culprit", WRONG_GRIDS)
def test_a_wrong_grid_is_refused(write, culprit):
    path = write(**WRONG_GRIDS[culprit])
    with pytest.raises(ValueError, match=f"^{path}: .*{culprit}"):
        load_grid(path)


def test_a_wrong_grid_is_refused_before_anything_is_trained(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Run, "execute", lambda *_: pytest.fail("something is trained"))
    good, wrong = write(), write("[variants.a]\nlr = -1\n", name="wrong")
    for path, culprit in ((wrong, "wrong.toml: variants.a.lr"), (tmp_path / "none.toml", "none")):
        assert train(good, path) == 2
        assert culprit in capsys.readouterr().err
    assert files_below(tmp_path) == ["tiny.toml", "wrong.toml"]


def test_defaults_and_seeds_of_a_grid(write):
    grid = load_grid(write('[variants.a]\nlr = 1\n[variants."b.1"]\nseeds = [3]\nhead = "gap"\n'))
    assert (grid.name, grid.question) == ("tiny", "Does it run?")
    assert grid.seeds == {"a": [0], "b.1": [3]}
    plain = {"arch": [(1, 4)], "resolution": 4, "epochs": 2, "batch_size": 64}
    plain |= {"train_size": 256, "holdout": 256}
    assert grid.variants["a"] == Config(**plain, head=[8], lr=1)
    assert grid.variants["b.1"] == Config(**plain, head="gap", lr=0.1)


def test_the_defaults_are_the_sections_recipe():
    c = Config(arch=[(1, 16)])
    assert (c.head, c.batch_norm, c.resolution, c.epochs) == ([4096, 4096], False, 224, 10)
    assert (c.batch_size, c.lr, c.momentum, c.weight_decay) == (128, 0.01, 0, 0)
    assert (c.schedule, c.label_smoothing, c.augment) == ("constant", 0, [])
    assert (c.train_size, c.holdout, c.start, c.transform, c.teacher) == (0, 0, "", {}, "")
    assert (c.temperature, c.soft_share) == (4, 0.9)
    assert (c.init, c.fc_gain, c.precision) == ("xavier", 0, "")


def test_a_small_weight_decay_is_taken(write):
    assert load_grid(write("[variants.a]\nweight_decay = 0.0005\n")).variants["a"].weight_decay
