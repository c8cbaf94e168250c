"""What is measured, and that its record is whole. No test asks how fast anything is."""

import dataclasses
import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

import d2l_utils as d2l
from d2l_lab import clock, engines, timing
from d2l_lab import heads as heads_module
from d2l_lab.__main__ import main
from d2l_lab.grid import load_grid

BOOK = Path(__file__).parents[2] / "book"
SMALL = dataclasses.replace(timing.QUICK, side=32, head_batches=(2,))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """Heads of four thousand units would take all the time of these tests."""

    def small(num_convs):
        return lambda: d2l.VGG(((num_convs, 2), (1, 4)), timing.LR, head=(8,))

    monkeypatch.setattr(timing, "NETWORKS", {"VGG-11": small(2), "narrow VGG-11": small(1)})


@pytest.fixture
def small_heads(monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'torchao'")

    heads = {"fc4096": torch.nn.Flatten, "int8": missing}
    monkeypatch.setattr(heads_module, "heads", lambda side, ranks, keep: heads)


def test_noise_has_labels_of_ten_classes():
    X, y = clock.noise(128, 28)
    assert X.shape == (128, 1, 28, 28) and y.unique().tolist() == [*range(10)]


def test_times_are_taken_in_turn(monkeypatch):
    order = []
    monkeypatch.setattr(clock, "seconds", lambda run, at_least: run() or float(len(order)))
    rows = [({"row": name}, lambda name=name: order.append(name)) for name in "ab"]
    rows = clock.in_turn(rows, dataclasses.replace(SMALL, rounds=2))
    assert order == ["a", "b", "a", "b"]
    assert rows == [{"row": "a", "seconds": [1.0, 3.0]}, {"row": "b", "seconds": [2.0, 4.0]}]


def test_what_a_card_has_no_room_for_is_left_out(monkeypatch):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    rows = clock.in_turn([({"row": "a"}, full), ({"row": "b"}, lambda: None)], SMALL)
    assert [row["row"] for row in rows] == ["b"]
    trainer = timing._trainer(timing.NETWORKS["VGG-11"], 32, CPU, "float32")
    monkeypatch.setattr(trainer, "step", lambda batch: full())
    assert timing._steps("VGG-11", trainer, 32, (1, 2)) == []


def test_networks_are_measured_in_each_precision_and_batch(monkeypatch):
    monkeypatch.setattr(timing, "fast_precision", lambda device: "bfloat16")
    rows = timing.network_times(CPU, SMALL)
    batches = {"VGG-11": "1 -", "narrow VGG-11": "12 1", "low resolution": "2 2", "fast": "2 2"}
    measured = {(r["network"], r["precision"], r["batch"]) for r in rows}
    assert len(rows) == len(measured) and measured == {
        (name, precision, int(batch))
        for name, sizes in (batches | {"VGG-11": "1 1"}).items()
        for precision, those in zip(("float32", "bfloat16"), sizes.split(), strict=True)
        for batch in those
    }
    assert all(len(r["seconds"]) == SMALL.rounds and min(r["seconds"]) > 0 for r in rows)


def test_layers_are_measured_in_order_and_flatten_is_none():
    rows = timing.layer_times(CPU, dataclasses.replace(SMALL, rounds=2))
    assert {r["network"] for r in rows} == {"narrow VGG-11"}
    head = ["Linear", "ReLU", "Dropout", "Linear"]
    assert [r["kind"] for r in rows] == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + head
    assert all(len(r["forward"]) == len(r["backward"]) == 2 for r in rows)


def test_heads_give_what_their_names_say():
    heads = heads_module.heads(32, ((16, 8),), (0.25,))
    X = torch.randn(2, 128, 1, 1)
    made = {name: make().eval() for name, make in heads.items() if name not in ("int8", "blocks")}
    weights = {name: sum(p.numel() for p in net.parameters()) for name, net in made.items()}
    with torch.no_grad():
        logits = {name: net(X) for name, net in made.items()}
    assert {name: Y.shape for name, Y in logits.items()} == dict.fromkeys(made, (2, 10))
    whole = 129 * 4096 + 4097 * 4096 + 4097 * 10
    assert weights["fc4096"] == weights["conv"] == weights["pruned-25"] == whole
    assert weights["fc1024"] == 129 * 1024 + 1025 * 1024 + 1025 * 10
    assert weights["fc256"] == 129 * 256 + 257 * 256 + 257 * 10
    assert weights["none"] == weights["gap"] == 129 * 10
    assert weights["svd-16-8"] == 128 * 16 + 17 * 4096 + 4096 * 8 + 9 * 4096 + 4097 * 10
    for same, other in (("conv", "fc4096"), ("pruned-25-sparse", "pruned-25")):
        torch.testing.assert_close(logits[same], logits[other], atol=1e-4, rtol=0)
    first = made["pruned-25"][1].weight
    assert first.count_nonzero() == first.numel() / 4
    assert made["pruned-25-sparse"][1].weight.layout == torch.sparse_csr
    assert heads["blocks"]()(torch.randn(2, 1, 32, 32)).shape == X.shape


def test_each_head_is_timed_on_what_the_blocks_leave(monkeypatch):
    shapes, names = {}, ("blocks", "fc4096")

    class Head(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.forward = lambda X: shapes.setdefault(name, X.shape)

    made = {name: lambda name=name: Head(name) for name in names}
    monkeypatch.setattr(heads_module, "heads", lambda side, ranks, keep: made)
    monkeypatch.setattr(clock, "seconds", lambda run, at_least: 1.0)
    rows = heads_module.head_times(CPU, dataclasses.replace(SMALL, ranks=((64, ()),)))
    assert shapes == {"blocks": (2, 1, 64, 64), "fc4096": (2, 128, 2, 2)}
    assert [row["head"] for row in rows] == [*names]


def test_a_peak_is_that_of_one_network_alone(monkeypatch):
    """On a GPU that is played by the CPU: what matters is which networks still exist."""
    alive = weakref.WeakSet()
    make = timing.NETWORKS["VGG-11"]

    def tracked():
        alive.add(model := make())
        return model

    gc.collect()
    monkeypatch.setattr(timing, "NETWORKS", {"a": tracked, "b": tracked})
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: len(alive))
    rows = timing.peak_memory(torch.device("cuda"), SMALL)
    assert [(r["network"], r["batch"], r["peak_bytes"]) for r in rows] == [
        ("a", 1, 1), ("a", 2, 1), ("b", 1, 1), ("b", 2, 1)
    ]  # fmt: skip


def test_the_command_writes_one_whole_record(tmp_path, monkeypatch, small_heads):
    monkeypatch.setattr(timing, "QUICK", SMALL)
    monkeypatch.setattr(timing, "try_all_gpus", lambda: [CPU])
    assert main(["time", "--quick", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text("utf-8"))
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["plan"] == json.loads(json.dumps(dataclasses.asdict(SMALL)))
    assert {"versions", "tf32", "finished"} <= record.keys() and not record["memory_kept"]
    assert record["peak_memory"] == []  # that is a GPU's
    assert record["network_times"] and record["layer_times"]
    product, copy = record["rates"]
    assert product["macs"] == 2048**3 and copy["bytes"] == 2 * 4 * 2**26
    (head, int8) = record["head_times"]  # one that cannot run says why
    assert len(head["seconds"]) == 1 and int8["seconds"] == []
    assert int8["left_out"] == "ModuleNotFoundError: No module named 'torchao'"


def test_with_memory_kept_the_cpu_has_a_record_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "measure", timing.about)
    monkeypatch.setattr(timing, "try_all_gpus", lambda: [torch.device("cuda")])
    arguments = ["time", "--keep-memory", "--results", str(tmp_path)]
    monkeypatch.setattr(timing, "keep_memory", lambda: False)
    assert main(arguments) == 2
    assert "C library" in capsys.readouterr().err and not list(tmp_path.iterdir())
    monkeypatch.setattr(timing, "keep_memory", lambda: True)
    assert main(arguments) == 0
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("cpu-") and file.name.endswith("-memory-kept.json")
    assert json.loads(file.read_text("utf-8"))["memory_kept"] is True


def test_the_books_records_are_of_these_plans():
    for file in (BOOK / "results/speed").glob("[!b]*.json"):  # not beside-d2l.json
        plan = engines.PLAN if file.stem.endswith("engines") else timing.Plan()
        recorded = json.loads(file.read_text(encoding="utf-8"))["plan"]
        assert json.loads(json.dumps(dataclasses.asdict(plan))).items() <= recorded.items(), file


def test_the_small_networks_are_those_of_exercise_4():
    grid = load_grid(BOOK / "experiments/low_resolution.toml")
    for name, variant in (("low resolution", "final"), ("fast", "fastest")):
        c = grid.variants[variant]
        net = d2l.VGG(c.arch, head=c.head, batch_norm=c.batch_norm)
        assert str(timing.SMALL_NETWORKS[name]()) == str(net), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_file_is_named_after_the_machine(precision, monkeypatch):
    monkeypatch.setattr(clock, "fast_precision", lambda device: precision)
    machine = {"device": "cpu", "processor": "AMD EPYC(TM) 9354", "cores": 2}
    assert clock.file_name(machine, CPU) == f"cpu-amd-epyc-tm-9354-2-cores-{precision}"
    card = machine | {"device": "NVIDIA H100 80GB HBM3"}
    assert clock.file_name(card, torch.device("cuda:0")) == "nvidia-h100-80gb-hbm3"


def test_a_bare_gpu_machine_can_run_it():
    """No torchvision, no torchao, no Matplotlib, no notebook."""
    others = ["IPython", "matplotlib", "matplotlib_inline", "torchao", "torchvision", "tqdm"]
    script = f"import sys; sys.modules |= dict.fromkeys({others}); import d2l_lab.__main__"
    subprocess.run([sys.executable, "-c", script], check=True)
