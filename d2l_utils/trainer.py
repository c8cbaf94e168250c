"""The training loop: steps, means weighted by samples, history, precision, devices."""

import os
import time
from contextlib import suppress
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn

from d2l_utils import checks
from d2l_utils.checkpoint import generators, resume, save_checkpoint
from d2l_utils.device import PRECISIONS, cpu, fast_precision
from d2l_utils.distributed import add_up, agree, own_gpus, share
from d2l_utils.hyperparameters import HyperParameters
from d2l_utils.progress import Means, draw, prepare_board, progress_bar, say_stopped

__all__ = ["Trainer"]


class Trainer(HyperParameters):
    """Trains a model on the batches of a data module.

    Each method can be replaced; an `__init__` need do no more than `save_hyperparameters()`.

    Args:
        max_epochs: epochs to train for.
        num_gpus: the most GPUs to claim; `gpus` lists them. One process trains on the first, or on
            the CPU if there is none. `torchrun --nproc-per-node 2 train.py` trains on two GPUs:
            each process takes its share of every batch.
        gradient_clip_val: the norm that the gradient is clipped to; 0 clips nothing.
        precision: "float32"; "bfloat16" (autocast: weights stay float32; images channels_last);
            or "auto", what the device is fast in.
        seed: seeds torch's global generator at the start of `fit`.
        checkpoint: a file, written after each epoch; if it is there already, `fit` resumes, on a
            CPU to the same bits. The settings of trainer, network, optimiser and schedule must
            match, and the `hparams` of model and data, to which more can be added.

    Attributes:
        history: one dict per epoch: `epoch` (from 1), `train_loss`, `val_loss`, `val_acc`,
            `seconds` (of training alone), `images_per_second`. Losses and accuracies are means
            weighted by samples; that of the training loss is taken while the weights change.
        first_losses: training losses of the first epoch's first ten steps, a run's fingerprint.
        resumed_epochs: how many epochs of the history came from the checkpoint.
        interrupted: whether `fit` was stopped by the keyboard. What was trained is kept.

    >>> Trainer(max_epochs=10).precision
    'float32'
    """

    # For subclasses whose own __init__ sets none of these.
    num_gpus, gradient_clip_val, precision, seed, checkpoint = 0, 0, "float32", None, None
    epoch = train_batch_idx = val_batch_idx = resumed_epochs = _images = 0
    interrupted = _steps_per_epoch = False
    model = scheduler = _bar = cast(Any, None)

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float = 0,
        *,
        precision: str = "float32",
        seed: int | None = None,
        checkpoint: str | os.PathLike | None = None,
    ):
        self.save_hyperparameters()
        checks.arguments(self)
        self.precision = fast_precision(self.device) if precision == "auto" else precision
        self.history: list[dict] = []
        self.first_losses: list[float] = []

    @cached_property
    def gpus(self) -> list[torch.device]:
        """The GPUs taken, of those that are there."""
        return own_gpus(self.num_gpus)

    @cached_property
    def _means(self) -> Means:
        return Means()

    @cached_property
    def device(self) -> torch.device:
        """The first of the GPUs, or the CPU, if it is not set to another."""
        return self.gpus[0] if self.gpus else cpu()

    def fit(self, model: nn.Module, data) -> None:
        """Train `model` on `data` for `max_epochs` epochs, or on from the checkpoint.

        Raises:
            FloatingPointError: if a loss is not finite; it names epoch, step and what is at fault.
            ValueError: if a batch is empty, a schedule does not say when it steps, or the
                checkpoint is damaged, of other settings or of more epochs.
            TypeError: if `model` or `data` is something else, or a checkpoint would lose state.
            OSError: if the checkpoint cannot be read or written.
        """
        checks.parts(model, data)
        try:
            self.start(model, data)
            with progress_bar(self) as self._bar:
                while self.epoch < self.max_epochs:
                    rows = len(self.history)
                    self.fit_epoch()
                    if len(self.history) == rows:  # a fit_epoch of the reader's own
                        self.history.append({"epoch": rows + 1} | self._means.pop())
                    self.epoch += 1
                    save_checkpoint(self)
        except KeyboardInterrupt:
            self.interrupted = True
            say_stopped(self)
        finally:
            model.eval()
            data.device, self._bar = cpu(), None  # on the CPU, where the next model is

    def evaluate(self, model: nn.Module, data) -> dict[str, float]:
        """Return `val_loss`, `val_acc` and whatever else `validation_step` plots."""
        checks.parts(model, data)
        try:
            self.prepare_data(data)
            self.prepare_model(model)
            self._means = Means()
            self._validate()
            return self._means.pop()
        finally:
            data.device = cpu()

    def start(self, model: nn.Module, data) -> None:
        """Make ready for the first step, or for the one after the checkpoint's last."""
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        self.history, self.first_losses, self.interrupted, self._means = [], [], False, Means()
        if self.seed is not None:
            torch.manual_seed(self.seed)
        self.data = data
        self.prepare_data(data)
        checks.some(self.train_dataloader, "batch to train on")
        self.prepare_model(model)
        configured = self.model.configure_optimizers()
        parts = configured if isinstance(configured, tuple | list) else (configured,)
        self.optim, self.scheduler, steps_per = (*parts, None, None)[:3]
        self._steps_per_epoch = steps_per == "epoch"
        checks.schedule(self.scheduler, steps_per)
        if self.checkpoint is not None:
            resume(self)
        self.resumed_epochs = self.epoch
        prepare_board(model, self)
        model.train()

    def prepare_data(self, data) -> None:
        """Make the loaders, and tell the data where its batches go."""
        data.device = self.device = torch.device(self.device)
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = 0 if self.val_dataloader is None else len(self.val_dataloader)

    def prepare_model(self, model) -> None:
        """Move the model to the device and give its lazy layers their weights."""
        if self.precision == "auto":  # saved by an __init__ of a subclass
            self.precision = fast_precision(self.device)
        model.trainer = self
        self.model = model.to(self.device)
        if any(nn.parameter.is_lazy(p) for p in model.parameters()):
            loader = self.val_dataloader if self.num_val_batches else self.train_dataloader
            model.eval()
            # If `forward` takes other arguments, the first training step initialises it instead.
            with torch.no_grad(), suppress(TypeError):
                model(*self.prepare_batch(next(iter(loader)))[:-1])
        if self.precision == "bfloat16":
            model.to(memory_format=torch.channels_last)

    def prepare_batch(self, batch) -> list[torch.Tensor]:
        """Return the batch on the device, its images in the memory layout that is fast there."""
        batch = [a.to(self.device, non_blocking=True) for a in batch]
        if self.precision == "bfloat16":
            layout = torch.channels_last
            batch = [a.contiguous(memory_format=layout) if a.dim() == 4 else a for a in batch]
        return batch

    def fit_epoch(self) -> None:
        """Train on each batch once, validate, and add a row to the history."""
        if self.train_batch_idx == 0:  # a run begins, whoever wrote its `fit`
            self.history, self.first_losses = [], []
        agree(self.model, generators(self).values())
        self._means = Means()
        self.model.train()
        start, self._images, losses = time.perf_counter(), 0, []
        for batch in self.train_dataloader:
            losses.append(self.step(batch))
            if self._bar is not None:
                self._bar.update()
        checks.losses(self, losses, first_step=1)  # waits for a GPU, so the clock is right
        seconds, images = time.perf_counter() - start, self._images
        if self._steps_per_epoch:
            self.scheduler.step()
        if not self.history:
            self.first_losses = [float(loss) for loss in losses[:10]]

        agree(self.model, generators(self).values())  # batch norm saw this process's share alone
        self._validate()
        row = {"epoch": len(self.history) + 1} | self._means.pop()
        checks.epoch(self, row)
        self.history.append(row | {"seconds": seconds, "images_per_second": images / seconds})
        draw(self.model, row, self._bar)

    def step(self, batch) -> torch.Tensor:
        """Train on one batch and return its loss, still on the device."""
        batch, part = self._take(batch)
        with self._autocast():
            loss = self.model.training_step(batch)
        self._means.add("train_loss", loss)
        add_up([value := loss.detach() * part])
        # Reading it makes the CPU wait for a GPU; so there at the first step, then once per epoch.
        if self.device.type == "cpu" or self.train_batch_idx == 0:
            checks.losses(self, [value], self.train_batch_idx % self.num_train_batches + 1)
        self.optim.zero_grad()
        (loss * part).backward()
        add_up([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.gradient_clip_val > 0:
            self.clip_gradients(self.gradient_clip_val, self.model)
        with torch.no_grad():  # for optimisers written by hand, as the book's scratch sections do
            self.optim.step()
        if self.scheduler is not None and not self._steps_per_epoch:
            self.scheduler.step()
        self.train_batch_idx += 1
        self._means.samples = None
        return value

    def clip_gradients(self, grad_clip_val: float, model: nn.Module) -> None:
        """Scale the gradient down to norm `grad_clip_val` where it is longer."""
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip_val)

    def report(self, key: str, value, train: bool) -> bool:
        """Take a value from `Module.plot`; return True if it is drawn here, as an epoch's mean."""
        own_loop = self._means.samples is None  # a reader's, which calls neither step nor _validate
        if own_loop or not (train and key == "loss"):  # which training_step returns
            self._means.add(f"{'train' if train else 'val'}_{key}", value)
        return not (own_loop or train)

    @torch.no_grad()
    def _validate(self):
        self.model.eval()
        for batch in self.val_dataloader or ():
            batch, _ = self._take(batch)
            with self._autocast():
                self.model.validation_step(batch)
            self.val_batch_idx += 1
        self._means.samples = None

    def _take(self, batch):
        batch = self.prepare_batch(batch)  # which may be a reader's, of whatever the data give
        checks.some(batch[-1], "image in a batch")
        samples = len(batch[-1])
        self._images += samples
        batch, self._means.samples = share(batch)
        return batch, self._means.samples / samples

    def _autocast(self):
        low = self.precision != "float32"
        return torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=low)
