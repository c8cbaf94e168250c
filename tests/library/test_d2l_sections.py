"""What a reader does who changes one line, the import, and runs the sections' code.

The code here is written afresh, in the way of the sections that the tests are named after.
"""

import functools
import time

import matplotlib
import pytest
import torch
import torchvision
from matplotlib import pyplot as plt
from sections import SECTIONS
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision import transforms

import d2l_utils as d2l
from d2l_utils import data as data_module
from d2l_utils import fashion_mnist_files
from d2l_utils.data import ImageSet

read_files = functools.cache(fashion_mnist_files.load)


@pytest.fixture(autouse=True)
def as_in_a_notebook_of_its_own(monkeypatch):
    """Undoes what a section adds to classes, and reads the data set once for all."""
    classes = (d2l.HyperParameters, d2l.Module, d2l.Classifier, d2l.DataModule, d2l.FashionMNIST)
    classes += (d2l.Trainer, d2l.ProgressBoard, d2l.SyntheticRegressionData)
    before = {cls: dict(vars(cls)) for cls in classes}
    monkeypatch.setattr(data_module, "load", read_files)
    matplotlib.use("Agg")
    torch.manual_seed(0)
    with matplotlib.rc_context():
        yield
    plt.close("all")
    for cls, attributes in before.items():
        for name in set(vars(cls)) - set(attributes):
            delattr(cls, name)
        for name, value in attributes.items():
            if vars(cls)[name] is not value:
                setattr(cls, name, value)


def few(data, n=128):
    """Leaves a few test images only, so that large networks are soon through with them."""
    data.val = ImageSet(data.val.data[:n], data.val.targets[:n], data.resize)
    return data


# --- object-oriented design -------------------------------------------------------------------


def test_object_oriented_design():
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
    for i in range(100):
        x = torch.tensor(i / 10)
        board.draw(x, torch.sin(x), "sin", every_n=2)
        board.draw(x, torch.cos(x), "cos", every_n=10)
    assert [len(board.data[label]) for label in ("sin", "cos")] == [50, 10]


# --- linear regression from scratch -----------------------------------------------------------


class SyntheticRegressionData(d2l.DataModule):
    def __init__(self, w, b, noise=0.01, num_train=1000, num_val=1000, batch_size=32):
        super().__init__()
        self.save_hyperparameters()
        n = num_train + num_val
        self.X = torch.randn(n, len(w))
        self.y = torch.matmul(self.X, w.reshape((-1, 1))) + b + torch.randn(n, 1) * noise

    def get_dataloader(self, train):
        i = slice(0, self.num_train) if train else slice(self.num_train, None)
        return self.get_tensorloader((self.X, self.y), train, i)


