"""A head in int8 by engine: that each computes the head, and what a record holds."""

import json

import pytest
import torch
from torch import nn

from d2l_lab import compress, engines
from d2l_lab.__main__ import main
from d2l_lab.clock import about
from d2l_utils.data import FashionMNIST, ImageSet

NOT_HERE = {"ONNX Runtime, float32", "ONNX Runtime, int8", "torchao, int8, compiled"}


def head_and_maps():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).eval()
    return head, torch.randn(32, 16, 2, 2).relu()


@pytest.mark.parametrize("name", engines.ENGINES)
def test_each_engine_computes_the_head(name, request):
    if name.startswith("torchao"):
        request.getfixturevalue("int8_adds_up")
    if name.startswith("ONNX"):
        pytest.importorskip("onnxruntime")
        # Once the exporter is loaded, a first backward pass forbids to copy the process, as
        # tests/library/test_distributed.py does later.
        torch.ones((), requires_grad=True).backward()
    if name.endswith("compiled"):
        pytest.skip("a C++ compiler may be missing, and takes a minute")
    head, X = head_and_maps()
    with compress.quiet(), torch.no_grad():
        forward, size = engines.ENGINES[name](head, X, 1)
        error = (forward(X) - head(X)).norm() / head(X).norm()
        assert forward(X[:5]).shape == (5, 10)  # a record has other batches
    weights = 4 * sum(p.numel() for p in head.parameters())
    assert error < (1e-5 if "float32" in name else 0.03)
    assert error > 0 or "float32" in name  # it is not the head itself
    assert weights <= size < 2 * weights if "float32" in name else size < weights


def test_a_record_has_a_row_per_engine_threads_and_batch(tmp_path, monkeypatch):
    few = {name: make for name, make in engines.ENGINES.items() if name not in NOT_HERE}
    monkeypatch.setattr(engines, "ENGINES", few)
    monkeypatch.setattr(engines, "SIDES", (32,))
    monkeypatch.setattr(engines, "accuracies", lambda: dict.fromkeys(few, 0.9))
    monkeypatch.setattr(engines, "about", lambda device, plan, *_: about(device, plan))
    threads = torch.get_num_threads()
    try:
        assert main(["time", "--part", "engines", "--quick", "--results", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)  # the command leaves those that it timed last
    (file,) = tmp_path.iterdir()
    rows = json.loads(file.read_text("utf-8"))["times"]
    cases = [(row["engine"], row["threads"], row["batch"]) for row in rows]
    assert cases == [(name, n, b) for n in (1, 2) for name in few for b in (1, 64)]
    assert all(len(row["seconds"]) == 1 for row in rows)


def test_accuracies_are_those_of_exercise_4s_network(monkeypatch):
    class Few(FashionMNIST):
        def __init__(self, batch_size):
            super().__init__(batch_size)
            self.val = ImageSet(self.val.data[:500], self.val.targets[:500], self.resize)

    monkeypatch.setattr(engines, "FashionMNIST", Few)
    float32 = engines.ENGINES["PyTorch, float32"]
    monkeypatch.setattr(engines, "ENGINES", {"float32": float32})
    with torch.no_grad():
        assert engines.accuracies() == {"float32": pytest.approx(0.945, abs=0.03)}
