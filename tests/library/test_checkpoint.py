"""Checkpoints: resumed to the bit, refused when settings differ, never half written."""

import functools
import os
import resource
import signal

import pytest
import torch
from small import Line, Net, Random, Scratch, TenClasses, comparable, equal, stop_at, weights
from torch import nn

import d2l_utils as d2l
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files
from d2l_utils.checkpoint import read_saved
from d2l_utils.data import ImageSet
from d2l_utils.device import PRECISIONS

read_files = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def read_files_once(monkeypatch):
    monkeypatch.setattr(data_module, "load", read_files)


def fashion(seed):
    data = d2l.FashionMNIST(16, (12, 12), train_size=60, augment=["flip", "crop"], seed=seed)
    data.val = ImageSet(data.val.data[:40], data.val.targets[:40], data.resize)
    return data


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("stop", ["between epochs", "within an epoch"])
def test_going_on_is_never_having_stopped(tmp_path, seed, precision, schedule, stop):
    def run(global_seed, path, stop_after=None):
        torch.manual_seed(global_seed)
        model, data = TenClasses(schedule=schedule), fashion(seed)
        trainer = d2l.Trainer(4, precision=precision, seed=seed, checkpoint=path)
        if stop_after is not None:
            stop_at(model, stop_after, KeyboardInterrupt())
        trainer.fit(model, data)
        return model, trainer, torch.get_rng_state()

    whole, trainer, generator = run(0, tmp_path / "whole.pt")
    batch = 8 if stop == "between epochs" else 10
    run(0, tmp_path / "parts.pt", stop_after=batch)
    # As in a new process: another state of the generators, another network, another trainer.
    resumed, second, second_generator = run(99, tmp_path / "parts.pt")
    assert second.train_batch_idx == trainer.train_batch_idx == 16
    assert second.val_batch_idx == trainer.val_batch_idx == 12
    assert equal(weights(resumed), weights(whole))
    assert comparable(second.history) == comparable(trainer.history)
    assert second.first_losses == trainer.first_losses
    assert resumed.board.data["val_acc"] == whole.board.data["val_acc"]
    # And so it would be if both went on.
    assert torch.equal(generator, second_generator)
    states = [t.optim.state_dict()["state"].values() for t in (trainer, second)]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def save_run(path, model=Net, epochs=2, data=None, **arguments):
    model, arguments = model(), {"seed": 0} | arguments
    trainer = d2l.Trainer(epochs, checkpoint=path, **arguments)
    trainer.fit(model, Random(**{"seed": 0} | (data or {})))
    return model, trainer


def test_a_checkpoint_changes_nothing_and_can_be_gone_on_from_for_more_epochs(tmp_path):
    path = tmp_path / "new" / "folder" / "run.pt"
    whole, _ = save_run(None, epochs=4)
    save_run(str(path))
    model, _ = save_run(path, epochs=4)
    assert equal(weights(model), weights(whole))
    assert os.listdir(path.parent) == ["run.pt"]


