"""Fashion-MNIST in memory: found, checked, and resized batch by batch on the training device.

`python -m d2l_utils` brings the data set; with `--check` it only says whether it is there.
"""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from torch.utils import data as torch_data

from d2l_utils.board import show_images
from d2l_utils.device import cpu
from d2l_utils.module import HyperParameters

__all__ = ["DataModule", "FashionMNIST"]

# The files of the official data set, with the MD5 of their uncompressed content: the .gz files of
# different distributors differ.
FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TEXT_LABELS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
AUGMENTATIONS = ("flip", "crop")
HOW_TO_GET_IT = """Fashion-MNIST was not found. Any one of these brings it:
  - apt-get install dataset-fashion-mnist     (Debian and Ubuntu)
  - python -m d2l_utils                       (downloads it with torchvision; needs the network)
  - put the four files, as they are or as .gz, into a folder and set D2L_DATA to it,
    or give it as FashionMNIST(root=...)"""


class DataModule(HyperParameters):
    """The base class of data sets: loaders of batches for training and validation.

    `device` is where batches shall go, for loaders that can put them there themselves; the trainer
    sets it. `generator`, if not None, is the source of the order, kept in checkpoints.

    Args:
        root: the folder of the files.
        num_workers: kept for the book's interface; `get_tensorloader` starts none.

    >>> class Numbers(DataModule):
    ...     batch_size = 2
    ...     def get_dataloader(self, train):
    ...         return self.get_tensorloader([torch.arange(4)], train)
    >>> [batch.tolist() for (batch,) in Numbers().val_dataloader()]
    [[0, 1], [2, 3]]
    """

    device = cpu()
    generator: torch.Generator | None = None

    def __init__(self, root="../data", num_workers: int = 4):
        self.save_hyperparameters()

    def get_dataloader(self, train: bool):
        """Return an iterable of batches with a length; for subclasses to define.

        Raises:
            NotImplementedError: unless a subclass does.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no get_dataloader(train)")

    def train_dataloader(self):
        """Return the batches to train on."""
        return self.get_dataloader(train=True)

    def val_dataloader(self):
        """Return the batches to validate on."""
        return self.get_dataloader(train=False)

    def get_tensorloader(self, tensors, train: bool, indices=slice(0, None)):
        """Return a loader over `indices` of `tensors`, in a new order each epoch if `train`.

        It takes its batch size from `self.batch_size`.
        """
        dataset = torch_data.TensorDataset(*(t[indices] for t in tensors))
        return torch_data.DataLoader(
            dataset, self.batch_size, shuffle=train, generator=self.generator
        )


class ImageSet(torch_data.Dataset):
    """Grey images with labels, held in memory as uint8.

    Item `i` is an image, float32 `(1, h, w)` on [0, 1] in the set's size, and its label.

    Args:
        images: uint8, `(n, h, w)`.
        labels: int64, `(n,)`.
        resize: the size that items have, `(h, w)`.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, resize: tuple[int, int]):
        self.images, self.labels, self.resize = images, labels, resize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return resize_images(self.images[i, None, None], self.resize)[0], int(self.labels[i])


