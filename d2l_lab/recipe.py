"""What a checked entry of a grid becomes: network, optimiser, schedule, loss, start."""

import msgspec
import torch
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from torch.optim.lr_scheduler import OneCycleLR

from d2l_lab.grid import Config
from d2l_utils.models import VGG


class RecipeVGG(VGG):
    """A VGG that is trained as a `Config` says."""

    def __init__(self, config: Config, teacher: VGG | None = None):
        super().__init__(config.arch, config.lr, head=config.head, batch_norm=config.batch_norm)
        self.follow(config, teacher)

    def follow(self, config: Config, teacher: VGG | None = None) -> None:
        """Train by this configuration from now on; a checkpoint knows it by its hyperparameters."""
        self.config = config
        self.hparams = self.hparams | {"config": msgspec.to_builtins(config)}
        self._teacher = [teacher]  # in a list, so that its weights are none of this model's

    def configure_optimizers(self):
        """Return SGD and its schedule; the trainer asks once, when the weights have been drawn."""
        c = self.config
        if not c.start:
            scale_start(self.net, c)
        optimiser = torch.optim.SGD(
            self.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            nesterov=c.momentum > 0,
            weight_decay=c.weight_decay,
            fused=True,  # the same arithmetic; a large head's step takes a tenth of the time
        )
        if c.schedule == "constant":
            return optimiser
        steps = self.trainer.max_epochs * self.trainer.num_train_batches
        # The defaults of OneCycleLR cycle the momentum too, which Nesterov's form has no need of.
        cycle = OneCycleLR(optimiser, c.lr, total_steps=steps, cycle_momentum=False)
        return optimiser, cycle, "batch"

    def training_step(self, batch):
        """Return the training loss: smoothed labels, and the teacher's logits if there is one."""
        X, y = batch
        logits = self(X).float()
        loss = F.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing)
        if (teacher := self._teacher[0]) is not None:
            with torch.no_grad():
                targets = teacher.to(X.device)(X).float()
            loss = _distillation(logits, targets, loss, self.config)
        self.plot("loss", loss, train=True)
        return loss


@torch.no_grad()
def scale_start(net, config: Config) -> None:
    """Scale the weights that Xavier's rule drew to the start that a configuration asks for.

    Xavier's spread is sqrt(2 / (inputs + outputs)), Kaiming's sqrt(2 / inputs), so no other number
    is drawn than without it.
    """
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    if config.init == "kaiming":
        for layer in layers:
            layer.weight /= _xavier_gain(layer)
    if config.fc_gain:
        first = next(layer for layer in layers if isinstance(layer, torch.nn.Linear))
        first.weight *= config.fc_gain / _xavier_gain(first)


def _xavier_gain(layer) -> float:
    """Return the factor by which Xavier's rule draws closer than Kaiming's."""
    inputs, outputs = layer.weight[0].numel(), layer.weight[:, 0].numel()
    return (inputs / (inputs + outputs)) ** 0.5


def _distillation(logits, targets, hard_loss, config):
    """Hinton et al., 2015, arXiv 1503.02531: T squared keeps the gradient's size at any T."""
    T = config.temperature
    soft = F.kl_div(
        F.log_softmax(logits / T, dim=1),
        F.log_softmax(targets / T, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return config.soft_share * T**2 * soft + (1 - config.soft_share) * hard_loss
