"""The networks of the section: VGG blocks, VGG, the paper's Table 1 as data, and AlexNet."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from d2l_utils.module import Classifier, init_cnn

__all__ = ["VGG", "VGG_ARCHS", "VGG_NARROW", "AlexNet", "vgg_block"]

Arch = Sequence[tuple[int | Sequence[int | str], int]]

_A = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))

VGG_ARCHS: dict[str, Arch] = {
    "A": _A,
    "A-LRN": (((3, "LRN"), 64), *_A[1:]),
    "B": ((2, 64), (2, 128), (2, 256), (2, 512), (2, 512)),
    "C": ((2, 64), (2, 128), ((3, 3, 1), 256), ((3, 3, 1), 512), ((3, 3, 1), 512)),
    "D": ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
    "E": ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)),
}
"""The columns of Table 1 of Simonyan and Zisserman, 2014, arXiv 1409.1556.

A is VGG-11, B is VGG-13, C and D have 16 weight layers (D is what is called VGG-16), E is VGG-19.

:meta hide-value:
"""

VGG_NARROW: Arch = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
"""VGG-11 with a quarter of its channels, which the section trains on Fashion-MNIST.

:meta hide-value:
"""


def vgg_block(
    num_convs: int | Sequence[int | str], out_channels: int, *, batch_norm: bool = False
) -> nn.Sequential:
    """Return a VGG block: convolutions with ReLU, then a 2 x 2 max pooling that halves the image.

    `(n, c, h, w)` becomes `(n, out_channels, h // 2, w // 2)`.

    Args:
        num_convs: the number of 3 x 3 convolutions; or a list of what the block holds: odd kernel
            sizes, and "LRN" for local response normalisation, as in the paper's C and A-LRN.
        out_channels: channels that each convolution gives.
        batch_norm: normalise after each convolution, which then needs no bias.

    Raises:
        ValueError: if there is no convolution, an even kernel, or no channel.

    >>> print(vgg_block(1, 64))
    Sequential(
      (0): LazyConv2d(0, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (1): ReLU()
      (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    )
    """
    if out_channels < 1:
        raise ValueError(f"out_channels is {out_channels}; it must be at least 1")
    parts = [3] * num_convs if isinstance(num_convs, int) else list(num_convs)
    if not any(isinstance(part, int) for part in parts):
        raise ValueError(f"num_convs is {num_convs!r}; it must give at least one convolution")

    layers: list[nn.Module] = []
    for part in parts:
        if part == "LRN":
            # The constants are the AlexNet paper's, to which VGG's refers; its alpha of 1e-4
            # multiplies a sum over 5 channels, torch's a mean.
            layers.append(nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
            continue
        if not isinstance(part, int) or part < 1 or part % 2 == 0:  # even ones shift the image
            raise ValueError(f'num_convs holds {part!r}; it must be odd kernel sizes or "LRN"')
        layers.append(nn.LazyConv2d(out_channels, part, padding=part // 2, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.LazyBatchNorm2d())
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, stride=2))


class VGG(Classifier):
    """VGG: blocks of convolutions, then fully connected layers.

    Images are `(n, channels, h, w)`, with any number of channels; each block halves h and w, so
    they must be at least 2 to the number of blocks. The output is logits, `(n, num_classes)`.

    Args:
        arch: one `(num_convs, out_channels)` per block, as `vgg_block` takes them, such as
            `VGG_ARCHS["D"]`.
        lr: learning rate of plain SGD.
        num_classes: number of logits.
        head: widths of the hidden fully connected layers, each with ReLU and dropout 0.5; or
            "gap": global average pooling instead of them.
        batch_norm: normalise after each convolution.

    Raises:
        ValueError: if an argument is not one of these.

    Source: Simonyan and Zisserman, 2014, arXiv 1409.1556. Weights are drawn by Xavier's rule.

    >>> import torch
    >>> VGG(VGG_NARROW, lr=0.01)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        arch: Arch,
        lr: float = 0.1,
        num_classes: int = 10,
        *,
        head: Sequence[int] | Literal["gap"] = (4096, 4096),
        batch_norm: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters()
        if not arch or isinstance(arch, str):
            raise ValueError(f'arch is {arch!r}; it must be blocks, such as VGG_ARCHS["A"]')
        self.net = nn.Sequential(
            *(vgg_block(*block, batch_norm=batch_norm) for block in arch),
            *_head(head),
            _linear("num_classes", num_classes),
        )
        self.net.apply(init_cnn)


class AlexNet(Classifier):
    """AlexNet as the section before VGG builds it: not torchvision's, which has fewer channels.

    Images are `(n, channels, h, w)`, usually of 224 x 224; logits are `(n, num_classes)`.

    Source: Krizhevsky, Sutskever and Hinton, 2012. Weights are drawn by Xavier's rule.

    >>> import torch
    >>> AlexNet()(torch.zeros(1, 1, 224, 224)).shape
    torch.Size([1, 10])
    """

    def __init__(self, lr: float = 0.1, num_classes: int = 10):
        super().__init__()
        self.save_hyperparameters()

        def conv(channels, kernel_size, **options):
            return nn.LazyConv2d(channels, kernel_size, **options), nn.ReLU()

        self.net = nn.Sequential(
            *conv(96, kernel_size=11, stride=4, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *conv(256, kernel_size=5, padding=2),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *conv(384, kernel_size=3, padding=1),
            *conv(384, kernel_size=3, padding=1),
            *conv(256, kernel_size=3, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *_head((4096, 4096)),
            _linear("num_classes", num_classes),
        )
        self.net.apply(init_cnn)


def _head(head: Sequence[int] | str) -> list[nn.Module]:
    """Return the layers between the last block and the last linear layer."""
    if head == "gap":
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if isinstance(head, str):
        raise ValueError(f'head is {head!r}; it must be a list of widths, or "gap"')
    layers: list[nn.Module] = [nn.Flatten()]
    for width in head:
        layers += [_linear("a width of head", width), nn.ReLU(), nn.Dropout(0.5)]
    return layers


def _linear(name: str, width: int) -> nn.Module:
    # Torch takes no outputs at all, and the loss of none is nan.
    if width < 1:
        raise ValueError(f"{name} is {width}; it must be at least 1")
    return nn.LazyLinear(width)
