"""Fashion-MNIST in memory, and the base class of data sets."""

import os
from collections.abc import Iterable, Iterator, Sequence
from operator import index

import torch
from torch.utils import data as torch_data

from d2l_utils.board import show_images
from d2l_utils.device import cpu
from d2l_utils.fashion_mnist_files import load
from d2l_utils.hyperparameters import HyperParameters
from d2l_utils.pixels import AUGMENTATIONS, augment_images, resize_images

__all__ = ["DataModule", "FashionMNIST"]

TEXT_LABELS = "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot".split(",")


class DataModule(HyperParameters):
    """The base class of data sets: loaders of batches for training and validation.

    `device` is where batches go, for loaders that can put them there; the trainer sets it.
    `generator`, if not None, is the source of the order, kept in checkpoints. `root` and
    `num_workers` are the book's; this base class does not use them.

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
        """Return an iterable of batches with a length; for subclasses to define."""
        raise NotImplementedError(f"{type(self).__name__} defines no get_dataloader(train)")

    def train_dataloader(self):
        """Return the batches to train on."""
        return self.get_dataloader(train=True)

    def val_dataloader(self):
        """Return the batches to validate on."""
        return self.get_dataloader(train=False)

    def get_tensorloader(self, tensors, train: bool, indices=slice(0, None)):
        """Return batches of `self.batch_size`, in a new order each epoch if `train`."""
        dataset = torch_data.TensorDataset(*(t[indices] for t in tensors))
        shuffle = train and len(dataset) > 0  # torch refuses to shuffle none; the trainer says why
        return torch_data.DataLoader(dataset, self.batch_size, shuffle, generator=self.generator)


class ImageSet(torch_data.Dataset):
    """Grey images with labels, held in memory as uint8, with torchvision's names for its parts.

    `data` is uint8, `(n, 28, 28)`, and `targets` int64, `(n,)`; both may be replaced. Item `i` is
    an image, float32 `(1, h, w)` on [0, 1] in the size `resize`, and its label. A `transform`, a
    function of a PIL image, makes the image instead if there is one.
    """

    classes = [name.capitalize() for name in ("t-shirt/top", *TEXT_LABELS[1:])]

    def __init__(self, data: torch.Tensor, targets: torch.Tensor, resize: tuple[int, int]):
        self.data, self.targets, self.resize, self.transform = data, targets, resize, None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        """Return several items; torch's loader asks a `Subset` for a whole batch this way."""
        if self.transform is None:
            images = resize_images(self.data[indices].unsqueeze(1), self.resize)
        else:
            from PIL import Image

            images = [self.transform(Image.fromarray(x.numpy())) for x in self.data[indices]]
        return [(x, int(self.targets[i])) for x, i in zip(images, indices, strict=True)]