class LinearRegressionScratch(d2l.Module):
    def __init__(self, num_inputs, lr, sigma=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.w = torch.normal(0, sigma, (num_inputs, 1), requires_grad=True)
        self.b = torch.zeros(1, requires_grad=True)

    def forward(self, X):
        return torch.matmul(X, self.w) + self.b

    def loss(self, y_hat, y):
        return ((y_hat - y) ** 2 / 2).mean()

    def configure_optimizers(self):
        return SGD([self.w, self.b], self.lr)


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


def grow_the_trainer():
    """Gives the trainer the loop that the section writes, in place of its own."""

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


@pytest.mark.parametrize("own_loop", [False, True])
def test_linear_regression_from_scratch(own_loop):
    w, b = torch.tensor([2, -3.4]), 4.2
    if own_loop:
        grow_the_trainer()
    model = LinearRegressionScratch(2, lr=0.03)
    data = SyntheticRegressionData(w=w, b=b)
    trainer = d2l.Trainer(max_epochs=3, precision="float32")
    trainer.fit(model, data)
    with torch.no_grad():
        torch.testing.assert_close(model.w.reshape(w.shape), w, atol=0.2, rtol=0)
        torch.testing.assert_close(model.b, torch.tensor([b]), atol=0.3, rtol=0)
    assert trainer.train_batch_idx == 96
    assert len(model.board.data["train_loss"]) == 6
    assert [x for x, _ in model.board.data["val_loss"]] == [1, 2, 3]


# --- Fashion-MNIST ----------------------------------------------------------------------------


def test_fashion_mnist():
    d2l.use_svg_display()
    data = d2l.FashionMNIST(resize=(32, 32))
    assert (len(data.train), len(data.val)) == (60000, 10000)
    assert data.train[0][0].shape == (1, 32, 32)
    X, y = next(iter(data.train_dataloader()))
    assert (X.shape, X.dtype, y.shape, y.dtype) == (
        (64, 1, 32, 32),
        torch.float32,
        (64,),
        torch.int64,
    )
    tic = time.time()
    for X, y in data.train_dataloader():  # noqa: B007
        continue
    assert time.time() > tic
    batch = next(iter(data.val_dataloader()))
    data.visualize(batch)
    titles = [ax.get_title() for ax in plt.gcf().axes]
    assert titles == "ankle boot,pullover,trouser,trouser,shirt,trouser,coat,shirt".split(",")


def test_fashion_mnist_as_the_section_builds_it(tmp_path):
    for name in fashion_mnist_files.FILES:
        path = tmp_path / "FashionMNIST" / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fashion_mnist_files.read_file(fashion_mnist_files.find_folder(), name))

    class FashionMNIST(d2l.DataModule):
        def __init__(self, batch_size=64, resize=(28, 28)):
            super().__init__(root=tmp_path, num_workers=0)
            self.save_hyperparameters()
            trans = transforms.Compose([transforms.Resize(resize), transforms.ToTensor()])
            self.train, self.val = (
                torchvision.datasets.FashionMNIST(self.root, train=train, transform=trans)
                for train in (True, False)
            )

    @d2l.add_to_class(FashionMNIST)
    def text_labels(self, indices):
        labels = "t-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()
        return [labels[int(i)] for i in indices]

    @d2l.add_to_class(FashionMNIST)
    def get_dataloader(self, train):
        data = self.train if train else self.val
        return torch.utils.data.DataLoader(
            data, self.batch_size, shuffle=train, num_workers=self.num_workers
        )

    @d2l.add_to_class(FashionMNIST)
    def visualize(self, batch, nrows=1, ncols=8, labels=()):
        X, y = batch
        labels = labels or self.text_labels(y)
        d2l.show_images(X.squeeze(1), nrows, ncols, titles=labels)

    data, ours = FashionMNIST(resize=(32, 32)), d2l.FashionMNIST(resize=(32, 32))
    assert (len(data.train), len(data.val)) == (len(ours.train), len(ours.val))
    for batch, our_batch in zip(data.val_dataloader(), ours.val_dataloader(), strict=True):
        assert all(map(torch.equal, batch, our_batch))
    data.visualize(batch)
    assert len(plt.gcf().axes) == 8


def test_our_data_set_in_a_loader_of_torch():
    @d2l.add_to_class(d2l.FashionMNIST)
    def get_dataloader(self, train):
        data = self.train if train else self.val
        return torch.utils.data.DataLoader(
            data, self.batch_size, shuffle=train, num_workers=self.num_workers
        )

    X, y = next(iter(d2l.FashionMNIST(batch_size=32).train_dataloader()))
    assert (X.shape, X.dtype, y.dtype) == ((32, 1, 28, 28), torch.float32, torch.int64)


# --- classification ---------------------------------------------------------------------------


def test_classification_as_the_section_builds_it():
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

    trainer = d2l.Trainer(max_epochs=2)
    trainer.fit(Regression(0.1), d2l.FashionMNIST(batch_size=256, train_size=4096))
    assert trainer.history[-1]["val_acc"] > 0.65


