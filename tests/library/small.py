"""Small networks and data that the tests of the trainer share."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import d2l_utils as d2l


class Random(d2l.DataModule):
    """Random images of two classes: bright ones and dark ones."""

    def __init__(self, n=20, n_val=11, batch_size=8, seed=None):
        self.save_hyperparameters()
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        source = torch.Generator().manual_seed(0)
        self.y = torch.randint(2, (n + n_val,), generator=source)
        noise = torch.rand(n + n_val, 1, 8, 8, generator=source)
        self.X = noise + 0.2 * self.y[:, None, None, None]

    def get_dataloader(self, train):
        indices = slice(0, self.n) if train else slice(self.n, None)
        return self.get_tensorloader((self.X, self.y), train, indices)


class Net(d2l.Classifier):
    """A small network with all that has a state of its own: dropout, batch norm, momentum."""

    def __init__(self, lr=0.05, momentum=0.9, schedule=False, dropout=0.5):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.LazyConv2d(4, 3),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.LazyLinear(2),
        )
        self.net.apply(d2l.init_cnn)

    def configure_optimizers(self):
        optimiser = torch.optim.SGD(
            self.parameters(), self.lr, self.momentum, weight_decay=1e-3, nesterov=self.momentum > 0
        )
        if not self.schedule:
            return optimiser
        steps = self.trainer.max_epochs * self.trainer.num_train_batches
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, steps), "batch"


class TenClasses(Net):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.net[-1] = nn.LazyLinear(10)


class Line(d2l.Classifier):
    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


class Scratch(Line):
    """With weights that are no nn.Parameter."""

    def __init__(self):
        super().__init__()
        self.W = self.net[1].weight.detach().clone().requires_grad_()
        del self.net

    def parameters(self):
        return [self.W]

    def forward(self, X):
        return X.flatten(1) @ self.W.T


class NoFloat64(TorchDispatchMode):
    """Stands in for a device like Apple's GPUs, which refuse numbers in double precision."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            dtype = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
            if isinstance(dtype, torch.dtype) and dtype == torch.float64:
                raise TypeError(f"{operation}: this device has no float64")
        return out


def fit(model=None, data=None, epochs=1, **arguments):
    """Trains the model, or a new one, and returns the trainer."""
    trainer = d2l.Trainer(epochs, **arguments)
    trainer.fit(Net() if model is None else model, Random() if data is None else data)
    return trainer


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(*models):
    """Tells whether two models, or dicts of weights, have the same weights."""
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in models)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def comparable(history):
    """Leaves out what a clock measured."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in history]


def stop_at(model, batch, error):
    """Makes the model raise `error` in the given step, counted from 0."""
    train = model.training_step

    def training_step(data):
        if model.trainer.train_batch_idx == batch:
            raise error
        return train(data)

    model.training_step = training_step
    return model
