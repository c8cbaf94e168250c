"""Batches of images, resized and augmented on their device."""

from functools import lru_cache

import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

__all__ = ["AUGMENTATIONS", "augment_images", "resize_images"]

AUGMENTATIONS = ("flip", "crop")


def resize_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return uint8 images `(n, 1, h, w)` as float32 on [0, 1], in a new size.

    They are PIL's very pixels, on any device; only a GPU's division by 255 may differ in the last
    bit. `F.interpolate` gives these in some sizes only, such as 56 and 224; in others, such as 20,
    it is off by a grey level, and so it is on a GPU.

    >>> resize_images(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8), (2, 2)).unique()
    tensor([1.])
    """
    h, w = images.shape[-2:]
    if (h, w) == tuple(size):
        return images.float() / 255
    rows = _resize_weights(h, size[0], images.device)
    columns = _resize_weights(w, size[1], images.device)

    def resample(images):
        images = (images.double() @ columns.T).add_(0.5).floor_()
        return (rows @ images).add_(0.5).floor_().float().div_(255)

    # Few images at a time stay in a CPU's cache.
    return torch.cat([*map(resample, images.split(8 if images.is_cpu else len(images)))])


@lru_cache
def _resize_weights(before: int, after: int, device: torch.device) -> torch.Tensor:
    """Return the weight of each old pixel in each new one, `(after, before)`, as PIL has them.

    They are a triangle around the new pixel's centre, as wide as the larger of both pixels, and
    have 22 binary places: so doubles add them up without any error.
    """
    scale = before / after
    centres = (torch.arange(after, dtype=torch.double)[:, None] + 0.5) * scale
    distances = (torch.arange(before, dtype=torch.double) + 0.5 - centres).abs() / max(scale, 1)
    weights = (1 - distances).clamp(min=0)
    weights /= weights.sum(dim=1, keepdim=True)
    return ((weights * 2**22 + 0.5).floor() / 2**22).to(device)


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