class ImageLoader:
    """Batches of an `ImageSet` that has no transform, resized and cast on the device they go to."""

    def __init__(self, images: ImageSet, data: "FashionMNIST", train: bool):
        self.images, self.data, self.train = images, data, train

    def __len__(self) -> int:
        return -(-len(self.images) // self.data.batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        data, images = self.data, self.images.data
        labels = torch.as_tensor(self.images.targets)
        n = len(images)
        order = torch.randperm(n, generator=data.generator) if self.train else torch.arange(n)
        for indices in order.split(data.batch_size):
            X = images[indices].unsqueeze(1).to(data.device)
            if self.train and data.augment:
                X = augment_images(X, data.augment, data.generator)
            yield [resize_images(X, self.images.resize), labels[indices].to(data.device)]


class FashionMNIST(DataModule):
    """Fashion-MNIST: 60,000 grey images of 28 x 28 to train on and 10,000 to test on, ten classes.

    The files are looked for in `root`, in the folder that the variable `D2L_DATA` names, in the
    repository's `data/`, and where the Debian package `dataset-fashion-mnist` puts them; if
    `D2L_DATA` is set and they are only in a place after it, that is an error. If they are nowhere,
    they are downloaded, or taken out of that package without installing it.

    Args:
        batch_size: images per batch.
        resize: height and width that the images are resized to, bilinearly with antialiasing, to
            the very pixels of torchvision's `Resize` and `ToTensor`; one integer gives squares.
            (Pillow 13 alone rounds in another order where the height shrinks by more than twice
            what the width does.)
        root: a folder with the four files, plain or as .gz, or with `FashionMNIST/raw` in it.
        num_workers: for a `transform`, or a data set of your own in `train` or `val`.
        holdout: take this many images off the end of the training set and validate on them, so
            that settings can be chosen without a look at the test set. 0: validate on the test set.
        train_size: train on the first `train_size` images only.
        augment: what is done at random to training images: any of "flip" (left to right) and
            "crop" (shifted by up to 2 of the 28 pixels, before resizing; zeros come in).
        seed: fixes the order and the augmentation; None: torch's global generator decides.

    Any `torch.utils.data.Dataset` of images and labels, such as a `Subset`, may be put in the place
    of `train` and `val`.

    Raises:
        ValueError: if an argument is outside its range, or a file is not the official one.
        FileNotFoundError: if the data set is neither there nor to be had; it lists ways to get it.
        PermissionError: if a file or folder cannot be read.

    Source: Xiao, Rasul and Vollgraf, 2017, arXiv 1708.07747 (MIT licence).

    >>> data = FashionMNIST(batch_size=32, resize=(56, 56))
    >>> X, y = next(iter(data.val_dataloader()))
    >>> X.shape, data.text_labels(y[:3])
    (torch.Size([32, 1, 56, 56]), ['ankle boot', 'pullover', 'trouser'])
    """

    def __init__(
        self,
        batch_size: int = 64,
        resize: int | tuple[int, int] = (28, 28),
        root: str | os.PathLike | None = None,
        num_workers: int = 0,
        *,
        holdout: int = 0,
        train_size: int | None = None,
        augment: Sequence[str] = (),
        seed: int | None = None,
    ):
        # As Python's integers, which a checkpoint can hold; NumPy's are taken, too.
        batch_size, holdout = index(batch_size), index(holdout)
        height, width = map(index, resize if isinstance(resize, Iterable) else (resize, resize))
        resize = height, width
        end = last = 60_000 - holdout
        if train_size is not None:
            train_size = last = index(train_size)
        self.save_hyperparameters()
        for name, good, allowed in (
            ("batch_size", batch_size >= 1, "at least 1"),
            ("resize", min(resize) >= 1, "height and width, like (28, 28)"),
            ("holdout", 0 <= holdout < 60_000, "from 0 to 59999"),
            ("train_size", 1 <= last <= end, f"from 1 to {end}"),
            ("augment", set(augment) <= set(AUGMENTATIONS), f"a list of any of {AUGMENTATIONS}"),
        ):
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        images, labels, test_images, test_labels = load(root)
        self.train = ImageSet(images[:last], labels[:last], resize)
        held_out = (images[end:], labels[end:]) if holdout else (test_images, test_labels)
        self.val = ImageSet(*held_out, resize)

    def text_labels(self, indices) -> list[str]:
        """Return the names of the labels `indices`, each from 0 to 9."""
        indices = [int(i) for i in indices]
        if min(indices, default=0) < 0:  # Python would count from the end
            raise ValueError(f"indices are {indices}; they must be from 0 to 9")
        return [TEXT_LABELS[i] for i in indices]

    def get_dataloader(self, train: bool):
        """Return the batches: of `train` in a new order each epoch, or of `val` in a fixed one."""
        dataset = self.train if train else self.val
        if isinstance(dataset, ImageSet) and dataset.transform is None:
            return ImageLoader(dataset, self, train)
        if train and self.augment:
            why = "where train has a transform or is a data set of your own"
            raise ValueError(f"augment is {self.augment!r}; it must be empty {why}")
        options = {"num_workers": self.num_workers, "generator": self.generator}
        return torch_data.DataLoader(dataset, self.batch_size, shuffle=train, **options)

    def visualize(self, batch, nrows: int = 1, ncols: int = 8, labels: Sequence[str] = ()):
        """Show the first `nrows * ncols` images of a batch, with their class names or `labels`."""
        X, y = batch
        n = min(nrows * ncols, len(X))
        titles = list(labels) or self.text_labels(y[:n])
        return show_images(X[:n].squeeze(1).cpu(), nrows, ncols, titles=titles)
