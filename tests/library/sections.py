"""The code of the sections up to 4.5, in our own words, for any package with D2L's interface.

Each function is a section and takes the package, `d2l`, of which it uses what the section does.
Data are cut to some images, by what both packages allow: a `Subset` in place of the data set.
"""

from contextlib import contextmanager

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Subset
from torchvision import transforms


@contextmanager
def kept(classes):
    """Undoes what a section adds to these classes."""
    before = {cls: dict(vars(cls)) for cls in classes}
    try:
        yield
    finally:
        for cls, attributes in before.items():
            for name in {*vars(cls), *attributes}:
                if name not in attributes:
                    delattr(cls, name)
                elif vars(cls).get(name) is not attributes[name]:
                    setattr(cls, name, attributes[name])


def use_root(d2l, root):
    """Has data sets look in a folder, for D2L's own take none."""
    init = d2l.DataModule.__init__
    d2l.DataModule.__init__ = lambda self, *_, **__: init(self, root=root, num_workers=0)


def few(data, n=8):
    data.train, data.val = Subset(data.train, range(n)), Subset(data.val, range(n))
    data.num_workers = 0
    return data


def train(d2l, model, data, epochs=1):
    trainer = d2l.Trainer(max_epochs=epochs, num_gpus=1)
    trainer.fit(model, data)
    assert trainer.train_batch_idx == epochs * len(data.train_dataloader())
    return model


