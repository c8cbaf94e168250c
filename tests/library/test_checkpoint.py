"""Checkpoints: resumed to the bit, refused when settings differ, never half written."""

import contextlib
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import Line, Net, Random, Scratch, TenClasses, comparable, equal, fit, stop_at
from torch import nn

import d2l_utils as d2l
from d2l_utils.checkpoint import generators, read_saved, save, save_checkpoint
from d2l_utils.data import ImageSet
from d2l_utils.files import atomic_write


def fashion(seed):
    data = d2l.FashionMNIST(16, (12, 12), train_size=60, augment=["flip", "crop"], seed=seed)
    data.val = ImageSet(data.val.data[:40], data.val.targets[:40], data.resize)
    return data


@pytest.mark.parametrize(
    ("seed", "precision", "schedule", "stop"),
    [
        (None, "float32", True, "within an epoch"),
        (None, "bfloat16", False, "between epochs"),
        (3, "float32", False, "within an epoch"),
        (3, "bfloat16", True, "between epochs"),
    ],
)
def test_going_on_is_never_having_stopped(tmp_path, seed, precision, schedule, stop):
    def run(global_seed, path, stop_after=None):
        torch.manual_seed(global_seed)
        model, data = TenClasses(schedule=schedule), fashion(seed)
        trainer = d2l.Trainer(4, precision=precision, seed=seed, checkpoint=path)
        if stop_after is not None:
            stop_at(model, stop_after, KeyboardInterrupt())
        trainer.fit(model, data)
        return model, trainer, torch.get_rng_state()

    whole, trainer, generator = run(0, tmp_path / "whole.pt")
    batch = 8 if stop == "between epochs" else 10
    run(0, tmp_path / "parts.pt", stop_after=batch)
    # As in a new process: another state of the generators, another network, another trainer.
    resumed, second, second_generator = run(99, tmp_path / "parts.pt")
    assert second.train_batch_idx == trainer.train_batch_idx == 16
    assert second.val_batch_idx == trainer.val_batch_idx == 12
    assert equal(resumed, whole)
    assert comparable(second.history) == comparable(trainer.history)
    assert second.first_losses == trainer.first_losses
    assert resumed.board.data["val_acc"] == whole.board.data["val_acc"]
    # And so it would be if both went on.
    assert torch.equal(generator, second_generator)
    states = [t.optim.state_dict()["state"].values() for t in (trainer, second)]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


def save_run(path, model=Net, epochs=2, data=None, **arguments):
    data = Random(**{"seed": 0} | (data or {}))
    return fit(model(), data, epochs, **{"seed": 0, "checkpoint": path} | arguments)


def untouched(step=0):
    """Returns a network that may not be trained from this step on."""
    return stop_at(Net(), step, AssertionError())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def test_a_checkpoint_changes_nothing_and_can_be_gone_on_from_for_more_epochs(tmp_path):
    path = tmp_path / "new" / "folder" / "run.pt"
    whole = save_run(None, epochs=4)
    save_run(str(path))
    resumed = save_run(path, epochs=4)
    assert equal(resumed.model, whole.model)
    assert [x for x, _ in resumed.model.board.data["val_acc"]] == [1, 2, 3, 4]
    assert os.listdir(path.parent) == ["run.pt"] and read_saved(path)["tensors"] == {}


def test_one_of_several_processes_writes(path, monkeypatch):
    trainer = d2l.Trainer(1, checkpoint=path)
    trainer.start(Net(), Random())
    monkeypatch.setattr("d2l_utils.checkpoint.processes", lambda: (1, 2))
    save_checkpoint(trainer)
    assert not path.exists()
    left = path.with_name(f"{path.name}.123.part")
    left.touch()
    trainer.start(Net(), Random())
    assert left.exists()  # which may be the first's
    monkeypatch.undo()
    save_checkpoint(trainer)
    assert path.exists()


def test_a_finished_run_trains_no_more(path):
    first, second = save_run(path), save_run(path, lambda: untouched(6))
    assert equal(first.model, second.model)
    assert second.history == first.history
    with pytest.raises(ValueError, match=r"run\.pt is of 2 epochs, but max_epochs is 1"):
        save_run(path, epochs=1)


