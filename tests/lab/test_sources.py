"""Grid entries that start from another's weights: trained after it, from its run and no other."""

import pytest
import torch
from tiny_grid import files_below, record_of, run_of, train

import d2l_utils as d2l
from d2l_lab.grid import load_grid
from d2l_lab.replay import replay

FROM_BASE = {
    "tuned": "epochs = 1\nlr = 0.01",
    "as-it-is": "epochs = 0",
    "svd-full": "epochs = 0\ntransform = {svd = [8]}",
    "svd-2-tuned": "epochs = 1\ntransform = {svd = [2]}",
    "pruned": "epochs = 0\ntransform = {prune = 0.1}",
    "pruned-tuned": "epochs = 1\ntransform = {prune = 0.1}",
    "int8": "epochs = 0\ntransform = {int8 = true}",
}
FAMILY = "".join(f'[variants.{name}]\nstart = "base"\n{s}\n' for name, s in FROM_BASE.items())
FAMILY += '[variants.distilled]\nhead = "gap"\nteacher = "base"\nepochs = 1\n[variants.base]\n'


def test_what_others_build_on_is_trained_first(write, tmp_path, capsys, int8_adds_up):
    path = write(FAMILY)
    assert train(path, "--precision", "float32") == 0
    started = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line[0] == "["]
    assert started[0] == "tiny/base" and len(started) == 9
    records = {variant: record_of(path, variant) for variant in load_grid(path).variants}
    final = {variant: record["final"] for variant, record in records.items()}
    loss = {variant: end["val_loss"] for variant, end in final.items()}
    assert final["as-it-is"] == final["base"]
    assert final["svd-full"] == pytest.approx(final["base"], abs=1e-4)
    assert final["int8"] == pytest.approx(final["base"], rel=0.05)
    assert loss["pruned"] > max(loss["base"], loss["pruned-tuned"])
    # 16 inputs and 8 outputs at rank 2, without the weights that they take the place of
    network, split = records["base"]["network"], records["svd-2-tuned"]["network"]
    assert split["params"] - network["params"] == split["macs"] - network["macs"]
    assert split["params"] - network["params"] == 2 * (16 + 8) - 16 * 8
    for variant in ("tuned", "pruned", "int8"):
        assert records[variant]["network"] == network
    # A trained network starts where its start ended: below a new one's loss.
    assert records["tuned"]["first_losses"][0] < records["base"]["first_losses"][0]
    for variant, record in records.items():
        assert bool(record["first_losses"]) == bool(record["history"])
        if record["first_losses"]:
            assert replay(run_of(path, variant), "float32") == record["first_losses"]
    kept = [f"tiny/{variant}-seed0.weights.pt" for variant in ("base", "distilled")]
    assert files_below(tmp_path / "checkpoints") == kept


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
    assert [*trainer._means.pop()] == ["train_loss"]  # and nothing of it in the validation's mean
    assert not teacher.training and model.training
    assert all(torch.equal(teacher.state_dict()[key], before[key]) for key in before)
    assert len(list(model.parameters())) == 4  # one convolution, one classifier: the student's own


STARTED = '[variants.base]\n[variants.a]\nstart = "base"\n'
ONLY = "--variant", "a"


def test_weights_that_are_missing_or_damaged_are_named_with_what_to_do(write, capsys):
    path = write(STARTED)
    weights, record = run_of(path, "base").weights, run_of(path, "base").record

    def complaint():
        assert train(path, *ONLY) == 1
        return capsys.readouterr().err

    assert f"({weights}); train that run" in complaint()
    assert train(path, "--variant", "base") == 0
    kept = weights.read_bytes()
    weights.unlink()
    assert f"; delete {record} and train that run" in complaint()
    middle = len(kept) // 2
    flipped = kept[:middle] + bytes([kept[middle] ^ 16]) + kept[middle + 1 :]  # a bit of a weight
    torch.save({"net.0.0.weight": torch.zeros(2)}, weights)
    for damaged in (kept[:middle], flipped, weights.read_bytes()):
        weights.write_bytes(damaged)
        assert f"{weights} is damaged" in complaint()
    weights.write_bytes(kept)
    assert train(path, *ONLY) == 0


def test_weights_of_other_settings_are_not_gone_on_from(write, capsys):
    path = write(STARTED)
    assert train(path, "--variant", "base") == 0
    write(STARTED.replace("base]\n", "base]\nlr = 0.3\n", 1))
    assert train(path, *ONLY) == 1
    assert "lr 0.1, now 0.3" in capsys.readouterr().err
    assert not run_of(path).record.exists()


def test_int8_is_worked_in_float32_whatever_the_device_is_fast_in(write, monkeypatch):
    monkeypatch.setattr("d2l_lab.run.fast_precision", lambda device: "bfloat16")
    path = write(FAMILY)
    found = {v: run_of(path, v)._trainer(None).precision for v in ("base", "int8")}
    assert found == {"base": "bfloat16", "int8": "float32"}