def network(d2l, *layers, lr=0.1, init=True):
    """Returns these layers in a classifier as the sections write one."""

    class Net(d2l.Classifier):
        def __init__(self, lr, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(*layers)
            if init:
                self.net.apply(d2l.init_cnn)

    return Net(lr)


def curves(d2l):
    def lines():
        return d2l.plt.gca().lines

    x = np.arange(0, 3, 0.1)
    d2l.plot(x, [3 * x**2 - 4 * x, 2 * x - 3], "x", "f(x)", legend=["f(x)", "Tangent line (x=1)"])
    assert [len(line.get_xdata()) for line in lines()] == [30, 30]
    assert d2l.plt.gca().get_xlabel() == "x"
    texts = d2l.plt.gca().get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["f(x)", "Tangent line (x=1)"]
    x = torch.arange(-8.0, 8.0, 0.1, requires_grad=True)
    y = torch.relu(x)
    d2l.plot(x.detach(), y.detach(), "x", "relu(x)", figsize=(5, 2.5))
    y.backward(torch.ones_like(x), retain_graph=True)
    d2l.plot(x.detach(), x.grad, "x", "grad of relu", figsize=(5, 2.5))
    assert len(lines()) == 1 and lines()[0].get_ydata()[-1] == 1
    d2l.set_figsize((4.5, 2.5))
    d2l.set_axes(d2l.plt.gca(), "x", "y", [0, 3], [-5, 10], "linear", "linear", ["f"])
    d2l.use_svg_display()


def object_oriented_design(d2l):
    class A:
        def __init__(self):
            self.b = 1

    a = A()

    @d2l.add_to_class(A)
    def do(self):
        return f"class attribute b is {self.b}"

    assert a.do() == "class attribute b is 1"

    class B(d2l.HyperParameters):
        def __init__(self, a, b, c):
            self.save_hyperparameters(ignore=["c"])

    b = B(a=1, b=2, c=3)
    assert (b.a, b.b, hasattr(b, "c")) == (1, 2, False)

    board = d2l.ProgressBoard("x")
    for i in range(20):
        x = torch.tensor(i / 10)
        board.draw(x, torch.sin(x), "sin", every_n=2)
        board.draw(x, torch.cos(x), "cos", every_n=10)
    assert [len(board.data[label]) for label in ("sin", "cos")] == [10, 2]


def synthetic_regression_data(d2l):
    data = d2l.SyntheticRegressionData(w=torch.tensor([2, -3.4]), b=4.2)
    assert (data.X[0].shape, data.y[0].shape) == ((2,), (1,))
    X, y = next(iter(data.train_dataloader()))
    assert (X.shape, y.shape, len(data.train_dataloader())) == ((32, 2), (32, 1), 32)

    @d2l.add_to_class(d2l.SyntheticRegressionData)
    def get_dataloader(self, train):
        indices = list(range(self.num_train)) if train else list(range(self.num_train, 2000))
        for i in range(0, len(indices), self.batch_size):
            batch = torch.tensor(indices[i : i + self.batch_size])
            yield self.X[batch], self.y[batch]

    assert next(iter(data.train_dataloader()))[0].shape == (32, 2)


def grow_the_trainer(d2l):
    """Gives the trainer the loop that section 3.4 writes, in place of its own."""

    @d2l.add_to_class(d2l.Trainer)
    def prepare_batch(self, batch):
        return batch

    @d2l.add_to_class(d2l.Trainer)
    def fit_epoch(self):
        self.model.train()
        for batch in self.train_dataloader:
            loss = self.model.training_step(self.prepare_batch(batch))
            self.optim.zero_grad()
            with torch.no_grad():
                loss.backward()
                if self.gradient_clip_val > 0:
                    self.clip_gradients(self.gradient_clip_val, self.model)
                self.optim.step()
            self.train_batch_idx += 1
        if self.val_dataloader is None:
            return
        self.model.eval()
        for batch in self.val_dataloader:
            with torch.no_grad():
                self.model.validation_step(self.prepare_batch(batch))
            self.val_batch_idx += 1


def linear_regression(d2l, own_loop=True):
    class SGD(d2l.HyperParameters):
        def __init__(self, params, lr):
            self.save_hyperparameters()

        def step(self):
            for param in self.params:
                param -= self.lr * param.grad

        def zero_grad(self):
            for param in self.params:
                if param.grad is not None:
                    param.grad.zero_()

    class Own(d2l.LinearRegressionScratch):
        def configure_optimizers(self):
            return SGD([self.w, self.b], self.lr)

    if own_loop:
        grow_the_trainer(d2l)
    w, b = torch.tensor([2, -3.4]), 4.2
    data = d2l.SyntheticRegressionData(w=w, b=b)
    assert 0.008 < (data.y - data.X @ w[:, None] - b).std() < 0.012
    found = []
    for model in (Own(2, lr=0.03), d2l.LinearRegressionScratch(2, lr=0.03, sigma=0)):
        with torch.no_grad():
            model.w.zero_()
        torch.manual_seed(1)
        trainer = d2l.Trainer(max_epochs=3)
        trainer.fit(model, data)
        assert trainer.train_batch_idx == 96
        assert len(model.board.data["train_loss"]) == 6
        assert [p.x for p in model.board.data["val_loss"]] == [1, 2, 3]
        found.append(model.w.detach().flatten())
        assert (found[-1] - w).abs().max() < 0.3 and abs(float(model.b.detach()) - b) < 0.4
    assert torch.equal(*found)

    model = d2l.LinearRegression(lr=0.03)
    d2l.Trainer(max_epochs=3).fit(model, data)
    w_found, b_found = model.get_w_b()
    assert (w - w_found.reshape(w.shape)).abs().max() < 0.1 and abs(b - float(b_found)) < 0.1


def weight_decay(d2l):
    class Data(d2l.DataModule):
        def __init__(self, num_train, num_val, num_inputs, batch_size):
            self.save_hyperparameters()
            n = num_train + num_val
            self.X = torch.randn(n, num_inputs)
            self.y = self.X @ (torch.ones(num_inputs, 1) * 0.01) + 0.05 + torch.randn(n, 1) * 0.01

        def get_dataloader(self, train):
            i = slice(0, self.num_train) if train else slice(self.num_train, None)
            return self.get_tensorloader([self.X, self.y], train, i)

    class WeightDecayScratch(d2l.LinearRegressionScratch):
        def __init__(self, num_inputs, lambd, lr, sigma=0.01):
            super().__init__(num_inputs, lr, sigma)
            self.save_hyperparameters()

        def loss(self, y_hat, y):
            return super().loss(y_hat, y) + self.lambd * (self.w**2).sum() / 2

    class WeightDecay(d2l.LinearRegression):
        def __init__(self, wd, lr):
            super().__init__(lr)
            self.save_hyperparameters()
            self.wd = wd

        def configure_optimizers(self):
            weight = {"params": self.net.weight, "weight_decay": self.wd}
            return torch.optim.SGD([weight, {"params": self.net.bias}], lr=self.lr)

    data = Data(num_train=20, num_val=100, num_inputs=200, batch_size=5)
    norms = []
    for lambd in (0, 3):
        model = WeightDecayScratch(num_inputs=200, lambd=lambd, lr=0.01)
        model.board.yscale = "log"
        d2l.Trainer(max_epochs=5).fit(model, data)
        norms.append(float((model.w.detach() ** 2).sum()))
    assert norms[1] < norms[0]
    model = WeightDecay(wd=3, lr=0.01)
    d2l.Trainer(max_epochs=5).fit(model, data)
    assert model.board.data["val_loss"][-1].y < model.board.data["val_loss"][0].y


def fashion_mnist(d2l):
    class FashionMNIST(d2l.DataModule):
        def __init__(self, batch_size=64, resize=(28, 28)):
            super().__init__()
            self.save_hyperparameters()
            trans = transforms.Compose([transforms.Resize(resize), transforms.ToTensor()])
            self.train, self.val = (
                torchvision.datasets.FashionMNIST(self.root, train=train, transform=trans)
                for train in (True, False)
            )

        def visualize(self, batch, nrows=1, ncols=8, labels=()):
            X, y = batch
            d2l.show_images(X.squeeze(1), nrows, ncols, titles=labels or [str(int(i)) for i in y])

    def get_dataloader(self, train):
        data = self.train if train else self.val
        return DataLoader(data, self.batch_size, shuffle=train, num_workers=self.num_workers)

    d2l.add_to_class(FashionMNIST)(get_dataloader)
    own, packaged = FashionMNIST(resize=(32, 32)), d2l.FashionMNIST(resize=(32, 32))
    assert (len(own.train), len(own.val)) == (len(packaged.train), len(packaged.val))
    batch = next(iter(own.val_dataloader()))
    assert all(map(torch.equal, batch, next(iter(packaged.val_dataloader()))))
    own.visualize(batch)
    assert len(d2l.plt.gcf().axes) == 8

    d2l.add_to_class(d2l.FashionMNIST)(get_dataloader)
    X, y = next(iter(few(d2l.FashionMNIST(batch_size=32), 64).train_dataloader()))
    assert (X.shape, X.dtype, y.dtype) == ((32, 1, 28, 28), torch.float32, torch.int64)


def learns(d2l, model):
    data = few(d2l.FashionMNIST(batch_size=32), 1500)
    train(d2l, model, data, epochs=3)
    assert model.board.data["val_acc"][-1].y > 0.65
    return data


def classification(d2l):
    class Classifier(d2l.Module):
        def validation_step(self, batch):
            Y_hat = self(*batch[:-1])
            self.plot("loss", self.loss(Y_hat, batch[-1]), train=False)
            self.plot("acc", self.accuracy(Y_hat, batch[-1]), train=False)

    @d2l.add_to_class(d2l.Module)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    @d2l.add_to_class(Classifier)
    def accuracy(self, Y_hat, Y, averaged=True):
        Y_hat = Y_hat.reshape((-1, Y_hat.shape[-1]))
        preds = Y_hat.argmax(axis=1).type(Y.dtype)
        compare = (preds == Y.reshape(-1)).type(torch.float32)
        return compare.mean() if averaged else compare

    class Regression(Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

        def loss(self, Y_hat, Y):
            return F.cross_entropy(Y_hat, Y)

    learns(d2l, Regression(0.1))


def softmax_regression_from_scratch(d2l):
    def softmax(X):
        X_exp = torch.exp(X)
        return X_exp / X_exp.sum(1, keepdims=True)

    class SoftmaxRegressionScratch(d2l.Classifier):
        def __init__(self, num_inputs, num_outputs, lr, sigma=0.01):
            super().__init__()
            self.save_hyperparameters()
            self.W = torch.normal(0, sigma, size=(num_inputs, num_outputs), requires_grad=True)
            self.b = torch.zeros(num_outputs, requires_grad=True)

        def parameters(self):
            return [self.W, self.b]

    @d2l.add_to_class(SoftmaxRegressionScratch)
    def forward(self, X):
        X = X.reshape((-1, self.W.shape[0]))
        return softmax(torch.matmul(X, self.W) + self.b)

    @d2l.add_to_class(SoftmaxRegressionScratch)
    def loss(self, y_hat, y):
        return -torch.log(y_hat[list(range(len(y_hat))), y]).mean()

    model = SoftmaxRegressionScratch(num_inputs=784, num_outputs=10, lr=0.1)
    data = learns(d2l, model)
    X, y = next(iter(data.val_dataloader()))
    preds = model(X).argmax(axis=1)
    wrong = preds.type(y.dtype) != y
    X, y, preds = X[wrong], y[wrong], preds[wrong]
    pairs = zip(data.text_labels(y), data.text_labels(preds), strict=True)
    labels = [a + "\n" + b for a, b in pairs]
    data.visualize([X, y], labels=labels)
    assert [ax.get_title() for ax in d2l.plt.gcf().axes] == labels[:8]


def softmax_regression_concise(d2l):
    @d2l.add_to_class(d2l.Classifier)
    def loss(self, Y_hat, Y, averaged=True):
        Y_hat = Y_hat.reshape((-1, Y_hat.shape[-1]))
        Y = Y.reshape((-1,))
        return F.cross_entropy(Y_hat, Y, reduction="mean" if averaged else "none")

    learns(d2l, d2l.SoftmaxRegression(num_outputs=10, lr=0.1))


SECTIONS = {
    "2.4 and 5.1": curves,
    "3.2": object_oriented_design,
    "3.3": synthetic_regression_data,
    "3.4 and 3.5": linear_regression,
    "3.7": weight_decay,
    "4.2": fashion_mnist,
    "4.3": classification,
    "4.4": softmax_regression_from_scratch,
    "4.5": softmax_regression_concise,
}