def test_softmax_regression_from_scratch():
    def softmax(X):
        X_exp = torch.exp(X)
        return X_exp / X_exp.sum(1, keepdims=True)

    X = torch.rand((2, 5))
    torch.testing.assert_close(softmax(X).sum(1), torch.ones(2))

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

    def cross_entropy(y_hat, y):
        return -torch.log(y_hat[list(range(len(y_hat))), y]).mean()

    @d2l.add_to_class(SoftmaxRegressionScratch)
    def loss(self, y_hat, y):
        return cross_entropy(y_hat, y)

    data = d2l.FashionMNIST(batch_size=256, train_size=8192)
    model = SoftmaxRegressionScratch(num_inputs=784, num_outputs=10, lr=0.1)
    trainer = d2l.Trainer(max_epochs=3)
    trainer.fit(model, data)
    assert trainer.history[-1]["val_acc"] > 0.7

    X, y = next(iter(data.val_dataloader()))
    preds = model(X).argmax(axis=1)
    assert preds.shape == (256,)
    wrong = preds.type(y.dtype) != y
    X, y, preds = X[wrong], y[wrong], preds[wrong]
    labels = [
        a + "\n" + b
        for a, b in zip(data.text_labels(y), data.text_labels(preds), strict=True)  # true, then not
    ]
    data.visualize([X, y], labels=labels)
    assert [ax.get_title() for ax in plt.gcf().axes] == labels[:8]


def test_softmax_regression_with_an_optimiser_of_its_own():
    class SoftmaxRegression(d2l.Classifier):
        def __init__(self, num_inputs, num_outputs, lr):
            super().__init__()
            self.save_hyperparameters()
            self.W = torch.normal(0, 0.01, size=(num_inputs, num_outputs), requires_grad=True)

        def parameters(self):
            return [self.W]

        def forward(self, X):
            return torch.matmul(X.reshape((-1, self.num_inputs)), self.W)

        def configure_optimizers(self):
            return SGD(self.parameters(), self.lr)

    trainer = d2l.Trainer(max_epochs=2, gradient_clip_val=1)
    trainer.fit(SoftmaxRegression(784, 10, 0.1), d2l.FashionMNIST(batch_size=256, train_size=4096))
    assert trainer.history[-1]["val_acc"] > 0.65


def test_softmax_regression_concise():
    class SoftmaxRegression(d2l.Classifier):
        def __init__(self, num_outputs, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_outputs))

        def forward(self, X):
            return self.net(X)

    @d2l.add_to_class(d2l.Classifier)
    def loss(self, Y_hat, Y, averaged=True):
        Y_hat = Y_hat.reshape((-1, Y_hat.shape[-1]))
        Y = Y.reshape((-1,))
        return F.cross_entropy(Y_hat, Y, reduction="mean" if averaged else "none")

    data = d2l.FashionMNIST(batch_size=256, train_size=4096)
    model = SoftmaxRegression(num_outputs=10, lr=0.1)
    trainer = d2l.Trainer(max_epochs=2)
    trainer.fit(model, data)
    assert trainer.history[-1]["val_acc"] > 0.65


# --- LeNet, AlexNet, VGG ----------------------------------------------------------------------


def test_lenet(capsys):
    def init_cnn(module):
        if type(module) is nn.Linear or type(module) is nn.Conv2d:
            nn.init.xavier_uniform_(module.weight)

    class LeNet(d2l.Classifier):
        def __init__(self, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(
                nn.LazyConv2d(6, kernel_size=5, padding=2),
                nn.Sigmoid(),
                nn.AvgPool2d(kernel_size=2, stride=2),
                nn.LazyConv2d(16, kernel_size=5),
                nn.Sigmoid(),
                nn.AvgPool2d(kernel_size=2, stride=2),
                nn.Flatten(),
                nn.LazyLinear(120),
                nn.Sigmoid(),
                nn.LazyLinear(84),
                nn.Sigmoid(),
                nn.LazyLinear(num_classes),
            )

    LeNet().layer_summary((1, 1, 28, 28))
    ours = capsys.readouterr().out

    @d2l.add_to_class(d2l.Classifier)
    def layer_summary(self, X_shape):
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(layer.__class__.__name__, "output shape:\t", X.shape)

    model = LeNet()
    model.layer_summary((1, 1, 28, 28))
    assert capsys.readouterr().out == ours
    assert ours.count("\n") == 12 and ours.endswith("Linear output shape:\t torch.Size([1, 10])\n")

    trainer = d2l.Trainer(max_epochs=3, num_gpus=1)
    data = few(d2l.FashionMNIST(batch_size=128, train_size=2048), 1000)
    model = LeNet(lr=0.1)
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], init_cnn)
    trainer.fit(model, data)
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]
    assert trainer.device == d2l.try_gpu()


