"""The base classes of models, `Module` and `Classifier`, and how their weights start."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from d2l_utils.board import ProgressBoard
from d2l_utils.hyperparameters import HyperParameters

__all__ = ["Classifier", "Module", "init_cnn"]

NO_LABEL = torch.iinfo(torch.long).min  # no label has it; by default torch silently skips -100


class _XavierLazy:
    """What a lazy layer becomes in `init_cnn`, until it has weights."""

    def reset_parameters(self):  # which torch calls then
        super().reset_parameters()
        if not self.has_uninitialized_params():
            nn.init.xavier_uniform_(self.weight)

    def _get_name(self):  # what print(net) shows
        return super()._get_name().removeprefix("_Xavier")


class _XavierLazyLinear(_XavierLazy, nn.LazyLinear): ...


class _XavierLazyConv2d(_XavierLazy, nn.LazyConv2d): ...  # type: ignore[misc]


_XAVIER_LAZY = {nn.LazyLinear: _XavierLazyLinear, nn.LazyConv2d: _XavierLazyConv2d}


def init_cnn(module: nn.Module) -> None:
    """Initialise the weights of a linear or convolutional layer by Xavier's uniform rule.

    A lazy layer has no weights yet; it draws them so in its first forward pass.

    >>> net = nn.Sequential(nn.LazyLinear(2))
    >>> _ = net.apply(init_cnn)
    >>> _ = net(torch.zeros(1, 3))
    >>> bool(net[0].weight.abs().max() <= (6 / (3 + 2)) ** 0.5)
    True
    """
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return
    if not nn.parameter.is_lazy(module.weight):
        nn.init.xavier_uniform_(module.weight)
    elif type(module) in _XAVIER_LAZY:  # a hook would spoil copying and loaded weights
        module.__class__ = _XAVIER_LAZY[type(module)]


class Module(HyperParameters, nn.Module):
    """The base class of models; a subclass sets `self.net` and, for plain SGD, `self.lr`.

    Args:
        plot_train_per_epoch: points that a training curve gets per epoch; below 1, one point for
            several epochs.
        plot_valid_per_epoch: likewise for validation, with a trainer of your own; ours draws the
            mean over the whole set, one point per epoch.

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
        self.save_hyperparameters()
        self.board = ProgressBoard(xlabel="epoch")
        self.trainer = None

    def __getstate__(self):
        # A copy or a pickle of a trained model must not drag the trainer's data set along.
        return {**self.__dict__, "trainer": None}

    def loss(self, y_hat, y):
        """Return the loss, a scalar; for subclasses to define."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(y_hat, y)")

    def forward(self, X):
        """Return `self.net(X)`.

        Raises:
            ValueError: if the images are of another size than the network was made for, or too
                small for its poolings.
        """
        try:
            Y_hat = self.net(X)
        except RuntimeError as error:
            if reason := _misfit(self, X, str(error)):
                raise ValueError(reason) from error
            raise
        if not hasattr(self, "_made_for"):
            self._made_for = X.shape[1:]
        return Y_hat

    def plot(self, key: str, value, train: bool) -> None:
        """Report a value of the current batch, one number, such as its loss or accuracy.

        The trainer averages it over the epoch, weighted by samples, as `train_<key>` or
        `val_<key>` of its history; the board draws it. Both may be the reader's own.
        """
        if (trainer := self.trainer) is None:
            raise TypeError("plot needs a trainer; call it from a step that Trainer.fit runs")
        report = getattr(trainer, "report", None)
        if (report and report(key, value, train)) or getattr(self, "board", None) is None:
            return
        if train:
            x = trainer.train_batch_idx / trainer.num_train_batches
            n = trainer.num_train_batches / self.plot_train_per_epoch
        else:
            x = trainer.epoch + 1
            n = trainer.num_val_batches / self.plot_valid_per_epoch
        label = f"{'train' if train else 'val'}_{key}"
        if isinstance(value, torch.Tensor):
            value = value.detach()  # for a reader's own draw that plots it
        if not getattr(self.board, "xlabel", None):
            self.board.xlabel = "epoch"
        self.board.draw(x, value, label, every_n=max(1, int(n)))

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

        A subclass may return another optimiser; or an optimiser, a learning-rate scheduler, and
        "batch" or "epoch": when the trainer is to step it. It does not support `ReduceLROnPlateau`.
        """
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def apply_init(self, inputs, init=None) -> None:
        """Run `forward(*inputs)`, which gives lazy layers weights; apply `init` to all of `net`."""
        self.forward(*inputs)
        if init is not None:
            self.net.apply(init)


