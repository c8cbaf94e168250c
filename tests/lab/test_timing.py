"""What is measured, and that its record is whole. No test asks how fast anything is."""

import dataclasses
import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch

import d2l_utils as d2l
from d2l_lab import timing
from d2l_lab.__main__ import main

SMALL = dataclasses.replace(timing.QUICK, side=32, head_batches=(2,))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """Heads of four thousand units would take all the time of these tests."""

    def small(num_convs):
        return lambda: d2l.VGG(((num_convs, 2), (1, 4)), timing.LR, head=(8,))

    monkeypatch.setattr(timing, "NETWORKS", {"VGG-11": small(2), "narrow VGG-11": small(1)})


@pytest.fixture(autouse=True)
def same_threads():
    """The command sets the threads of its process; with more of them than free cores, the tiny
    steps of the tests that come next in this process would wait for each other."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_heads(monkeypatch):
    def heads(side, ranks, keep):
        def missing():
            raise ModuleNotFoundError("No module named 'torchao'")

        return {"fc4096": lambda: torch.nn.Flatten(), "int8": missing}

    monkeypatch.setattr(timing, "_heads", heads)


def test_times_are_taken_in_turn(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_seconds", lambda run, plan: run() or float(len(order)))
    plan = dataclasses.replace(SMALL, rounds=2)
    rows = timing.in_turn(
        [({"row": name}, lambda name=name: order.append(name)) for name in "ab"], plan
    )
    assert order == ["a", "b", "a", "b"]
    assert rows == [{"row": "a", "seconds": [1.0, 3.0]}, {"row": "b", "seconds": [2.0, 4.0]}]


def test_what_a_card_has_no_room_for_is_left_out(monkeypatch):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    rows = timing.in_turn([({"row": "a"}, full), ({"row": "b"}, lambda: None)], SMALL)
    assert [row["row"] for row in rows] == ["b"]
    trainer = timing._trainer(timing.NETWORKS["VGG-11"], 32, CPU, "float32")
    monkeypatch.setattr(trainer, "step", lambda batch: full())
    assert timing._steps("VGG-11", trainer, 32, (1, 2)) == []


def test_networks_are_measured_in_each_precision_and_batch(monkeypatch):
    monkeypatch.setattr(timing, "fast_precision", lambda device: "bfloat16")
    rows = timing.network_times(CPU, SMALL)
    measured = {(r["network"], r["precision"], r["batch"]) for r in rows}
    assert measured == {
        ("VGG-11", "float32", 1),
        ("narrow VGG-11", "float32", 1),
        ("narrow VGG-11", "float32", 2),
        ("VGG-11", "bfloat16", 1),
        ("narrow VGG-11", "bfloat16", 1),
        ("low resolution", "float32", 2),
        ("low resolution", "bfloat16", 2),
        ("fast", "float32", 2),
        ("fast", "bfloat16", 2),
    }
    assert {r["pass"] for r in rows} == {"step"} and len(rows) == len(measured)
    assert all(len(r["seconds"]) == SMALL.rounds and min(r["seconds"]) > 0 for r in rows)


def test_layers_are_measured_in_order_and_flatten_is_none():
    rows = timing.layer_times(CPU, dataclasses.replace(SMALL, rounds=2))
    assert {r["network"] for r in rows} == {"narrow VGG-11"}
    head = ["Linear", "ReLU", "Dropout", "Linear"]
    assert [r["kind"] for r in rows] == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + head
    names = {name for name, _ in d2l.VGG(((1, 2), (1, 4)), head=(8,)).named_modules()}
    assert {r["layer"] for r in rows} <= names
    assert all(len(r["forward"]) == len(r["backward"]) == 2 for r in rows)


def test_heads_give_what_their_names_say():
    heads = timing._heads(32, ((16, 8),), (0.25,))
    X = torch.randn(2, 128, 1, 1)
    made = {name: make().eval() for name, make in heads.items() if name not in ("int8", "blocks")}
    weights = {name: sum(p.numel() for p in net.parameters()) for name, net in made.items()}
    with torch.no_grad():
        assert {name: net(X).shape for name, net in made.items()} == dict.fromkeys(made, (2, 10))
        logits = {name: net(X) for name, net in made.items()}
    whole = 129 * 4096 + 4097 * 4096 + 4097 * 10
    assert weights["fc4096"] == weights["conv"] == weights["pruned-25"] == whole
    assert weights["fc1024"] == 129 * 1024 + 1025 * 1024 + 1025 * 10
    assert weights["none"] == weights["gap"] == 129 * 10
    assert weights["svd-16-8"] == 128 * 16 + 17 * 4096 + 4096 * 8 + 9 * 4096 + 4097 * 10
    torch.testing.assert_close(logits["conv"], logits["fc4096"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits["pruned-25-sparse"], logits["pruned-25"], atol=1e-4, rtol=0)
    first = made["pruned-25"][1].weight
    assert first.count_nonzero() == first.numel() / 4
    assert made["pruned-25-sparse"][1].weight.layout == torch.sparse_csr
    assert heads["blocks"]()(torch.randn(2, 1, 32, 32)).shape == X.shape


def test_a_head_that_cannot_run_says_why(small_heads):
    plan = dataclasses.replace(SMALL, ranks=((32, ()),))
    rows = {r["head"]: r for r in timing.head_times(CPU, plan)}
    assert rows["int8"]["seconds"] == []
    assert rows["int8"]["left_out"] == "ModuleNotFoundError: No module named 'torchao'"
    assert len(rows["fc4096"]["seconds"]) == 1


def test_rates_name_what_they_moved_or_multiplied(monkeypatch):
    monkeypatch.setattr(timing, "in_turn", lambda rows, plan: [row for row, _ in rows])
    product, copy = timing.rates(CPU, SMALL)
    assert product == {"rate": "float32 product", "macs": 2048**3}
    assert copy == {"rate": "copy into new memory", "bytes": 2 * 4 * 2**26}


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


def test_the_command_writes_one_whole_record(tmp_path, monkeypatch, small_heads, capsys):
    monkeypatch.setattr(timing, "QUICK", SMALL)
    arguments = ["--quick", "--device", "cpu", "--threads", "1", "--results", str(tmp_path)]
    assert main(["time", *arguments]) == 0
    (file,) = tmp_path.iterdir()
    assert str(file) in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["hardware"]["threads"] == 1
    assert record["plan"]["rounds"] == 1
    assert record["memory_kept"] is False
    assert {"hardware", "versions", "tf32", "finished"} <= record.keys()
    assert record["peak_memory"] == []  # that is a GPU's
    for part in ("rates", "network_times", "layer_times", "head_times"):
        assert record[part]


def test_with_memory_kept_the_cpu_has_a_record_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "measure", lambda device, plan: {"hardware": timing.hardware(CPU)})
    monkeypatch.setattr(timing, "try_all_gpus", lambda: [torch.device("cuda")])
    monkeypatch.setattr(timing, "keep_memory", lambda: True)
    arguments = ["--keep-memory", "--threads", "1", "--results", str(tmp_path)]
    assert main(["time", *arguments]) == 0
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("cpu-") and file.name.endswith("-memory-kept.json")
    assert json.loads(file.read_text())["memory_kept"] is True

    monkeypatch.setattr(timing, "keep_memory", lambda: False)
    file.unlink()
    assert main(["time", *arguments]) == 2
    assert "C library" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(timing, "try_all_gpus", lambda: [CPU])
    assert main(["time", "--device", "cuda"]) == 2
    assert "no device 'cuda'" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_file_is_named_after_the_machine(precision, monkeypatch):
    monkeypatch.setattr(timing, "fast_precision", lambda device: precision)
    machine = {"device": "cpu", "processor": "AMD EPYC(TM) 9354", "cores": 2}
    assert timing.file_name(machine, CPU) == f"cpu-amd-epyc-tm-9354-2-cores-{precision}"
    card = {"device": "NVIDIA H100 80GB HBM3", "processor": "", "cores": 16}
    assert timing.file_name(card, torch.device("cuda:0")) == "nvidia-h100-80gb-hbm3"


def test_a_bare_gpu_machine_can_run_it():
    """No torchvision, no torchao, no Matplotlib, no notebook."""
    others = ["IPython", "matplotlib", "matplotlib_inline", "torchao", "torchvision", "tqdm"]
    script = f"import sys; sys.modules |= dict.fromkeys({others}); import d2l_lab.__main__"
    subprocess.run([sys.executable, "-c", script], check=True)
