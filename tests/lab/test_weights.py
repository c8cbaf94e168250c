"""Trained weights in one file: the same network comes out, or an error says why not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_grid import run_of, train

import d2l_utils as d2l
from d2l_lab.__main__ import main
from d2l_lab.grid import load_grid
from d2l_lab.run import Run
from d2l_lab.weights import export, load_card, load_model

GRID = """question = "Does it travel?"
seeds = [0]
[defaults]
arch = [[1, 4], [1, 6]]
resolution = 8
epochs = 1
batch_size = 64
lr = 0.1
train_size = 256
holdout = 256
head = [8]
[variants.gap]
head = "gap"
batch_norm = true
[variants.base]
[variants.pruned]
start = "base"
epochs = 0
transform = {prune = 0.5}
[variants.untrained]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains the grid, but for one variant, and gives its path."""
    path = tmp_path_factory.mktemp("grid") / "tiny.toml"
    path.write_text(GRID, encoding="utf-8")
    chosen = [part for name in ("gap", "base", "pruned") for part in ("--variant", name)]
    # Convolutions in bfloat16 leave weights in the layout of channels last.
    assert train(path, *chosen, "--precision", "bfloat16") == 0
    return path


@pytest.mark.parametrize("variant", ["gap", "base"])
@torch.no_grad()
def test_the_network_that_comes_out_is_the_one_that_went_in(trained, tmp_path, capsys, variant):
    run, file = run_of(trained, variant), tmp_path / "new" / "weights.safetensors"
    assert main(["export", str(trained), variant, "0", str(file)]) == 0
    random_state = torch.get_rng_state()
    model = load_model(file)
    assert torch.equal(torch.get_rng_state(), random_state)
    original = run.trained_model().eval()
    assert type(model) is d2l.VGG and not model.training
    weights = model.state_dict()
    assert list(weights) == list(original.state_dict())
    assert all(torch.equal(weights[name], w) for name, w in original.state_dict().items())
    X = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(X), original(X))
    assert [p.name for p in file.parent.iterdir()] == ["weights.safetensors"]
    card, record = load_card(file), run.recorded()
    assert card == {key: record[key] for key in card} and "history" not in card
    assert {"config", "final", "seed", "validated_on", "precision", "versions"} <= card.keys()
    params, size = sum(p.numel() for p in model.parameters()), file.stat().st_size
    said = f"{params:,} parameters, {size:,} bytes, accuracy {record['final']['val_acc']:.4f}\n"
    assert card["network"]["params"] == params and capsys.readouterr().out == f"{file}: {said}"


def test_runs_that_cannot_be_written_are_refused(trained, tmp_path, capsys):
    file = tmp_path / "weights.safetensors"
    wrong = {"variant gpa": "0", "seed 1": "1", "untrained": "0", "pruned": "0"}
    for culprit, seed in wrong.items():
        variant = "gap" if culprit == "seed 1" else culprit.split()[-1]
        assert main(["export", str(trained), variant, seed, str(file)]) == 2
        assert culprit in capsys.readouterr().err
    run = run_of(trained, "base")
    elsewhere = Run(run.grid, "base", 0, run.results, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="base"):
        export(elsewhere, file)
    changed = tmp_path / "tiny.toml"
    changed.write_text(GRID.replace("lr = 0.1", "lr = 0.2"), "utf-8")
    with pytest.raises(ValueError, match="lr 0.1, now 0.2"):
        export(Run(load_grid(changed), "base", 0, run.results, run.checkpoints), file)
    assert not file.exists()


def test_files_that_are_none_of_ours_are_refused(trained, tmp_path):
    file = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match="weights.safetensors"):
        load_model(file)
    export(run_of(trained, "base"), file)
    whole, weights = file.read_bytes(), load_file(file)
    card = {key: json.dumps(value) for key, value in load_card(file).items()}
    for damaged in (b"", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=file.name):
            load_model(file)
    for foreign in (None, {**card, "config": "{"}):
        save_file(weights, file, foreign)
        with pytest.raises(ValueError, match=file.name):
            load_card(file)
    del weights["net.0.0.weight"]
    save_file(weights, file, card)
    with pytest.raises(RuntimeError, match="net.0.0.weight"):
        load_model(file)
