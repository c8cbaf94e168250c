"""A run in a file: its state, the settings that must match to resume, its random generators."""

import glob
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from d2l_utils.distributed import processes
from d2l_utils.files import atomic_write

__all__ = ["differences", "fingerprint", "flat", "read_saved", "resume", "save", "save_checkpoint"]

PROGRESS = ("epoch", "history", "first_losses", "train_batch_idx", "val_batch_idx")


def save_checkpoint(trainer) -> None:
    """Write the state of a trainer that has started to `trainer.checkpoint`, if it is a path."""
    if trainer.checkpoint is None or processes()[0] > 0:
        return
    for name, _ in _places(trainer.model).items() - trainer.places.items():
        if ":" not in name or "[" in name:  # a module's plain attribute can be made anew
            raise TypeError(f"{name} cannot be kept in a checkpoint; make it in __init__, in full")
    state = {name: getattr(trainer, name) for name in PROGRESS} | {
        "settings": trainer.settings,
        "model": trainer.model.state_dict(),
        "tensors": {name: t.detach() for name, t in _plain_tensors(trainer.model).items()},
        "optim": tree_map(_python, trainer.optim.state_dict()),
        "scheduler": trainer.scheduler and tree_map(_python, trainer.scheduler.state_dict()),
        "random": {name: source.get_state() for name, source in generators(trainer).items()},
    }
    save(state, Path(trainer.checkpoint))


def save(state: dict, path: Path) -> None:
    """Write with `torch.save`, whole or not at all, what `read_saved` can read."""
    with atomic_write(path) as part:
        with part.open("wb") as file:  # given a path, torch hides the OSError
            torch.save(state, file)
        if foreign := torch.serialization.get_unsafe_globals_in_checkpoint(part):
            raise TypeError(f"{path} cannot hold {min(foreign)}, only numbers, text and tensors")


def resume(trainer) -> None:
    """Note the settings of a trainer that starts; go on from its checkpoint if that is there."""
    _check_nothing_is_lost(trainer)
    trainer.settings, trainer.places = fingerprint(trainer), _places(trainer.model)
    path = Path(trainer.checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _restore(trainer, _matching_state(trainer, path))
    if processes()[0] > 0 or trainer.epoch == trainer.max_epochs:
        return
    if not os.access(path.parent, os.W_OK):  # else it would fail late, after the first epoch
        raise PermissionError(f"no permission to write {path.name} to the folder {path.parent}")
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):  # left by killed processes
        part.unlink(missing_ok=True)


def _matching_state(trainer, path):
    state = read_saved(path)
    if not isinstance(state, dict) or "settings" not in state:
        wrong = "is no checkpoint of this trainer"
    elif other := differences(state["settings"], trainer.settings):
        wrong = f"was made with other settings: {other}"
    elif state["epoch"] > trainer.max_epochs:
        wrong = f"is of {state['epoch']} epochs, but max_epochs is {trainer.max_epochs}"
    else:
        return state
    raise ValueError(f"{path} {wrong}; delete it to start anew, or give another checkpoint file")


def _restore(trainer, state):
    for name in PROGRESS:
        setattr(trainer, name, state[name])
    trainer.model.load_state_dict(state["model"])
    tensors = _plain_tensors(trainer.model)
    for name, saved in state["tensors"].items():
        if name in tensors and tensors[name].shape == saved.shape:
            tensors[name].detach().copy_(saved)  # it may be a weight that the optimiser holds
        else:  # made in the first forward pass
            path, attribute = name.split(":")
            setattr(trainer.model.get_submodule(path), attribute, saved.to(trainer.device))
    trainer.optim.load_state_dict(state["optim"])
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    for name, source in generators(trainer).items():
        if name in state["random"]:  # a run resumed on another device lacks its generator
            source.set_state(state["random"][name])