def test_alexnet(capsys):
    class AlexNet(d2l.Classifier):
        def __init__(self, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(
                nn.LazyConv2d(96, kernel_size=11, stride=4, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
                nn.LazyConv2d(256, kernel_size=5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
                nn.LazyConv2d(384, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.LazyConv2d(384, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.LazyConv2d(256, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
                nn.Flatten(),
                nn.LazyLinear(4096),
                nn.ReLU(),
                nn.Dropout(p=0.5),
                nn.LazyLinear(4096),
                nn.ReLU(),
                nn.Dropout(p=0.5),
                nn.LazyLinear(num_classes),
            )
            self.net.apply(d2l.init_cnn)

    AlexNet().layer_summary((1, 1, 224, 224))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[12] == "MaxPool2d output shape:\t torch.Size([1, 256, 5, 5])"

    model = AlexNet(lr=0.01)
    data = few(d2l.FashionMNIST(batch_size=16, resize=(224, 224), train_size=32), 32)
    trainer = d2l.Trainer(max_epochs=1, num_gpus=1)
    trainer.fit(model, data)
    assert trainer.train_batch_idx == 2 and trainer.history[0]["train_loss"] < 10


def test_vgg(capsys):
    def vgg_block(num_convs, out_channels):
        layers = []
        for _ in range(num_convs):
            layers.append(nn.LazyConv2d(out_channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    class VGG(d2l.Classifier):
        def __init__(self, arch, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            conv_blks = []
            for num_convs, out_channels in arch:
                conv_blks.append(vgg_block(num_convs, out_channels))
            self.net = nn.Sequential(
                *conv_blks,
                nn.Flatten(),
                nn.LazyLinear(4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.LazyLinear(4096),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.LazyLinear(num_classes),
            )
            self.net.apply(d2l.init_cnn)

    VGG(((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))).layer_summary((1, 1, 224, 224))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[4] == "Sequential output shape:\t torch.Size([1, 512, 7, 7])"
    assert lines[5] == "Flatten output shape:\t torch.Size([1, 25088])"

    model = VGG(arch=((1, 16), (1, 32), (2, 64), (2, 128), (2, 128)), lr=0.01)
    trainer = d2l.Trainer(max_epochs=1, num_gpus=1)
    data = few(d2l.FashionMNIST(batch_size=16, resize=(224, 224), train_size=32), 32)
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], d2l.init_cnn)
    trainer.fit(model, data)
    assert trainer.train_batch_idx == 2 and trainer.history[0]["train_loss"] < 10


@pytest.mark.parametrize("size", [(224, 224), (56, 56)])
def test_vgg_of_the_package(size):
    model = d2l.VGG(arch=((1, 16), (1, 32), (2, 64), (2, 128), (2, 128)), lr=0.01)
    data = few(d2l.FashionMNIST(batch_size=16, resize=size, train_size=32), 32)
    d2l.Trainer(max_epochs=1, num_gpus=1).fit(model, data)
    X, y = next(iter(data.val_dataloader()))
    with torch.no_grad():
        assert model(X).shape == (16, 10)


# --- the other sections -----------------------------------------------------------------------


@pytest.mark.parametrize("number", SECTIONS)
def test_section(number):
    SECTIONS[number](d2l)


# --- that the tests above leave no trace ------------------------------------------------------


def test_patches_are_undone():
    assert d2l.Trainer.fit_epoch.__module__ == "d2l_utils.trainer"
    assert d2l.Classifier.layer_summary.__module__ == "d2l_utils.module"
    assert d2l.FashionMNIST.get_dataloader.__module__ == "d2l_utils.data"
