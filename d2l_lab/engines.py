"""Exercise 1.3's big head in int8, as people deploy it, beside float32 and bfloat16.

It takes five minutes, in which the machine should rest, and needs what
`pip install -e .[engines]` brings: ONNX, its exporter, ONNX Runtime and torchao.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from d2l_lab import compress
from d2l_lab.clock import REPOSITORY, about, file_name, in_turn, keep
from d2l_lab.heads import SPLIT, narrow
from d2l_lab.timing import Plan
from d2l_lab.weights import load_model
from d2l_utils.data import FashionMNIST
from d2l_utils.device import cpu

PLAN = Plan(rounds=5, seconds=0.1)
QUICK = Plan(rounds=1, seconds=0)
THREADS = (1, 2)
SIDES = (32, 224)  # of the images: the head reads 128 numbers, or 6,272
WEIGHTS = REPOSITORY / "book/results/low_resolution/final.safetensors"


# --- the engines: from a head, maps and threads to a function of maps, and the bytes of a file ----


def _bfloat16(head, X, threads):
    low = deepcopy(head).bfloat16()
    return lambda X: low(X.bfloat16()).float(), _saved(low)


def _torch_ao(head, X, threads):
    small = torch.ao.quantization.quantize_dynamic(head, {nn.Linear}, dtype=torch.qint8)
    return small, _saved(small)


def _torchao(head, X, threads):
    model = nn.Module()
    model.net = head
    small = compress.int8(model).net
    return small, _saved(small)


def _compiled(head, X, threads):
    small, size = _torchao(head, X, threads)
    return torch.compile(small, dynamic=False), size


def _onnx(head, X, threads, int8=False):
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        file = Path(folder) / "head.onnx"
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(head, (X,), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            file, whole = file.with_name("int8.onnx"), file
            quantize_dynamic(whole, file, per_channel=True, weight_type=QuantType.QInt8)
        size = sum(part.stat().st_size for part in Path(folder).glob(f"{file.name}*"))
        return _session(file, threads), size


ENGINES: dict[str, Callable] = {
    "PyTorch, float32": lambda head, X, threads: (head, _saved(head)),
    "PyTorch, bfloat16": _bfloat16,
    "ONNX Runtime, float32": _onnx,
    "ONNX Runtime, int8": partial(_onnx, int8=True),
    "torch.ao, int8": _torch_ao,
    "torchao, int8, compiled": _compiled,
    "torchao, int8, eager": _torchao,
}


def _session(file: Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda X: torch.from_numpy(session.run(None, {name: X.numpy()})[0])


def _saved(module) -> int:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.tell()


# --- what is measured ------------------------------------------------------------------------


def measure(plan: Plan) -> dict:
    """Return the record of this machine's CPU."""
    record = about(cpu(), plan, "torchao", "onnx", "onnxruntime")
    with compress.quiet(), torch.no_grad():
        record["times"] = [r for side in SIDES for n in THREADS for r in times(side, n, plan)]
        record["accuracies"] = accuracies()
    return record


def times(side: int, threads: int, plan: Plan) -> list[dict]:
    """Return a row per engine and batch size: bytes, relative error of the logits, seconds.

    The head is the narrow VGG-11's, as it is drawn. The error is the norm of the difference from
    the logits in float32, as a share of their norm, on maps of noise.
    """
    print(f"head at {side}×{side}, threads: {threads}", flush=True)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.compiler.reset()  # it compiles no function more than some times
    head = narrow(side).net[SPLIT:]
    X = torch.randn(max(plan.head_batches), 128, side // 32, side // 32).relu()
    exact, rows = head(X), []
    for engine, make in ENGINES.items():
        forward, size = make(head, X, threads)
        error = float((forward(X) - exact).norm() / exact.norm())
        about = {"side": side, "threads": threads, "engine": engine, "bytes": size, "error": error}
        for batch in plan.head_batches:
            forward(X[:batch])  # a compiler may have to compile once more
            rows.append((about | {"batch": batch}, partial(forward, X[:batch])))
    return in_turn(rows, plan)


def accuracies() -> dict[str, float]:
    """Return the share of the test images that three blocks at 28 x 28 have right, by engine."""
    model, data = load_model(WEIGHTS), FashionMNIST(500)
    features, head = model.net[:-2], model.net[-2:]  # the head: nn.Flatten and a linear layer
    maps = torch.cat([features(X) for X, _ in data.val_dataloader()])
    labels = torch.as_tensor(data.val.targets)
    engines = {name: make(head, maps[:2], 1)[0] for name, make in ENGINES.items()}
    return {n: float((f(maps).argmax(1) == labels).double().mean()) for n, f in engines.items()}


def run(options: argparse.Namespace) -> int:
    """Measure this machine's CPU and write the record."""
    record = measure(QUICK if options.quick else PLAN)
    keep(record, f"{file_name(record['hardware'], cpu())}-engines", options)
    return 0
