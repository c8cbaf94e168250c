"""The further names that D2L's package has from its chapters 2 to 8; imported when asked for."""

# ruff: noqa: D102 (the book explains the methods)

import time
from itertools import accumulate, chain, cycle

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from d2l_utils.board import set_figsize
from d2l_utils.data import DataModule
from d2l_utils.hyperparameters import HyperParameters
from d2l_utils.module import Classifier, Module

__all__ = ["SGD", "LeNet", "LinearRegression", "LinearRegressionScratch", "ResNeXtBlock"]
__all__ += ["Residual", "SoftmaxRegression", "SyntheticRegressionData", "Timer", "corr2d"]
__all__ += ["plot", "set_axes"]

# What the book's code for all frameworks calls the operations on tensors.
_SAME = """abs arange argmax cos cosh exp eye float32 int32 int64 linspace log matmul meshgrid
normal ones ones_like rand randn reshape sigmoid sin sinh stack swapaxes tanh tensor zeros
zeros_like"""
TENSORS = {name: getattr(torch, name) for name in _SAME.split()} | {
    "astype": torch.Tensor.type, "batch_matmul": torch.bmm, "concat": torch.cat,
    "expand_dims": torch.unsqueeze, "nn_Module": nn.Module, "reduce_mean": torch.mean,
    "reduce_sum": torch.sum, "repeat": torch.Tensor.repeat, "size": torch.numel,
    "to": torch.Tensor.to, "transpose": torch.t,
    "numpy": lambda x, *arguments, **options: x.detach().numpy(*arguments, **options),
}  # fmt: skip


class SyntheticRegressionData(DataModule):
    """Points on a plane with noise: `X` is standard normal, `(n, len(w))`; `y = Xw + b + noise`."""

    def __init__(self, w, b, noise=0.01, num_train=1000, num_val=1000, batch_size=32):
        super().__init__()
        self.save_hyperparameters()
        n = num_train + num_val
        self.X = torch.randn(n, len(w))
        self.y = self.X @ w.reshape(-1, 1) + b + noise * torch.randn(n, 1)

    def get_dataloader(self, train):
        rows = slice(0, self.num_train) if train else slice(self.num_train, None)
        return self.get_tensorloader((self.X, self.y), train, rows)


class LinearRegressionScratch(Module):
    """A linear model made of two tensors, with half the squared error as its loss."""

    def __init__(self, num_inputs, lr, sigma=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.w = torch.normal(0, sigma, (num_inputs, 1), requires_grad=True)
        self.b = torch.zeros(1, requires_grad=True)

    def forward(self, X):
        return X @ self.w + self.b

    def loss(self, y_hat, y):
        return ((y_hat - y) ** 2 / 2).mean()

    def configure_optimizers(self):
        return SGD([self.w, self.b], self.lr)


class SGD(HyperParameters):
    """Gradient descent on minibatches: a parameter moves by `-lr` times its gradient."""

    def __init__(self, params, lr):
        self.save_hyperparameters()

    @torch.no_grad()
    def step(self):
        for param in self.params:
            param -= self.lr * param.grad

    def zero_grad(self):
        for param in self.params:
            if param.grad is not None:
                param.grad.zero_()


class LinearRegression(Module):
    """A linear model made of one lazy layer, with the squared error as its loss."""

    def __init__(self, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.LazyLinear(1)
        self.net.weight.data.normal_(0, 0.01)
        self.net.bias.data.fill_(0)

    def loss(self, y_hat, y):
        return F.mse_loss(y_hat, y)

    def get_w_b(self):
        return self.net.weight.data, self.net.bias.data


class SoftmaxRegression(Classifier):
    """One linear layer on the pixels of an image."""

    def __init__(self, num_outputs, lr):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_outputs))


class LeNet(Classifier):
    """LeNet-5 with average pooling and sigmoids (LeCun et al., 1998), for images of 28 x 28."""

    def __init__(self, lr=0.1, num_classes=10):
        super().__init__()
        self.save_hyperparameters()
        convolutions = nn.LazyConv2d(6, 5, padding=2), nn.LazyConv2d(16, 5)
        blocks = ((conv, nn.Sigmoid(), nn.AvgPool2d(2)) for conv in convolutions)
        dense = ((nn.LazyLinear(width), nn.Sigmoid()) for width in (120, 84))
        layers = chain(*blocks, [nn.Flatten()], *dense, [nn.LazyLinear(num_classes)])
        self.net = nn.Sequential(*layers)