class ImageLoader:
    """Batches of an `ImageSet`, resized and cast on the device they go to."""

    def __init__(self, images: ImageSet, data: "FashionMNIST", train: bool):
        self.images, self.data, self.train = images, data, train

    def __len__(self) -> int:
        return -(-len(self.images) // self.data.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        data, source = self.data, self.images
        n = len(source)
        order = torch.randperm(n, generator=data.generator) if self.train else torch.arange(n)
        for indices in order.split(data.batch_size):
            X = source.images[indices].unsqueeze(1).to(data.device)
            if self.train and data.augment:
                X = _augment(X, data.augment, data.generator)
            yield resize_images(X, data.resize), source.labels[indices].to(data.device)


class FashionMNIST(DataModule):
    """Fashion-MNIST: 60,000 grey images of 28 x 28 to train on and 10,000 to test on, ten classes.

    The files are looked for in `root`, in the folder that the environment variable `D2L_DATA`
    names, in the repository's `data/`, and where the Debian package `dataset-fashion-mnist` puts
    them; failing all, torchvision downloads them. They are checked by their MD5.

    Args:
        batch_size: images a batch.
        resize: height and width that the images are resized to, bilinearly with antialiasing, to
            the very pixels of torchvision's `Resize` and `ToTensor`. (Only where the height
            shrinks and the width grows, Pillow 13 rounds in another order.)
        root: a folder with the four files, plain or as .gz, or with `FashionMNIST/raw` in it.
        num_workers: kept for the book's interface; the images are in memory, so no worker helps.
        holdout: take this many images off the end of the training set and validate on them, so
            that settings can be chosen without a look at the test set. 0: validate on the test set.
        train_size: train on the first `train_size` images only.
        augment: what is done at random to training images: any of "flip" (left to right) and
            "crop" (shifted by up to 2 of the 28 pixels, before resizing; zeros come in).
        seed: fixes the order and the augmentation; None: torch's global generator decides.

    Attributes:
        train: the images to train on, an `ImageSet`.
        val: the images to validate on, an `ImageSet`.

    Raises:
        ValueError: if an argument is outside its range, or a file is not the official one.
        TypeError: if an argument has the wrong type.
        FileNotFoundError: if the data set is neither there nor to be had; it lists ways to get it.

    Source: Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747 (MIT licence).

    >>> data = FashionMNIST(batch_size=32, resize=(56, 56))
    >>> X, y = next(iter(data.val_dataloader()))
    >>> X.shape, data.text_labels(y[:3])
    (torch.Size([32, 1, 56, 56]), ['ankle boot', 'pullover', 'trouser'])
    """

    def __init__(
        self,
        batch_size: int = 64,
        resize: tuple[int, int] = (28, 28),
        root: str | os.PathLike | None = None,
        num_workers: int = 0,
        *,
        holdout: int = 0,
        train_size: int | None = None,
        augment: Sequence[str] = (),
        seed: int | None = None,
    ):
        _check_int("batch_size", batch_size, 1)
        _check_int("num_workers", num_workers, 0)
        _check_int("holdout", holdout, 0, 59_999)
        _check_int("train_size", 1 if train_size is None else train_size, 1, 60_000 - holdout)
        _check_resize(resize)
        _check_augment(augment)
        _check_int("seed", 0 if seed is None else seed, -(2**63), 2**64 - 1)  # as torch takes them
        self.save_hyperparameters()
        self.resize = tuple(resize)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        images, labels, test_images, test_labels = _load(root)
        end = 60_000 - holdout
        last = end if train_size is None else train_size
        self.train = ImageSet(images[:last], labels[:last], self.resize)
        if holdout:
            self.val = ImageSet(images[end:], labels[end:], self.resize)
        else:
            self.val = ImageSet(test_images, test_labels, self.resize)

    def text_labels(self, indices) -> list[str]:
        """Return the names of the labels `indices`.

        Raises:
            ValueError: if one is not from 0 to 9.
        """
        indices = [int(i) for i in indices]
        if wrong := [i for i in indices if not 0 <= i < len(TEXT_LABELS)]:
            raise ValueError(f"no class has the label {wrong[0]}; labels run from 0 to 9")
        return [TEXT_LABELS[i] for i in indices]

    def get_dataloader(self, train: bool) -> ImageLoader:
        """Return the batches: of `train` in a new order each epoch, or of `val` in a fixed one."""
        return ImageLoader(self.train if train else self.val, self, train)

    def visualize(self, batch, nrows: int = 1, ncols: int = 8, labels: Sequence[str] = ()):
        """Show the first `nrows * ncols` images of a batch, with their class names or `labels`."""
        X, y = batch
        n = min(nrows * ncols, len(X))
        titles = list(labels) or self.text_labels(y[:n])
        return show_images(X[:n].squeeze(1).cpu(), nrows, ncols, titles=titles)


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


def _augment(X, names, generator):
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


def _check_int(name, value, low, high=None):
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")


def _check_resize(resize):
    good = isinstance(resize, list | tuple) and len(resize) == 2
    if not (good and all(isinstance(n, int) and n >= 1 for n in resize)):
        raise ValueError(
            f"resize is {resize!r}; it must be two whole numbers, height and width, like (28, 28)"
        )


def _check_augment(augment):
    good = isinstance(augment, Collection) and not isinstance(augment, str)
    if not good or any(name not in AUGMENTATIONS for name in augment):
        raise ValueError(f"augment is {augment!r}; it must be a list of any of {AUGMENTATIONS}")


# --- finding and checking the files ----------------------------------------------------------


def _load(root) -> list[torch.Tensor]:
    """Return training images, training labels, test images and test labels."""
    folder = find_folder(root) or download(root)
    contents = {name: read_file(folder, name) for name in FILES}
    tensors = []
    for name, content in contents.items():
        # An IDX file: 4 bytes of type, 4 bytes a dimension, then the data.
        is_images = "images" in name
        raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        tensors.append(raw[16:].view(-1, 28, 28) if is_images else raw[8:].long())
    return tensors


def find_folder(root=None) -> Path | None:
    """Return the first folder that holds all four files, or None."""
    for place in _places(root):
        for folder in (place, place / "FashionMNIST" / "raw"):
            if all(_path(folder, name) for name in FILES):
                return folder
    return None


def _places(root) -> list[Path]:
    named = [root, os.environ.get("D2L_DATA")]
    return [Path(p).expanduser() for p in named if p] + [_repository_data(), DEBIAN_FOLDER]


def _repository_data() -> Path:
    """Return `data/` of the repository, or below the current folder if there is no repository."""
    repository = Path(__file__).parents[1]
    return (repository if (repository / "_toc.yml").exists() else Path.cwd()) / "data"


def _path(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((p for p in candidates if p.is_file()), None)


def read_file(folder: Path, name: str) -> bytes:
    """Return the uncompressed content of a file; a ValueError names one that is not whole."""
    path = _path(folder, name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, gzip.zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); {_MEND}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILES[name]:
        raise ValueError(f"{path} is truncated or altered: its MD5 is not {FILES[name]}; {_MEND}")
    return content


_MEND = "delete it and bring the data set again with: python -m d2l_utils"


def download(root=None) -> Path:
    """Download the data set with torchvision and return the folder it lies in.

    It arrives in a temporary folder beside the final one and is renamed file by file when it is
    whole, so an interrupted download leaves nothing behind and two processes do no harm.

    Raises:
        FileNotFoundError: if it cannot be downloaded.
    """
    target = _places(root)[0] / "FashionMNIST" / "raw"
    try:
        from torchvision import datasets

        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            datasets.FashionMNIST(temporary, download=True)
            source = Path(temporary) / "FashionMNIST" / "raw"
            for name in FILES:
                read_file(source, name)
                os.replace(source / name, target / name)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(f"{HOW_TO_GET_IT}\nThe download failed: {error}") from error
    return target
