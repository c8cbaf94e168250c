"""The base classes of models: saved hyperparameters, `Module` and `Classifier`."""

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from d2l_utils.board import ProgressBoard

__all__ = ["Classifier", "HyperParameters", "Module", "add_to_class", "init_cnn"]


def add_to_class(Class):
    """Return a decorator that registers a function as a method of `Class`.

    The book grows its classes over several notebook cells this way.

    >>> class Cat: ...
    >>> @add_to_class(Cat)
    ... def say(self):
    ...     return "miaow"
    >>> Cat().say()
    'miaow'
    """

    def register(function):
        setattr(Class, function.__name__, function)
        return function

    return register


class HyperParameters:
    """Save the arguments of `__init__` as attributes."""

    def save_hyperparameters(self, ignore=()):
        """Save the caller's arguments as attributes and in `self.hparams`.

        Left out are `self`, names in `ignore` (a list, or one name), and names that start with `_`.
        Called first, for it takes other local variables too, as the book's does.

        >>> class Point(HyperParameters):
        ...     def __init__(self, x, y, _secret=0):
        ...         self.save_hyperparameters(ignore=["y"])
        >>> Point(1, 2).hparams
        {'x': 1}
        """
        frame = inspect.currentframe().f_back
        _, _, _, local_vars = inspect.getargvalues(frame)
        left_out = {"self", *([ignore] if isinstance(ignore, str) else ignore)}
        self.hparams = {
            name: value
            for name, value in local_vars.items()
            if name not in left_out and not name.startswith("_")
        }
        for name, value in self.hparams.items():
            setattr(self, name, value)


class _XavierLazy:
    """What a lazy layer becomes in `init_cnn`: torch calls this method once it has weights."""

    def reset_parameters(self):
        super().reset_parameters()
        if not self.has_uninitialized_params():
            nn.init.xavier_uniform_(self.weight)

    def _get_name(self):  # what print(net) shows
        return super()._get_name().removeprefix("_Xavier")


class _XavierLazyLinear(_XavierLazy, nn.LazyLinear): ...


class _XavierLazyConv2d(_XavierLazy, nn.LazyConv2d): ...


_XAVIER_LAZY = {nn.LazyLinear: _XavierLazyLinear, nn.LazyConv2d: _XavierLazyConv2d}


def init_cnn(module: nn.Module) -> None:
    """Initialise the weights of a linear or convolutional layer by Xavier's uniform rule.

    A lazy layer has no weights yet; it is told to draw them so in its first forward pass, when
    they come to exist. (It becomes an instance of a subclass until then, so that copying, pickling
    and loading weights go on working.)

    >>> net = nn.Sequential(nn.LazyLinear(2))
    >>> _ = net.apply(init_cnn)
    >>> _ = net(torch.zeros(1, 3))
    >>> bool(net[0].weight.abs().max() <= (6 / (3 + 2)) ** 0.5)
    True
    """
    if type(module) in _XAVIER_LAZY and module.has_uninitialized_params():
        module.__class__ = _XAVIER_LAZY[type(module)]
    elif isinstance(module, nn.Linear | nn.Conv2d) and not nn.parameter.is_lazy(module.weight):
        nn.init.xavier_uniform_(module.weight)