def _misfit(model: Module, X: torch.Tensor, error: str) -> str:
    """Return why images do not go through a network, or "" if torch's error does not tell."""
    name, size = type(model).__name__, " x ".join(str(n) for n in X.shape[-2:])
    if "utput size is too small" in error or "Kernel size can't be greater than" in error:
        return (
            f"images of {size} are too small for this {name}: before its last pooling or "
            "convolution nothing is left of them; give larger images or fewer poolings"
        )
    made_for = vars(model).get("_made_for")
    if "shapes cannot be multiplied" in error and made_for not in (None, X.shape[1:]):
        wanted = ", ".join(["n", *map(str, made_for)])
        return f"X has the shape {tuple(X.shape)}, but the head of this {name} is for ({wanted})"
    return ""


class Classifier(Module):
    """A model that gives logits, one per class, and is trained by cross-entropy.

    >>> model = Classifier()
    >>> model.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    >>> model.layer_summary((2, 1, 28, 28))  # doctest: +NORMALIZE_WHITESPACE
    Flatten output shape: torch.Size([2, 784])
    Linear output shape: torch.Size([2, 10])
    """

    def accuracy(self, Y_hat, Y, averaged: bool = True):
        """Return the share of logits `Y_hat`, `(..., classes)`, that predict the labels `Y`.

        If not `averaged`, it is 1 or 0 for each.

        >>> Classifier().accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000)
        """
        logits, labels = _rows(Y_hat, Y)
        right = (logits.argmax(dim=1) == labels).float()
        return right.mean() if averaged else right

    def loss(self, Y_hat, Y, averaged: bool = True):
        """Return the cross-entropy of logits `Y_hat`, `(..., classes)`, against labels `Y`.

        Raises:
            ValueError: if the labels are not one class index per row of logits.
            IndexError: if a label is not a class index (-100 included).
        """
        logits, labels = _rows(Y_hat, Y)
        reduction = "mean" if averaged else "none"
        return F.cross_entropy(logits.float(), labels, reduction=reduction, ignore_index=NO_LABEL)

    def validation_step(self, batch):
        """Report loss and accuracy of one batch of validation data."""
        Y_hat = self(*batch[:-1])
        self.plot("loss", self.loss(Y_hat, batch[-1]), train=False)
        self.plot("acc", self.accuracy(Y_hat, batch[-1]), train=False)

    @torch.no_grad()
    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each child of `self.net` for an input of shape `X_shape`.

        It runs on the model's device, in its precision, in evaluation mode and without gradients.
        """
        like = next(iter(self.parameters()), torch.empty(0))
        X = torch.randn(*X_shape, device=like.device, dtype=like.dtype)
        was_training = self.training
        self.eval()
        try:
            self(X)  # says what is wrong with the shape, before a line is printed
            for layer in self.net:
                X = layer(X)
                print(f"{layer.__class__.__name__} output shape:\t {X.shape}")
        finally:
            self.train(was_training)


def _rows(Y_hat: torch.Tensor, Y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits as `(rows, classes)`, and a label for each row."""
    logits, labels = Y_hat.reshape(-1, Y_hat.shape[-1]), Y.reshape(-1)
    if len(labels) != len(logits):
        raise ValueError(
            f"there are {len(labels)} labels for {len(logits)} rows of logits; "
            "labels must be class indices, one per row"
        )
    return logits, labels
