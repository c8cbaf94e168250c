"""Batches of images, resized and augmented on their device."""

from functools import lru_cache
from math import gcd

import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

__all__ = ["AUGMENTATIONS", "augment_images", "resize_images"]

AUGMENTATIONS = ("flip", "crop")

_BITS = 22  # binary places of a weight in PIL


def resize_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return uint8 images `(n, 1, h, w)` as float32 on [0, 1], in a new size.

    They are PIL's very pixels on any device; only a GPU's division by 255 may differ in the last
    bit. `F.interpolate`, which is quicker, gives the same at many sizes, such as 56, 96 and 224,
    and is off by one grey level at others, such as 20 and 72: there whole numbers are summed.

    Raises:
        TypeError: if the images are not uint8.

    >>> resize_images(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8), (2, 2)).unique()
    tensor([1.])
    """
    if images.dtype != torch.uint8:  # others would be divided by 255 all the same
        raise TypeError(f"images are {images.dtype}; they must be torch.uint8, from 0 to 255")
    if images.shape[-2:] == size:
        grey = images
    elif images.is_cpu and all(map(_is_exact, images.shape[-2:], size)):
        grey = _interpolate(images, size)
    else:
        grey = _resample(_resample(images.int(), -1, size[1]), -2, size[0])
    grey = grey.to(torch.float, memory_format=torch.contiguous_format)
    return grey.div_(255).view(len(images), 1, *size)


def _interpolate(images, size):
    """Return resized images, four of them as the channels of one: so torch is at its quickest."""
    channels = gcd(len(images), 4)
    groups = images.reshape(len(images) // channels, channels, *images.shape[-2:])
    groups = groups.contiguous(memory_format=torch.channels_last)
    return F.interpolate(groups, size, mode="bilinear", antialias=True)


@lru_cache
def _is_exact(before: int, after: int) -> bool:
    """Say whether `_interpolate` gives PIL's pixels on this processor, from sides of `before`.

    To enlarge, both sum two neighbours with whole weights. As the difference between neighbours
    stays and their level rises, the sums can only drift apart, so the ends of the scale decide.
    """
    if after <= before:
        return after == before
    grey = torch.arange(256, dtype=torch.uint8)
    black, white = torch.zeros_like(grey), torch.full_like(grey, 255)
    even, odd = torch.cat([black, grey, grey, white]), torch.cat([grey, black, white, grey])
    across = torch.stack([even, odd], dim=1).repeat(1, before // 2 + 1)[None, None, :, :before]
    return all(
        torch.equal(_interpolate(images, size), _resample(images.int(), dim, after).byte())
        for images, dim, size in (
            (across, -1, (len(even), after)),
            (across.mT, -2, (after, len(even))),
        )
    )


def _resample(images, dim, after):
    """Return int32 images with `after` pixels along `dim`: weighted sums of the old ones."""
    total = None
    for places, weights in _taps(images.shape[dim], after, images.device):
        term = images.index_select(dim, places).mul_(weights if dim == -1 else weights[:, None])
        total = term if total is None else total.add_(term)
    return total.add_(2 ** (_BITS - 1)).bitwise_right_shift_(_BITS)  # rounded


@lru_cache
def _taps(before: int, after: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return pairs of places and weights: which old pixels, how much of each, make each new one.

    As PIL has them, the weights are a triangle around the new pixel's centre, as wide as the larger
    of both pixels, and are rounded to 22 binary places. A sum over 8-bit pixels fits 31 bits.
    """
    scale = before / after
    centres = (torch.arange(after, dtype=torch.double)[:, None] + 0.5) * scale
    distances = (torch.arange(before, dtype=torch.double) + 0.5 - centres).abs() / max(scale, 1)
    weights = (1 - distances).clamp(min=0)
    weights /= weights.sum(dim=1, keepdim=True)
    weights = (weights * 2**_BITS + 0.5).int()
    taps = int(weights.count_nonzero(dim=1).max())
    first = (weights > 0).int().argmax(dim=1).clamp(max=before - taps)
    places = first + torch.arange(taps)[:, None]
    chosen = weights.T.gather(0, places)
    return [(p.to(device), w.to(device)) for p, w in zip(places, chosen, strict=True)]


def augment_images(X, names, generator):
    """Return the batch, each image flipped or shifted at random as `names` asks for."""
    n, _, h, w = X.shape

    def draw(high):
        return torch.randint(high, (n,), generator=generator).to(X.device)

    if "crop" in names:
        pad = 2
        X = F.pad(X, (pad,) * 4)
        rows = draw(2 * pad + 1)[:, None, None] + torch.arange(h, device=X.device)[None, :, None]
        cols = draw(2 * pad + 1)[:, None, None] + torch.arange(w, device=X.device)[None, None, :]
        X = X[torch.arange(n, device=X.device)[:, None, None], 0, rows, cols].unsqueeze(1)
    if "flip" in names:
        X = torch.where(draw(2).bool()[:, None, None, None], X.flip(-1), X)
    return X
