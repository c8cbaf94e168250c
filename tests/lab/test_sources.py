"""Variants that build on others: trained after them, from their weights, and from no others."""

import pytest
import torch
from tiny_grid import files_below, record_of, run_of, train

import d2l_utils as d2l
from d2l_lab.grid import load_grid
from d2l_lab.run import replay

FAMILY = """[variants.tuned]
start = "base"
epochs = 1
lr = 0.01

[variants.as-it-is]
start = "base"
epochs = 0

[variants.svd-full]
start = "base"
transform = {svd = [8]}
epochs = 0

[variants.svd-2-tuned]
start = "base"
transform = {svd = [2]}
epochs = 1

[variants.pruned]
start = "base"
transform = {prune = 0.1}
epochs = 0

[variants.pruned-tuned]
start = "base"
transform = {prune = 0.1}
epochs = 1

[variants.int8]
start = "base"
transform = {int8 = true}
epochs = 0

[variants.distilled]
head = "gap"
teacher = "base"
epochs = 1

[variants.base]
"""


def test_what_others_build_on_is_trained_first(write, tmp_path, capsys):
    path = write(FAMILY)
    assert train(path, "--precision", "float32") == 0
    started = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[0] == "["]
    assert started[0] == "tiny/base" and len(started) == 9
    records = {variant: record_of(path, variant) for variant in load_grid(path).variants}
    base = records["base"]
    assert records["as-it-is"]["final"] == base["final"]
    assert records["svd-full"]["final"] == pytest.approx(base["final"], abs=1e-4)
    assert records["int8"]["final"] == pytest.approx(base["final"], rel=0.05)
    for variant in ("as-it-is", "svd-full", "pruned", "int8"):
        assert records[variant]["history"] == records[variant]["first_losses"] == []
    assert records["pruned"]["final"]["val_loss"] > base["final"]["val_loss"]
    assert records["pruned-tuned"]["final"]["val_loss"] < records["pruned"]["final"]["val_loss"]
    # 16 inputs and 8 outputs at rank 2, without the weights that they take the place of
    network, split = base["network"], records["svd-2-tuned"]["network"]
    assert split["params"] - network["params"] == split["macs"] - network["macs"]
    assert split["params"] - network["params"] == 2 * (16 + 8) - 16 * 8
    for variant in ("tuned", "pruned", "int8"):
        assert records[variant]["network"] == network
    # A trained network starts where its start ended: below a new one's loss.
    assert records["tuned"]["first_losses"][0] < base["first_losses"][0]
    for variant, record in records.items():
        if record["first_losses"]:
            assert replay(run_of(path, variant), "float32") == record["first_losses"]
    assert files_below(tmp_path / "checkpoints") == [
        "tiny/base-seed0.weights.pt",
        "tiny/distilled-seed0.weights.pt",
    ]


@pytest.mark.parametrize("start", ["", "small"])
def test_a_student_learns_its_teachers_logits_and_the_teacher_learns_nothing(write, start):
    path = write(
        '[variants.base]\n[variants.small]\nhead = "gap"\n'
        f'[variants.a]\nhead = "gap"\nteacher = "base"\nstart = "{start}"\n'
        "temperature = 3\nsoft_share = 0.7\n"
    )
    assert train(path, "--variant", "base", "--variant", "small") == 0
    model, data = run_of(path).prepare()
    trainer = d2l.Trainer(1, precision="float32", seed=0)
    trainer.start(model, data)
    (teacher,) = model._teacher
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    batch = next(iter(trainer.train_dataloader))
    X, y = batch
    with torch.no_grad():
        p = torch.softmax(teacher(X) / 3, dim=1)
        q = torch.softmax(model(X) / 3, dim=1)
        soft = (p * (p / q).log()).sum(dim=1).mean()
        wanted = 0.7 * 9 * soft + 0.3 * model.loss(model(X), y)
    assert float(trainer.step(batch)) == pytest.approx(float(wanted), rel=1e-5)
    assert not teacher.training and model.training
    assert all(torch.equal(teacher.state_dict()[key], before[key]) for key in before)
    assert all(p.grad is None for p in teacher.parameters())
    assert len(list(model.parameters())) == 4  # one convolution, one classifier: the student's own


def test_missing_weights_are_named_with_what_to_do(write, capsys):
    path = write('[variants.base]\n[variants.a]\nstart = "base"\n')
    only = "--variant", "a"
    assert train(path, *only) == 1
    weights = run_of(path, "base").weights
    assert f"({weights}); train that run" in capsys.readouterr().err
    assert train(path, "--variant", "base") == 0
    kept = weights.read_bytes()
    weights.unlink()
    assert train(path, *only) == 1
    assert f"; delete {run_of(path, 'base').record} and train that run" in capsys.readouterr().err
    flipped = bytes([kept[len(kept) // 2] ^ 16])  # a bit of a weight
    flipped = kept[: len(kept) // 2] + flipped + kept[len(kept) // 2 + 1 :]
    torch.save({"net.0.0.weight": torch.zeros(2)}, weights)
    other = weights.read_bytes()
    for damaged in (kept[: len(kept) // 2], flipped, other):
        weights.write_bytes(damaged)
        assert train(path, *only) == 1
        assert f"{weights} is damaged" in capsys.readouterr().err
    weights.write_bytes(kept)
    assert train(path, *only) == 0


def test_weights_of_other_settings_are_not_gone_on_from(write, capsys):
    path = write('[variants.base]\n[variants.a]\nstart = "base"\n')
    assert train(path, "--variant", "base") == 0
    assert record_of(path, "base")
    write('[variants.base]\nlr = 0.3\n[variants.a]\nstart = "base"\n')
    assert train(path, "--variant", "a") == 1
    assert "lr 0.1, now 0.3" in capsys.readouterr().err
    assert not run_of(path).record.exists()
