"""Holds d2l 1.0.3 and d2l_utils beside each other: `python beside_d2l.py ROOT RESULT.json`.

ROOT is a folder with the four files where torchvision looks for them.
"""

import contextlib
import hashlib
import io
import json
import sys
import traceback
import warnings

import matplotlib

matplotlib.use("Agg")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from d2l import torch as theirs  # noqa: E402
from sections import kept, use_root  # noqa: E402
from sections_later import SECTIONS  # noqa: E402
from torch import nn  # noqa: E402

import d2l_utils as ours  # noqa: E402

BOTH = {"theirs": theirs, "ours": ours}


def run_sections():
    """Returns for each section None, or the error, of both packages."""
    return {
        number: {k: error_of(f, d2l) for k, d2l in BOTH.items()} for number, f in SECTIONS.items()
    }


def error_of(function, d2l):
    classes = [c for c in (*vars(d2l).values(), d2l.SyntheticRegressionData) if isinstance(c, type)]
    of_d2l = [cls for cls in classes if cls.__module__.startswith("d2l")]
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()), kept(of_d2l):
            function(d2l)
    except Exception:
        return traceback.format_exc(limit=-1)
    return None


def lenet(d2l):
    class LeNet(d2l.Classifier):
        def __init__(self, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.losses = []
            conv = (nn.LazyConv2d(6, kernel_size=5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2, 2))
            dense = (nn.LazyLinear(84), nn.Sigmoid(), nn.LazyLinear(num_classes))
            self.net = nn.Sequential(*conv, nn.Flatten(), *dense)

        def training_step(self, batch):
            loss = super().training_step(batch)
            self.losses.append(float(loss.detach()))
            return loss

    return LeNet(lr=0.3)


def measure(d2l):
    """Returns what must be the same with either package."""
    pixels = {}
    for size in ((28, 28), (56, 56), (96, 96), (20, 20), (224, 224)):
        data = d2l.FashionMNIST(batch_size=64, resize=size)
        X, y = next(iter(data.val_dataloader()))
        pixels[str(size)] = [hashlib.sha256(X.numpy().tobytes()).hexdigest(), y.tolist()]

    class Ordered(d2l.DataModule):
        def __init__(self, data):
            super().__init__()
            self.batch_size = 64
            train = [data.train[i] for i in range(1024)]
            self.tensors = torch.stack([x for x, _ in train]), torch.tensor([y for _, y in train])

        def get_dataloader(self, train):
            return self.get_tensorloader(self.tensors, False, slice(0, None))

    torch.manual_seed(0)
    model, data = lenet(d2l), Ordered(d2l.FashionMNIST())
    model.board.display = False
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], d2l.init_cnn)
    summary = io.StringIO()
    with contextlib.redirect_stdout(summary):
        model.layer_summary((1, 1, 28, 28))
    trainer = d2l.Trainer(max_epochs=1)
    trainer.fit(model, data)
    model.eval()
    X, y = data.tensors
    with torch.no_grad():
        accuracy, loss = model.accuracy(model(X), y), model.loss(model(X), y)
    networks = {
        "LeNet": (d2l.LeNet, ()),
        "SoftmaxRegression": (d2l.SoftmaxRegression, (10, 0.1)),
        "Residual": (d2l.Residual, (6, True, 2)),
        "ResNeXtBlock": (d2l.ResNeXtBlock, (32, 16, 1, True, 2)),
    }
    outputs = {}
    for name, (cls, arguments) in networks.items():
        torch.manual_seed(0)
        X = torch.rand(2, 1, 28, 28)
        outputs[name] = cls(*arguments)(X).flatten().tolist()
    return {
        "pixels": pixels,
        "outputs": outputs,
        "labels": d2l.FashionMNIST().text_labels(range(10)),
        "summary": summary.getvalue(),
        "hyperparameters": str(model.hparams),
        "losses_of_16_steps": model.losses,
        "accuracy and loss": [accuracy.item(), loss.item()],
        "validation": [float(p.y) for p in model.board.data["val_acc"]],
        "steps": [trainer.train_batch_idx, trainer.val_batch_idx],
    }


if __name__ == "__main__":
    root, result = sys.argv[1:]
    for d2l in BOTH.values():
        use_root(d2l, root)
    found = {"sections": run_sections(), **{k: measure(d2l) for k, d2l in BOTH.items()}}
    with open(result, "w", encoding="utf-8") as file:
        json.dump(found, file)