def _convolution(channels, *arguments, **options):
    return [nn.LazyConv2d(channels, *arguments, **options), nn.LazyBatchNorm2d()]


class Residual(nn.Module):
    """A residual block of two 3 x 3 convolutions (He et al., 2015, arXiv 1512.03385)."""

    def __init__(self, num_channels, use_1x1conv=False, strides=1):
        super().__init__()
        first = _convolution(num_channels, 3, padding=1, stride=strides)
        self.net = nn.Sequential(*first, nn.ReLU(), *_convolution(num_channels, 3, padding=1))
        shortcut = [nn.LazyConv2d(num_channels, 1, stride=strides)] if use_1x1conv else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, X):
        return F.relu(self.net(X) + self.shortcut(X))


class ResNeXtBlock(Residual):
    """A residual block whose 3 x 3 convolution is grouped (Xie et al., 2016, arXiv 1611.05431)."""

    def __init__(self, num_channels, groups, bot_mul, use_1x1conv=False, strides=1):
        nn.Module.__init__(self)
        width = round(num_channels * bot_mul)
        grouped = _convolution(width, 3, stride=strides, padding=1, groups=width // groups)
        ends = _convolution(num_channels, 1)
        self.net = nn.Sequential(*_convolution(width, 1), nn.ReLU(), *grouped, nn.ReLU(), *ends)
        shortcut = _convolution(num_channels, 1, stride=strides) if use_1x1conv else []
        self.shortcut = nn.Sequential(*shortcut)


def corr2d(X, K):
    """Return the two-dimensional cross-correlation of `X` with the kernel `K`.

    >>> corr2d(torch.arange(9.0).reshape(3, 3), torch.arange(4.0).reshape(2, 2))
    tensor([[19., 25.],
            [37., 43.]])
    """
    windows = X.unfold(0, K.shape[0], 1).unfold(1, K.shape[1], 1)
    return (windows * K).sum(dim=(-2, -1))


class Timer:
    """A stopwatch that keeps its times, in seconds; it starts at once."""

    def __init__(self):
        self.times = []
        self.start()

    def start(self):
        self.tik = time.time()

    def stop(self):
        self.times.append(time.time() - self.tik)
        return self.times[-1]

    def avg(self):
        return self.sum() / len(self.times)

    def sum(self):
        return sum(self.times)

    def cumsum(self):
        return list(accumulate(self.times))


def plot(X, Y=None, xlabel=None, ylabel=None, legend=(), xlim=None, ylim=None,
         xscale="linear", yscale="linear", fmts=("-", "m--", "g-.", "r:"), figsize=(3.5, 2.5),
         axes=None):  # fmt: skip
    """Plot curves: each `Y` over its `X`, or over the only one, or each `X` over its index."""

    def curves(values):
        is_one = getattr(values, "ndim", 0) == 1 or not hasattr(values[0], "__len__")
        return [values] if is_one else list(values)

    xs, ys = ([()], curves(X)) if Y is None else (curves(X), curves(Y))
    if len(xs) != len(ys):
        xs = xs * len(ys)
    from matplotlib import pyplot as plt

    set_figsize(figsize)
    axes = axes or plt.gca()
    axes.cla()
    for x, y, fmt in zip(xs, ys, cycle(fmts), strict=False):
        axes.plot(*([x, y] if len(x) else [y]), fmt)
    set_axes(axes, xlabel, ylabel, xlim, ylim, xscale, yscale, legend)


def set_axes(axes, xlabel, ylabel, xlim, ylim, xscale, yscale, legend):
    """Set labels, limits, scales, legend and grid of Matplotlib's axes."""
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale, yscale=yscale, xlim=xlim, ylim=ylim)
    if legend:
        axes.legend(legend)
    axes.grid()
