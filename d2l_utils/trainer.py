"""The training loop: history, checkpoints, precision and devices. It knows no data."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from d2l_utils.board import progress_options
from d2l_utils.checkpoint import read_checkpoint
from d2l_utils.device import cpu, fast_precision, gpu, num_gpus
from d2l_utils.files import atomic_write
from d2l_utils.module import Classifier, HyperParameters

__all__ = ["Trainer"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WHAT_TO_DO = "lower the learning rate, or clip the gradient"


class Trainer(HyperParameters):
    """Trains a model on the batches of a data module.

    Args:
        max_epochs: epochs to train for.
        num_gpus: 1 trains on the GPU if there is one, else on the CPU; `device` says on which.
        gradient_clip_val: the norm that the gradient is clipped to; 0 clips nothing.
        precision: "float32" or "bfloat16" (autocast: the weights stay float32); None takes what
            the device is fast in for a `Classifier`, and float32 for any other model, whose targets
            may need more than the three digits of bfloat16.
        seed: seeds torch's global generator at the start of `fit`.
        checkpoint: a file, written after each epoch; if it is there already, `fit` goes on from
            it. On a CPU the weights come out as if it had never stopped, bit for bit.

    Attributes:
        device: the `torch.device` that it trains on.
        precision: "float32" or "bfloat16".
        history: one dict an epoch: `epoch` (from 1), `train_loss`, `val_loss`, `val_acc`,
            `seconds` (of training, evaluation left out), `images_per_second`. Losses and
            accuracies are means weighted by samples; that of the training loss is taken while the
            weights change.
        first_losses: the training losses of the first ten steps, the fingerprint of a run.
        resumed_epochs: how many epochs of the history came from the checkpoint.
        interrupted: whether `fit` was stopped by the keyboard. What was trained is kept.

    Raises:
        ValueError: if an argument is outside its range.
        TypeError: if an argument has the wrong type.

    >>> Trainer(max_epochs=10, precision="float32").precision
    'float32'
    """

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float = 0,
        *,
        precision: str | None = None,
        seed: int | None = None,
        checkpoint: str | os.PathLike | None = None,
    ):
        _check(max_epochs, num_gpus, gradient_clip_val, precision, seed)
        _check_path(checkpoint)
        self.save_hyperparameters()
        self._precision_asked_for = precision  # a subclass may save other hyperparameters
        self.gpus = _usable_gpus(num_gpus)
        self.device = self.gpus[0] if self.gpus else cpu()
        self.precision = precision or fast_precision(self.device)
        self.history: list[dict] = []
        self.first_losses: list[float] = []
        self.resumed_epochs = 0
        self.interrupted = False

    # --- the whole run -----------------------------------------------------------------------

    def fit(self, model: nn.Module, data) -> None:
        """Train `model` on `data` for `max_epochs` epochs, or on from the checkpoint.

        Raises:
            FloatingPointError: if a loss is not finite; it names epoch and step.
            ValueError: if the checkpoint is damaged, of other settings or of more epochs, or there
                is no batch to train on.
            TypeError: if model, optimiser or scheduler cannot be used here, or not be kept in a
                checkpoint, or the loss is not one number.
            OSError: if the checkpoint's folder cannot be made, or the checkpoint not be written.
        """
        self.start(model, data)
        try:
            with self._progress_bar() as self._bar:
                while self.epoch < self.max_epochs:
                    self.fit_epoch()
                    if len(self.history) <= self.epoch:  # a loop of the reader's own
                        self._draw({"epoch": self.epoch + 1} | self._means())
                        self._sums, self._counts = {}, {}
                    self.epoch += 1
                    self._save_checkpoint()
        except KeyboardInterrupt:
            self.interrupted = True
            epoch = min(self.epoch + 1, self.max_epochs)
            print(f"Stopped in epoch {epoch}; the model keeps what it has learned.")
        finally:
            model.eval()
            if board := getattr(model, "board", None):
                board.show()

    def evaluate(self, model: nn.Module, data) -> dict[str, float]:
        """Return `val_loss` and `val_acc` of the model as it is.

        Raises:
            ValueError: if there is no batch to validate on.
        """
        self.prepare_data(data)
        if self.num_val_batches == 0:
            raise ValueError("there is no batch to validate on; val_dataloader() gives none")
        self.prepare_model(model)
        self.val_batch_idx = 0
        self._sums, self._counts = {}, {}
        self._validate()
        return self._means()

    def start(self, model: nn.Module, data) -> None:
        """Make ready for the first step, or for the one after the checkpoint's last."""
        if self.seed is not None:
            torch.manual_seed(self.seed)
        self.prepare_data(data)
        if self.num_train_batches == 0:
            raise ValueError("there is no batch to train on; the data needs at least one image")
        self.prepare_model(model)
        if board := getattr(model, "board", None):
            board.clear()
            board.xlim = [0, self.max_epochs]
        self.optim, self.scheduler = _optimiser_and_scheduler(model.configure_optimizers())
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        self.history, self.first_losses = [], []
        self.interrupted = False
        self._sums, self._counts, self._batch_size = {}, {}, 1
        self._bar = None
        if self.checkpoint is not None:
            self._check_can_be_kept()
            Path(self.checkpoint).parent.mkdir(parents=True, exist_ok=True)
            self._settings = self._describe()
            self._load_checkpoint()
        self.resumed_epochs = self.epoch
        model.train()

    def prepare_data(self, data) -> None:
        """Make the loaders, and tell the data where its batches shall go."""
        data.device = self.device
        self.data = data
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = 0 if self.val_dataloader is None else len(self.val_dataloader)

    def prepare_model(self, model: nn.Module) -> None:
        """Move the model to the device and give its lazy layers their weights."""
        if not hasattr(model, "training_step"):
            raise TypeError(
                f"model is a {type(model).__name__}; it must be a Module or Classifier of this "
                "package, with the network as its net"
            )
        model.trainer = self
        if self._precision_asked_for is None:
            is_classifier = isinstance(model, Classifier)
            self.precision = fast_precision(self.device) if is_classifier else "float32"
        self.model = model.to(self.device)
        if any(nn.parameter.is_lazy(p) for p in model.parameters()):
            loader = self.val_dataloader if self.num_val_batches else self.train_dataloader
            model.eval()
            with torch.no_grad():
                model(*self.prepare_batch(next(iter(loader)))[:-1])
        if self._channels_last:
            model.to(memory_format=torch.channels_last)

    def prepare_batch(self, batch) -> list[torch.Tensor]:
        """Return the batch on the device, its images in the memory layout that is fast there."""
        batch = [a.to(self.device, non_blocking=True) for a in batch]
        if self._channels_last:
            layout = torch.channels_last
            batch = [a.contiguous(memory_format=layout) if a.dim() == 4 else a for a in batch]
        return batch

    # --- one epoch, one step -----------------------------------------------------------------

    def fit_epoch(self) -> None:
        """Train on each batch once, validate, and add a row to the history."""
        self._sums, self._counts = {}, {}
        self.model.train()
        start = time.perf_counter()
        losses = []
        for batch in self.train_dataloader:
            losses.append(self.step(batch))
            if self._bar is not None:
                self._bar.update()
        self._check_finite(losses, first_step=1)  # waits for a GPU, so the clock is right
        if self.epoch == 0:
            self.first_losses = [float(loss) for loss in losses[:10]]
        seconds = time.perf_counter() - start
        self._validate()
        row = {"epoch": self.epoch + 1} | self._means()
        self._check_weights(row)
        row |= {"seconds": seconds, "images_per_second": self._counts["train_loss"] / seconds}
        self.history.append(row)
        self._draw(row)
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k.startswith("val_")})

    def step(self, batch) -> torch.Tensor:
        """Train on one batch and return its loss, still on the device."""
        self._batch_size = len(batch[-1])
        with self._autocast():
            loss = self.model.training_step(self.prepare_batch(batch))
        _check_loss(loss)
        self._add("train_loss", loss)
        if self.device.type == "cpu":  # a GPU would have to wait here, so it is asked once an epoch
            self._check_finite([loss.detach()], self.train_batch_idx % self.num_train_batches + 1)
        self.optim.zero_grad()
        loss.backward()
        if self.gradient_clip_val > 0:
            self.clip_gradients(self.gradient_clip_val, self.model)
        with torch.no_grad():  # for optimisers written by hand, as the book's scratch sections do
            self.optim.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.train_batch_idx += 1
        return loss.detach()

    def clip_gradients(self, grad_clip_val: float, model: nn.Module) -> None:
        """Scale the gradient down to norm `grad_clip_val` where it is longer."""
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip_val)

    def report(self, key: str, value: torch.Tensor, train: bool) -> None:
        """Take a value of the current batch into the epoch's mean; `Module.plot` calls this."""
        if not (train and key == "loss"):  # the training loss is what training_step returns
            self._add(f"{'train' if train else 'val'}_{key}", value)

    @torch.no_grad()
    def _validate(self):
        self.model.eval()
        for batch in self.val_dataloader or ():
            self._batch_size = len(batch[-1])
            with self._autocast():
                self.model.validation_step(self.prepare_batch(batch))
            self.val_batch_idx += 1

    def _add(self, key, value):
        total = torch.as_tensor(value).detach().double() * self._batch_size
        self._sums[key] = self._sums.get(key, 0) + total
        self._counts[key] = self._counts.get(key, 0) + self._batch_size

    def _means(self):
        return {key: float(total) / self._counts[key] for key, total in self._sums.items()}

    def _check_finite(self, losses, first_step):
        for step, loss in enumerate(torch.stack(losses).tolist(), first_step):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} in epoch {self.epoch + 1}, step {step} of "
                    f"{self.num_train_batches}; {_WHAT_TO_DO}"
                )

    def _check_weights(self, row):
        # The last step of an epoch may spoil the weights after its loss was looked at.
        if "val_loss" in row:
            finite = math.isfinite(row["val_loss"])
            what = f"the validation loss is {row['val_loss']}"
        else:
            finite = all(bool(p.isfinite().all()) for p in self.model.parameters())
            what = "there are weights that are not finite"
        if not finite:
            raise FloatingPointError(
                f"{what} after epoch {self.epoch + 1}, step {self.num_train_batches} of "
                f"{self.num_train_batches}; {_WHAT_TO_DO}"
            )

    # --- precision and progress --------------------------------------------------------------

    @property
    def _channels_last(self) -> bool:
        return self.precision == "bfloat16"

    def _autocast(self):
        enabled = self.precision != "float32"
        return torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=enabled)

    def _progress_bar(self):
        from tqdm import tqdm

        return tqdm(
            desc=f"{self.device} {self.precision}",
            total=self.max_epochs * self.num_train_batches,
            initial=self.epoch * self.num_train_batches,
            leave=False,
            unit="batch",
            **progress_options(getattr(self.model, "board", None)),
        )

    def _draw(self, row):
        if board := getattr(self.model, "board", None):
            for key, value in row.items():
                if key.startswith("val_"):
                    board.draw(row["epoch"], value, key)

    # --- checkpoints -------------------------------------------------------------------------

    def _save_checkpoint(self):
        if self.checkpoint is None:
            return
        state = {
            "settings": self._settings,
            "epoch": self.epoch,
            "history": self.history,
            "first_losses": self.first_losses,
            "train_batch_idx": self.train_batch_idx,
            "val_batch_idx": self.val_batch_idx,
            "model": self.model.state_dict(),
            "optim": self.optim.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "random": {name: source.get_state() for name, source in self._random().items()},
        }
        with atomic_write(Path(self.checkpoint)) as part:
            torch.save(state, part)

    def _load_checkpoint(self):
        if not Path(self.checkpoint).exists():
            return
        state = read_checkpoint(self.checkpoint)
        for name, value in self._settings.items():
            was = state["settings"].get(name, value)  # one that is younger than the checkpoint
            if was != value:
                both = f" ({was}, not {value})"
                raise ValueError(
                    f"the checkpoint {self.checkpoint} was made with another {name}"
                    f"{both if len(both) < 200 else ''}; "
                    "use the same settings, or another checkpoint file"
                )
        if state["epoch"] > self.max_epochs:
            raise ValueError(
                f"the checkpoint {self.checkpoint} is of {state['epoch']} epochs, but max_epochs "
                f"is {self.max_epochs}; give at least as many, or another checkpoint file"
            )
        self.epoch = state["epoch"]
        self.history = state["history"]
        self.first_losses = state["first_losses"]
        self.train_batch_idx = state["train_batch_idx"]
        self.val_batch_idx = state["val_batch_idx"]
        self.model.load_state_dict(state["model"])
        self.optim.load_state_dict(state["optim"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name, source in self._random().items():
            if name in state["random"]:  # a run that goes on on another device lacks its generator
                source.set_state(state["random"][name])
        for row in self.history:
            self._draw(row)

    def _describe(self) -> dict:
        """Return what must be the same for a checkpoint to be gone on from."""
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optim.state_dict()["param_groups"]
        ]
        return {
            "seed": self.seed,
            "precision": self.precision,
            "gradient_clip_val": self.gradient_clip_val,
            "number of batches": self.num_train_batches,
            "data": f"{type(self.data).__name__} {_plain_settings(self.data)}",
            "network": str(self.model),
            "optimiser": f"{type(self.optim).__name__} {groups}",
            "scheduler": type(self.scheduler).__name__,
            # A schedule is laid out for a number of epochs; plain SGD can go on for more.
            "max_epochs": None if self.scheduler is None else self.max_epochs,
            "schedule": None if self.scheduler is None else _plain(self.scheduler.state_dict()),
            "model": _plain_settings(self.model),
        }

    def _check_can_be_kept(self):
        kept = {id(tensor) for tensor in self.model.state_dict(keep_vars=True).values()}
        if any(id(p) not in kept for p in self.model.parameters()):
            raise TypeError(
                f"{type(self.model).__name__} cannot be kept in a checkpoint: it has parameters "
                "that are not in its state_dict(); make them nn.Parameter"
            )
        for part in (self.optim, self.scheduler):
            if part is not None and not hasattr(part, "state_dict"):
                raise TypeError(
                    f"{type(part).__name__} cannot be kept in a checkpoint: it has no state_dict()"
                )

    def _random(self) -> dict[str, torch.Generator]:
        """Return the generators that a run draws from: weights, order, dropout, augmentation."""
        sources = {"cpu": torch.default_generator, "data": getattr(self.data, "generator", None)}
        if self.device.type == "cuda":
            sources["cuda"] = torch.cuda.default_generators[self.device.index]
        return {name: source for name, source in sources.items() if source is not None}


def _usable_gpus(wanted: int) -> list[torch.device]:
    return [gpu(i) for i in range(min(wanted, num_gpus()))]


def _optimiser_and_scheduler(configured):
    """Return the pair, whether `configure_optimizers` gave the optimiser alone or with a scheduler.

    A list of both is taken too, as other trainers use it.
    """
    is_pair = isinstance(configured, tuple | list) and len(configured) == 2
    optim, scheduler = configured if is_pair else (configured, None)
    if not (hasattr(optim, "step") and hasattr(optim, "zero_grad")):
        raise TypeError(
            f"configure_optimizers gave a {type(configured).__name__}; it must give an optimiser, "
            "with step and zero_grad, or an optimiser and a learning-rate scheduler"
        )
    if isinstance(optim, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS needs a closure, which this trainer has not; configure_optimizers must give an "
            "optimiser that needs none, such as SGD or Adam"
        )
    if scheduler is not None:
        _check_scheduler(scheduler)
    return optim, scheduler


def _check_scheduler(scheduler):
    if not hasattr(scheduler, "step") or hasattr(scheduler, "zero_grad"):
        raise TypeError(
            f"configure_optimizers gave a {type(scheduler).__name__} after the optimiser; it must "
            "be a learning-rate scheduler, with step and no zero_grad"
        )
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TypeError(
            "ReduceLROnPlateau needs a metric, and this trainer steps after each batch without "
            "one; configure_optimizers must give a scheduler that needs none, such as OneCycleLR"
        )


def _check_loss(loss):
    is_tensor = isinstance(loss, torch.Tensor)
    if not (is_tensor and loss.dim() == 0):
        given = f"tensor of shape {tuple(loss.shape)}" if is_tensor else type(loss).__name__
        raise TypeError(
            f"training_step gave a {given}; it must give the loss, a tensor that is one number"
        )


def _plain_settings(part) -> str:
    """Return the hyperparameters of a model or of data as text, but for where the data lies."""
    hparams = getattr(part, "hparams", {}).items()
    return _plain({k: v for k, v in hparams if k not in ("root", "num_workers")})


def _plain(settings: dict) -> str:
    """Return as text what is plain data; a tuple and a list of the same items are the same."""
    kept = {}
    for key, value in settings.items():
        with suppress(TypeError):
            kept[key] = json.loads(json.dumps(value))
    return str(kept)


def _check(max_epochs, num_gpus, gradient_clip_val, precision, seed):
    for name, value in (("max_epochs", max_epochs), ("num_gpus", num_gpus)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it must be a whole number")
    if max_epochs < 1:
        raise ValueError(f"max_epochs is {max_epochs}; it must be at least 1")
    if num_gpus not in (0, 1):
        raise ValueError(f"num_gpus is {num_gpus}; this trainer uses one GPU at most: give 0 or 1")
    if not isinstance(gradient_clip_val, int | float):
        raise TypeError(f"gradient_clip_val is {gradient_clip_val!r}; it must be a number")
    if not gradient_clip_val >= 0:  # so written, it also catches nan
        raise ValueError(f"gradient_clip_val is {gradient_clip_val}; it must be 0 or more")
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision is {precision!r}; it must be one of {list(PRECISIONS)}")
    if seed is not None and not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; it must be a whole number, or None")
    if seed is not None and not -(2**63) <= seed < 2**64:  # what torch.manual_seed takes
        raise ValueError(f"seed is {seed}; it must be from -2**63 to 2**64 - 1")


def _check_path(checkpoint):
    if checkpoint is None:
        return
    if not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint is {checkpoint!r}; it must be the path of a file, or None")
    if Path(checkpoint).is_dir():  # as "" is
        raise ValueError(f"checkpoint is {str(checkpoint)!r}; it must be a file, and no folder")
