"""Fashion-MNIST in memory, and the base class of data sets."""

import os
from collections.abc import Collection, Iterator, Sequence

import torch
from torch.utils import data as torch_data

from d2l_utils.board import show_images
from d2l_utils.device import cpu
from d2l_utils.fashion_mnist_files import load
from d2l_utils.module import HyperParameters
from d2l_utils.pixels import AUGMENTATIONS, augment_images, resize_images

__all__ = ["DataModule", "FashionMNIST"]

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
                X = augment_images(X, data.augment, data.generator)
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
        images, labels, test_images, test_labels = load(root)
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