def read_saved(path: str | os.PathLike):
    """Return what `torch.save` wrote to a file.

    Raises:
        ValueError: if it is damaged, or was not written so.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                # torch.load checks no checksum, and takes what is marked as a folder for empty.
                folders = [part for part in archive.infolist() if part.external_attr & 16]
                if folders or archive.testzip():
                    raise ValueError("a part of it is not what was written")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file has many ways to fail
            if isinstance(error, MemoryError) or "you tried to allocate" in str(error):
                raise  # for want of memory; the file may be sound
            raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error


def fingerprint(trainer) -> dict:
    """Return the settings that must match to resume, by names such as `model.lr`.

    What JSON cannot hold is left out, as is where the data lie.
    """
    model, data, scheduler = trainer.model, trainer.data, trainer.scheduler
    groups = trainer.optim.state_dict()["param_groups"]
    settings = {
        "seed": trainer.seed,
        "precision": trainer.precision,
        "gradient_clip_val": trainer.gradient_clip_val,
        "num_train_batches": trainer.num_train_batches,
        "network": str(model),
        "model": getattr(model, "hparams", {}),
        "data": {"class": type(data).__name__, **getattr(data, "hparams", {})},
        "optimiser": {"class": type(trainer.optim).__name__, "groups": dict(enumerate(groups))},
        "scheduler": type(scheduler).__name__,
        "schedule": scheduler and scheduler.state_dict(),
        # A schedule is laid out for a number of epochs; plain SGD can go on for more.
        "max_epochs": scheduler and trainer.max_epochs,
    }
    elsewhere = ("data.root", "data.num_workers")
    return {name: value for name, value in flat(settings).items() if name not in elsewhere}


def flat(settings: dict, prefix: str = "") -> dict:
    """Return nested settings on one level, as JSON keeps them.

    >>> flat({"model": {"lr": 0.1, "arch": (1, 2), "net": object()}})
    {'model.lr': 0.1, 'model.arch': [1, 2]}
    """
    plain: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            plain |= flat(value, f"{prefix}{name}.")
        else:
            with suppress(TypeError):
                plain[f"{prefix}{name}"] = json.loads(json.dumps(tree_map(_python, value)))
    return plain


def differences(was: dict, now: dict) -> str:
    """Return how settings on one level differ, "" if they do not.

    >>> differences({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0})
    'lr 0.1, now 0.2'
    """
    changed = []
    for name in was | now:
        if was.get(name) != now.get(name):
            both = f"{name} {was.get(name)}, now {now.get(name)}"
            changed.append(both if len(both) < 100 else name)
    return ", ".join(changed)


def generators(trainer) -> dict[str, torch.Generator]:
    """Return the generators that a run draws from: weights, order, dropout, augmentation."""
    sources, device = {"cpu": torch.default_generator}, trainer.device
    if data := getattr(getattr(trainer, "data", None), "generator", None):
        sources["data"] = data
    if device.type == "mps":  # Apple's GPU
        sources["mps"] = torch.mps._get_default_mps_generator()
    elif device.type != "cpu":
        module = torch.get_device_module(device)
        number = module.current_device() if device.index is None else device.index
        sources[device.type] = module.default_generators[number]
    return sources


def _python(value):
    """Return a number of NumPy's as Python's; neither JSON nor `torch.load` takes NumPy's."""
    return value.item() if isinstance(value, np.generic) else value


def _places(model) -> dict:
    """Return the names in a model's state, and the shapes of the tensors that torch leaves out."""
    shapes = {name: tensor.shape for name, tensor in _plain_tensors(model).items()}
    return dict.fromkeys(model.state_dict()) | shapes


def _plain_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that `state_dict` leaves out, such as a handmade layer's averages.

    Their names are a module's, a colon, and their place in it.
    """
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    return {
        f"{path}:{keystr(place[:1])[2:-2]}{keystr(place[1:])}": leaf
        for path, module in model.named_modules()
        for place, leaf in tree_flatten_with_path(vars(module))[0]
        if isinstance(leaf, torch.Tensor) and id(leaf) not in kept
    }


def _check_nothing_is_lost(trainer):
    model, parts = trainer.model, [trainer.optim, trainer.scheduler]
    tensors = [*model.state_dict(keep_vars=True).values(), *_plain_tensors(model).values()]
    lost = [type(p).__name__ for p in parts if p is not None and not hasattr(p, "state_dict")]
    if {id(p) for p in model.parameters()} - {id(tensor) for tensor in tensors}:
        lost.append(type(model).__name__)
    if lost:
        raise TypeError(
            f"{lost[0]} cannot be kept in a checkpoint: it has no state_dict(), or parameters that "
            "are neither in that nor attributes of a module"
        )