class Module(nn.Module, HyperParameters):
    """The base class of models; a subclass sets `self.net` and, for plain SGD, `self.lr`.

    Args:
        plot_train_per_epoch: points an epoch that a training curve gets; below 1, one point for
            several epochs.
        plot_valid_per_epoch: kept for the book's interface; a validation curve gets its mean over
            the whole set, one point an epoch.

    Raises:
        ValueError: if `plot_train_per_epoch` is not above 0.

    >>> class Line(Module):
    ...     def __init__(self, lr):
    ...         super().__init__()
    ...         self.save_hyperparameters()
    ...         self.net = nn.LazyLinear(1)
    >>> Line(lr=0.1)(torch.zeros(4, 2)).shape
    torch.Size([4, 1])
    """

    def __init__(self, plot_train_per_epoch: int = 2, plot_valid_per_epoch: int = 1):
        super().__init__()
        if not plot_train_per_epoch > 0:
            raise ValueError(f"plot_train_per_epoch is {plot_train_per_epoch}; it must be above 0")
        self.save_hyperparameters()
        self.board = ProgressBoard(xlabel="epoch")
        self.trainer = None

    def __getstate__(self):
        # A copy or a pickle of a trained model must not drag the trainer's data set along.
        return {**self.__dict__, "trainer": None}

    def loss(self, y_hat, y):
        """Return the loss, a scalar; for subclasses to define.

        Raises:
            NotImplementedError: unless a subclass does.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no loss(y_hat, y)")

    def forward(self, X):
        """Return `self.net(X)`.

        Raises:
            TypeError: if there is no `self.net`.
            ValueError: if the images are too small for the network's poolings.
        """
        net = _net_of(self)
        try:
            return net(X)
        except RuntimeError as error:
            if not _means_too_small(error):
                raise
            size = " x ".join(str(n) for n in X.shape[-2:])
            raise ValueError(
                f"images of {size} are too small for this {type(self).__name__}: before its last "
                "pooling or convolution nothing is left of them; "
                "give larger images or fewer poolings"
            ) from error

    def plot(self, key: str, value, train: bool) -> None:
        """Report a value of the current batch, such as its loss or accuracy.

        The trainer averages it over the epoch, weighted by samples, as `train_<key>` or
        `val_<key>` of its history; the board draws it.

        Raises:
            TypeError: if the model is not being trained, or the value is not one number.
        """
        if self.trainer is None:
            raise TypeError("plot needs a trainer; call it from a step that Trainer.fit runs")
        values = torch.as_tensor(value)
        if values.numel() != 1:
            raise TypeError(
                f"{key} has the shape {tuple(values.shape)}; it must be one number, "
                "such as the mean over the batch"
            )
        self.trainer.report(key, value, train)
        if train:
            trainer = self.trainer
            x = trainer.train_batch_idx / trainer.num_train_batches
            every_n = int(trainer.num_train_batches / self.plot_train_per_epoch)
            self.board.draw(x, value, f"train_{key}", max(1, every_n))

    def training_step(self, batch):
        """Return the loss of one batch: `batch[:-1]` are the inputs, `batch[-1]` the labels."""
        loss = self.loss(self(*batch[:-1]), batch[-1])
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch):
        """Report the loss of one batch of validation data."""
        self.plot("loss", self.loss(self(*batch[:-1]), batch[-1]), train=False)

    def configure_optimizers(self):
        """Return plain SGD at `self.lr`.

        A subclass may return another optimiser, or an optimiser and a learning-rate scheduler; the
        trainer steps the scheduler after each batch.

        Raises:
            TypeError: if there is no `self.lr`, or no parameter.
        """
        if not hasattr(self, "lr"):
            raise TypeError(
                f"{type(self).__name__} has no lr: set self.lr, or define configure_optimizers"
            )
        parameters = list(self.parameters())
        if not parameters:
            raise TypeError(
                f"{type(self).__name__} has no parameters to train: set self.net in __init__"
            )
        return torch.optim.SGD(parameters, lr=self.lr)

    def apply_init(self, inputs, init=None) -> None:
        """Run one forward pass, so that lazy layers get their weights, then apply `init` to each.

        Args:
            inputs: the arguments of `forward`, as a list.
            init: what to apply to each module of `self.net`, such as `init_cnn`.

        Raises:
            TypeError: if there is no `self.net`.
        """
        self.forward(*inputs)
        if init is not None:
            _net_of(self).apply(init)


def _net_of(model: Module) -> nn.Module:
    if not hasattr(model, "net"):
        raise TypeError(
            f"{type(model).__name__} has no net: set self.net in __init__, or define forward"
        )
    return model.net


def _means_too_small(error: RuntimeError) -> bool:
    text = str(error)
    return "utput size is too small" in text or "Kernel size can't be greater than" in text


class Classifier(Module):
    """A model that gives logits, one a class, and is trained by cross-entropy."""

    def accuracy(self, Y_hat, Y, averaged: bool = True):
        """Return the share of right predictions, or 1 or 0 for each if not `averaged`.

        Args:
            Y_hat: logits, `(..., classes)`.
            Y: labels, as many as there are rows of logits.
            averaged: whether to return the mean.

        Raises:
            ValueError: if there are more or fewer labels than rows of logits.

        >>> Classifier().accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000)
        """
        predictions = Y_hat.reshape(-1, Y_hat.shape[-1]).argmax(dim=1)
        labels = Y.reshape(-1)
        if len(labels) != len(predictions):
            raise ValueError(
                f"there are {len(labels)} labels for {len(predictions)} rows of logits; "
                "there must be one a row"
            )
        right = (predictions == labels).float()
        return right.mean() if averaged else right

    def loss(self, Y_hat, Y, averaged: bool = True):
        """Return the cross-entropy of logits `Y_hat`, `(..., classes)`, against labels `Y`.

        Raises:
            ValueError: if a label is not one of `0 .. classes - 1` (on a GPU, CUDA itself stops).
        """
        logits = Y_hat.reshape(-1, Y_hat.shape[-1]).float()
        labels = Y.reshape(-1)
        check_labels(labels, logits.shape[1])
        return F.cross_entropy(logits, labels, reduction="mean" if averaged else "none")

    def validation_step(self, batch):
        """Report loss and accuracy of one batch of validation data."""
        Y_hat = self(*batch[:-1])
        self.plot("loss", self.loss(Y_hat, batch[-1]), train=False)
        self.plot("acc", self.accuracy(Y_hat, batch[-1]), train=False)

    @torch.no_grad()
    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each child of `self.net` for an input of shape `X_shape`.

        It runs on the model's device, in its precision, in evaluation mode and without gradients.

        Raises:
            TypeError: if there is no `self.net`.
            ValueError: if `X_shape` is no shape, or images of this shape are too small for the
                network.
        """
        if not isinstance(X_shape, Sequence):
            raise ValueError(f"X_shape is {X_shape!r}; it must be a shape, like (1, 1, 224, 224)")
        net = _net_of(self)
        like = next(iter(self.parameters()), torch.empty(0))
        X = torch.randn(*X_shape, device=like.device, dtype=like.dtype)
        was_training = self.training
        self.eval()
        try:
            self(X)  # says what is wrong with the shape, before a line is printed
            for layer in net:
                X = layer(X)
                print(f"{layer.__class__.__name__} output shape:\t {X.shape}")
        finally:
            self.train(was_training)


def check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise a ValueError that names the labels outside `0 .. classes - 1`, for CPU tensors.

    Labels on a GPU are not looked at: the look would stall it once a batch.
    """
    if labels.device.type != "cpu" or labels.numel() == 0:
        return
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels run from {low} to {high}, but the network has {classes} outputs, "
            f"so labels from 0 to {classes - 1} are allowed"
        )