def test_a_finished_run_trains_no_more(tmp_path):
    model, trainer = save_run(tmp_path / "run.pt")
    again, second = save_run(tmp_path / "run.pt", lambda: stop_at(Net(), 6, AssertionError()))
    assert equal(weights(again), weights(model))
    assert second.history == trainer.history
    with pytest.raises(ValueError, match=r"run\.pt is of 2 epochs, but max_epochs is 1"):
        save_run(tmp_path / "run.pt", epochs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"precision": "bfloat16"}, "precision float32, now bfloat16"),
        ({"gradient_clip_val": 1}, "gradient_clip_val 0, now 1"),
        ({"data": {"n": 30}}, "num_train_batches 3, now 4, data.n 20, now 30"),
        ({"model": lambda: Net(lr=0.06)}, "model.lr 0.05, now 0.06"),
        ({"model": lambda: Net(schedule=True)}, "scheduler NoneType, now OneCycleLR"),
        ({"model": Line}, "network"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    save_run(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=rf"run\.pt was made with other settings: .*{message}"):
        save_run(path, **change)
    assert path.read_bytes() == content


def test_a_schedule_is_for_its_number_of_epochs(tmp_path):
    save_run(tmp_path / "run.pt", lambda: Net(schedule=True))
    with pytest.raises(ValueError, match=r"total_steps 6, now 9, .*max_epochs 2, now 3"):
        save_run(tmp_path / "run.pt", lambda: Net(schedule=True), epochs=3)


def test_where_the_data_lies_does_not_matter(tmp_path):
    for epochs, root in ((1, "here"), (2, "there")):
        data = Random(seed=0)
        data.hparams |= {"root": root, "num_workers": epochs, "more": torch.rand(3)}
        trainer = d2l.Trainer(epochs, seed=0, checkpoint=tmp_path / "run.pt")
        trainer.fit(Net(), data)
    assert (trainer.train_batch_idx, trainer.resumed_epochs) == (6, 1)


@pytest.mark.parametrize("damage", [lambda whole: b"no checkpoint", lambda whole: whole[:-1]])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "run.pt"
    save_run(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run\.pt is damaged"):
        save_run(path)


def test_a_bit_that_flips_is_noticed(tmp_path):
    path = tmp_path / "run.pt"
    save_run(path, Line)  # whose weights fill a good part of the file
    whole = path.read_bytes()
    good = torch.load(path, weights_only=True)["model"]
    noticed = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert equal(read_saved(path)["model"], good)  # it was in the padding
        except ValueError as error:
            assert "damaged" in str(error)
            noticed += 1
    assert noticed > 10


def test_another_file_of_torch_is_no_checkpoint(tmp_path):
    torch.save(Line().state_dict(), tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of this trainer"):
        save_run(tmp_path / "run.pt")


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def breaks(state, part):
        part.write_bytes(b"half of it")
        raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    save_run(path)
    content = path.read_bytes()
    monkeypatch.setattr(torch, "save", breaks)
    _, trainer = save_run(path, epochs=3)
    assert trainer.interrupted
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.pt"]


@pytest.fixture
def full_disk():
    """Stands in for a disk that is full: no file may grow beyond 8 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(tmp_path, request):
    path = tmp_path / "run.pt"
    save_run(path)
    content = path.read_bytes()
    assert len(content) > 8192
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match=r"disk has .* MiB left.*run\.pt"):
        save_run(path, epochs=3)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["run.pt"]


def test_an_unreadable_checkpoint_is_not_called_damaged(tmp_path, monkeypatch):
    def refuses(*_):
        raise PermissionError(13, "Permission denied")

    save_run(tmp_path / "run.pt")
    monkeypatch.setattr("builtins.open", refuses)
    with pytest.raises(PermissionError):
        save_run(tmp_path / "run.pt")


class BatchNorm(nn.Module):
    """Written by hand, with moving averages that are plain tensors, one of them in a list."""

    def __init__(self):
        super().__init__()
        self.moving_mean, self.others = torch.zeros(4, 1, 1), [torch.ones(4, 1, 1)]

    def forward(self, X):
        if self.training:
            mean, var = X.mean((0, 2, 3), keepdim=True)[0], X.var((0, 2, 3), keepdim=True)[0]
            self.moving_mean = 0.9 * self.moving_mean + 0.1 * mean
            self.others[0] = 0.9 * self.others[0] + 0.1 * var
            self.steps = getattr(self, "steps", torch.zeros(())) + 1  # made in the first pass
        else:
            mean, var = self.moving_mean + 0 * getattr(self, "steps", 0), self.others[0]
        return (X - mean) / (var + 1e-5).sqrt()


class HandMade(Net):
    def __init__(self):
        super().__init__()
        self.net[1] = BatchNorm()
        self.net[2].register_buffer("scale", torch.ones(()), persistent=False)

    def training_step(self, batch):
        self.net[2].scale += 1
        return super().training_step(batch)


@pytest.mark.parametrize("kind", [HandMade, Scratch])
def test_tensors_that_no_state_dict_has_are_kept(tmp_path, kind):
    def tensors(model):
        if kind is Scratch:
            return [model.W]
        norm = model.net[1]
        return [norm.moving_mean, norm.others[0], norm.steps, model.net[2].scale]

    def run(name, epochs, seed=0):
        torch.manual_seed(seed)  # of the weights at the start
        return save_run(tmp_path / name, kind, epochs)

    run("parts.pt", 2)
    (whole, trainer), (resumed, second) = run("whole.pt", 4), run("parts.pt", 4, seed=1)
    assert second.resumed_epochs == 2
    assert comparable(second.history) == comparable(trainer.history)
    assert all(map(torch.equal, tensors(resumed), tensors(whole)))


class Hidden(Scratch):
    """With a weight that is in no module."""

    def __init__(self):
        super().__init__()
        self.box = type("Box", (), {"W": self.W})
        self.W = None

    def parameters(self):
        return [self.box.W]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("model", "culprit"), [(Hidden, "Hidden"), (lambda: Scratch(by_hand=True), "SGD")]
)
def test_a_state_that_a_checkpoint_would_lose_is_refused(tmp_path, model, culprit):
    with pytest.raises(TypeError, match=f"{culprit} cannot be kept in a checkpoint"):
        save_run(tmp_path / "run.pt", model)
    assert not (tmp_path / "run.pt").exists()


def test_settings_of_the_callers_own_must_match_too(tmp_path):
    def model(gain):
        model = Line()
        model.hparams["config"] = {"gain": gain, "head": (4, 5)}
        return model

    save_run(tmp_path / "run.pt", lambda: model(1))
    save_run(tmp_path / "run.pt", lambda: model(1), epochs=3)
    with pytest.raises(ValueError, match=r"model\.config\.gain 1, now 2;"):
        save_run(tmp_path / "run.pt", lambda: model(2), epochs=4)


def test_a_checkpoint_in_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_run(tmp_path / "file" / "run.pt", lambda: stop_at(Net(), 0, AssertionError()))