def changed(option, value):
    """Returns a network whose optimiser has another setting, which no argument tells."""
    model = Net()
    configure = model.configure_optimizers

    def configure_optimizers():
        optimiser = configure()
        optimiser.param_groups[0][option] = value
        return optimiser

    model.configure_optimizers = configure_optimizers
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"seed": np.int64(1)}, "seed 0, now 1"),
        ({"precision": "bfloat16"}, "precision float32, now bfloat16"),
        ({"gradient_clip_val": 1}, "gradient_clip_val 0, now 1"),
        ({"data": {"n": 30}}, "num_train_batches 3, now 4, data.n 20, now 30"),
        ({"model": lambda: Net(lr=0.06)}, "model.lr 0.05, now 0.06"),
        ({"model": lambda: Net(schedule=True)}, "scheduler NoneType, now OneCycleLR"),
        ({"model": Line}, "network"),
        ({"model": lambda: changed("lr", 0.06)}, "optimiser.groups.0.lr 0.05, now 0.06"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(path, change, message):
    save_run(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=rf"run\.pt was made with other settings: .*{message}"):
        save_run(path, **change)
    assert path.read_bytes() == content


def test_a_schedule_is_for_its_number_of_epochs(path):
    save_run(path, lambda: Net(schedule=True))
    with pytest.raises(ValueError, match=r"total_steps 6, now 9, .*max_epochs 2, now 3"):
        save_run(path, lambda: Net(schedule=True), epochs=3)


def test_settings_of_the_callers_own_must_match_too_but_not_where_the_data_lies(path):
    def run(epochs, gain):
        model, data = Line(), Random(seed=0)
        model.hparams["config"] = {"gain": gain, "head": (4, 5)}
        data.hparams |= {"root": f"folder {epochs}", "num_workers": epochs, "more": torch.rand(3)}
        return fit(model, data, epochs, seed=0, checkpoint=path)

    run(1, gain=1)
    trainer = run(2, gain=1)
    assert (trainer.train_batch_idx, trainer.resumed_epochs) == (6, 1)
    with pytest.raises(ValueError, match=r"model\.config\.gain 1, now 2;"):
        run(3, gain=2)


def test_numbers_of_numpy_are_settings_like_any(path):
    def run(epochs):
        model = changed("weight_decay", np.float32(0.5))
        return save_run(path, lambda: model, epochs, seed=np.int64(0))

    run(1)
    assert run(2).resumed_epochs == 1


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda whole: b"no checkpoint", lambda whole: whole[:-1]])
def test_a_damaged_checkpoint_is_named(path, damage):
    save_run(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run\.pt is damaged"):
        save_run(path)


def test_a_bit_that_flips_is_noticed(path):
    save_run(path, Line)  # whose weights fill a good part of the file
    whole = path.read_bytes()
    good = read_saved(path)["model"]
    noticed = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert equal(read_saved(path)["model"], good)  # it was in the padding
        except ValueError as error:
            assert "damaged" in str(error)
            noticed += 1
    assert noticed > 10


def test_another_file_of_torch_is_no_checkpoint(path):
    torch.save(Line().state_dict(), path)
    with pytest.raises(ValueError, match=r"run\.pt is no checkpoint of this trainer"):
        save_run(path)


def test_a_file_that_would_run_a_command_is_refused(path):
    made = path.with_name("made")
    runs = type("Runs", (), {"__reduce__": lambda self: (os.mkdir, (str(made),))})
    torch.save({"settings": runs()}, path)
    with pytest.raises(ValueError, match=r"run\.pt is damaged"):
        save_run(path)
    assert not made.exists()


def test_a_checkpoint_is_written_whole_or_not_at_all(path, monkeypatch):
    def breaks(state, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    save_run(path)
    content = path.read_bytes()
    monkeypatch.setattr(torch, "save", breaks)
    assert save_run(path, epochs=3).interrupted
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["run.pt"]


@contextlib.contextmanager
def full_disk():
    """Stands in for a full disk: no file may grow beyond 8 KiB, the report of the tests neither."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(path, monkeypatch):
    save_run(path)
    content = path.read_bytes()
    assert len(content) > 8192
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    full = r"^\[Errno 27\] File too large; its disk has 3 MiB.*run\.pt"
    with pytest.raises(OSError, match=full), full_disk():
        save_run(path, epochs=3)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["run.pt"]


def test_an_unreadable_checkpoint_is_not_called_damaged(path, monkeypatch):
    def refuses(*_):
        raise PermissionError(13, "Permission denied")

    save_run(path)
    monkeypatch.setattr("builtins.open", refuses)
    with pytest.raises(PermissionError):
        save_run(path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("not enough memory: you tried to allocate 9 bytes.")]
)
def test_a_checkpoint_that_memory_is_too_small_for_is_not_called_damaged(path, monkeypatch, error):
    def refuses(*_, **__):
        raise error

    save_run(path)
    monkeypatch.setattr(torch, "load", refuses)
    with pytest.raises(type(error)) as raised:
        save_run(path)
    assert raised.value is error


def test_what_no_reader_of_checkpoints_takes_is_not_written(path):
    save_run(path)
    content = path.read_bytes()
    with pytest.raises(TypeError, match=r"run\.pt cannot hold types\.SimpleNamespace, only"):
        save({"history": SimpleNamespace()}, path)
    assert path.read_bytes() == content


def test_a_checkpoint_in_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save_run(tmp_path / "file" / "run.pt", untouched)


# --- tensors that are no weights of torch's ---------------------------------------------------


class BatchNorm(nn.Module):
    """Written by hand, with moving averages that are plain tensors, one of them in a list."""

    def __init__(self):
        super().__init__()
        self.moving_mean, self.others = torch.zeros(4, 1, 1), [torch.ones(4, 1, 1)]

    def forward(self, X):
        if self.training:
            mean, var = X.mean((0, 2, 3), keepdim=True)[0], X.var((0, 2, 3), keepdim=True)[0]
            self.moving_mean = 0.9 * self.moving_mean + 0.1 * mean
            self.others[0] = 0.9 * self.others[0] + 0.1 * var
            self.steps = getattr(self, "steps", torch.zeros(())) + 1  # made in the first pass
        else:
            mean, var = self.moving_mean + 0 * getattr(self, "steps", 0), self.others[0]
        return (X - mean) / (var + 1e-5).sqrt()


class HandMade(Net):
    def __init__(self):
        super().__init__()
        self.net[1] = BatchNorm()
        self.net[2].register_buffer("scale", torch.ones(()), persistent=False)

    def training_step(self, batch):
        self.net[2].scale += 1
        return super().training_step(batch)


@pytest.mark.parametrize("kind", [HandMade, Scratch])
def test_tensors_that_no_state_dict_has_are_kept(tmp_path, kind):
    def tensors(model):
        if kind is Scratch:
            return [model.W]
        norm = model.net[1]
        return [norm.moving_mean, norm.others[0], norm.steps, model.net[2].scale]

    def run(name, epochs, seed=0):
        torch.manual_seed(seed)  # of the weights at the start
        return save_run(tmp_path / name, kind, epochs)

    run("parts.pt", 2)
    whole, resumed = run("whole.pt", 4), run("parts.pt", 4, seed=1)
    assert resumed.resumed_epochs == 2
    assert comparable(resumed.history) == comparable(whole.history)
    assert all(map(torch.equal, tensors(resumed.model), tensors(whole.model)))


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpu_draws_from_a_generator_of_its_own(kind, monkeypatch):
    gpus = ["first", "second", "third"]
    module = SimpleNamespace(default_generators=gpus, current_device=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for device, gpu in ((f"{kind}:0", "first"), (f"{kind}:1", "second"), (kind, "third")):
        trainer = SimpleNamespace(device=torch.device(device))
        assert generators(trainer) == {"cpu": torch.default_generator, kind: gpu}


class Hidden(Scratch):
    """With a weight that is in no module."""

    def __init__(self):
        super().__init__()
        self.box = type("Box", (), {"W": self.W})
        self.W = None

    def parameters(self):
        return [self.box.W]


class ByHand(Scratch):
    """With an optimiser that tells no state."""

    def configure_optimizers(self):
        return d2l.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("model", "culprit"), [(Hidden, "Hidden"), (ByHand, "SGD")])
def test_a_state_that_a_checkpoint_would_lose_is_refused(path, model, culprit):
    with pytest.raises(TypeError, match=f"{culprit} cannot be kept in a checkpoint"):
        save_run(path, model)
    assert not path.exists()


class Late(Line):
    """With state that the first training step makes, in a place that a new network lacks."""

    def __init__(self, make):
        super().__init__()
        self.make, self.notes = make, {"first": torch.zeros(1)}

    def training_step(self, batch):
        self.make(self)
        return super().training_step(batch)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda model: model.notes.update(mean=torch.ones(2)), r":notes\['mean'\]"),
        (lambda model: model.notes.update(first=torch.ones(2)), r":notes\['first'\]"),
        (lambda model: model.net.register_buffer("n", torch.ones(2)), r"net\.n"),
        (lambda model: model.register_buffer("n", torch.ones(2), False), r":_buffers\['n'\]"),
    ],
)
def test_a_state_that_could_not_be_put_back_is_refused(path, make, name):
    with pytest.raises(TypeError, match=rf"^{name} cannot be kept in a checkpoint; make it"):
        save_run(path, lambda: Late(make))
    assert not path.exists()


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(tmp_path):
    left, others = tmp_path / "run[1].pt.123.part", tmp_path / "run1.pt.123.part"
    for part in (left, others):
        part.touch()
    save_run(tmp_path / "run[1].pt")
    assert sorted(os.listdir(tmp_path)) == ["run1.pt.123.part", "run[1].pt"]


def test_a_folder_that_takes_no_checkpoint_is_refused_before_training(tmp_path, monkeypatch):
    """Here the system is made to say so; the laboratory's tests have it do so."""
    path = tmp_path / "run.pt"
    save_run(path)
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    save_run(path)  # finished: nothing is to be written
    with pytest.raises(PermissionError, match=rf"permission to write run\.pt to .*{tmp_path}"):
        save_run(path, untouched, epochs=3)


def test_why_a_file_refuses_is_said_in_one_line(path):
    with pytest.raises(OSError, match=r"the file has no room; its disk has .* MiB left"):
        with atomic_write(path):
            raise RuntimeError("the file has no room\nat zip.cpp:12")
