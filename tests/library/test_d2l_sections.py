"""What a reader does who changes one line, the import, and runs the sections' code.

The code here is written afresh, in the way of the sections that the tests are named after. The
sections that ask for nothing but what both packages have are in `sections.py`.
"""

import functools

import matplotlib
import pytest
import torch
import torchvision
from matplotlib import pyplot as plt
from sections import SECTIONS, kept
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
    monkeypatch.setattr(data_module, "load", read_files)
    matplotlib.use("Agg")
    torch.manual_seed(0)
    with matplotlib.rc_context(), kept(classes):
        yield


@pytest.mark.parametrize("number", SECTIONS)
def test_section(number):
    SECTIONS[number](d2l)


# --- object-oriented design, linear regression from scratch -----------------------------------


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
    model = d2l.LinearRegressionScratch(2, lr=0.03)
    trainer = d2l.Trainer(max_epochs=3, precision="float32")
    trainer.fit(model, d2l.SyntheticRegressionData(w=w, b=b))
    with torch.no_grad():
        torch.testing.assert_close(model.w.reshape(w.shape), w, atol=0.2, rtol=0)
        torch.testing.assert_close(model.b, torch.tensor([b]), atol=0.3, rtol=0)
    assert trainer.train_batch_idx == 96
    assert len(model.board.data["train_loss"]) == 6
    assert [x for x, _ in model.board.data["val_loss"]] == [1, 2, 3]


# --- Fashion-MNIST ----------------------------------------------------------------------------


def get_dataloader(self, train):
    data = self.train if train else self.val
    workers = self.num_workers
    return torch.utils.data.DataLoader(data, self.batch_size, shuffle=train, num_workers=workers)


def test_fashion_mnist(tmp_path):
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

    d2l.add_to_class(FashionMNIST)(get_dataloader)

    @d2l.add_to_class(FashionMNIST)
    def visualize(self, batch, nrows=1, ncols=8, labels=()):
        X, y = batch
        d2l.show_images(X.squeeze(1), nrows, ncols, titles=labels or [str(int(i)) for i in y])

    data, ours = FashionMNIST(resize=(32, 32)), d2l.FashionMNIST(resize=(32, 32))
    assert (len(data.train), len(data.val)) == (len(ours.train), len(ours.val))
    for batch, our_batch in zip(data.val_dataloader(), ours.val_dataloader(), strict=True):
        assert all(map(torch.equal, batch, our_batch))
    data.visualize(batch)
    assert len(plt.gcf().axes) == 8


def test_our_data_set_in_a_loader_of_torch():
    d2l.add_to_class(d2l.FashionMNIST)(get_dataloader)
    X, y = next(iter(d2l.FashionMNIST(batch_size=32).train_dataloader()))
    assert (X.shape, X.dtype, y.dtype) == ((32, 1, 28, 28), torch.float32, torch.int64)


# --- classification ---------------------------------------------------------------------------


def accuracy_of(model):
    trainer = d2l.Trainer(max_epochs=2)
    trainer.fit(model, d2l.FashionMNIST(batch_size=256, train_size=4096))
    return trainer.history[-1]["val_acc"]


class Net(d2l.Classifier):
    """A classifier as the sections write one, with the layers that are given."""

    def __init__(self, *layers, lr=0.1, init=None):
        super().__init__()
        self.save_hyperparameters(ignore=["layers"])
        self.net = nn.Sequential(*layers)
        if init:
            self.net.apply(init)


def test_classification():
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

    assert accuracy_of(Regression(0.1)) > 0.65


def test_softmax_regression_from_scratch():
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
    assert accuracy_of(model) > 0.65

    data = d2l.FashionMNIST(batch_size=256)
    X, y = next(iter(data.val_dataloader()))
    preds = model(X).argmax(axis=1)
    wrong = preds.type(y.dtype) != y
    X, y, preds = X[wrong], y[wrong], preds[wrong]
    pairs = zip(data.text_labels(y), data.text_labels(preds), strict=True)
    labels = [a + "\n" + b for a, b in pairs]
    data.visualize([X, y], labels=labels)
    assert [ax.get_title() for ax in plt.gcf().axes] == labels[:8]


def test_softmax_regression_concise():
    @d2l.add_to_class(d2l.Classifier)
    def loss(self, Y_hat, Y, averaged=True):
        Y_hat = Y_hat.reshape((-1, Y_hat.shape[-1]))
        Y = Y.reshape((-1,))
        return F.cross_entropy(Y_hat, Y, reduction="mean" if averaged else "none")

    assert accuracy_of(Net(nn.Flatten(), nn.LazyLinear(10))) > 0.65


# --- LeNet, AlexNet, VGG ----------------------------------------------------------------------


def dense(*widths):
    """Returns layers of these widths with dropout between them."""
    hidden = [(nn.LazyLinear(n), nn.ReLU(), nn.Dropout(0.5)) for n in widths[:-1]]
    return (*sum(hidden, ()), nn.LazyLinear(widths[-1]))


def fit(model, **arguments):
    """Trains for an epoch, on so few images that large networks are soon through with them."""
    data = d2l.FashionMNIST(train_size=32, **arguments)
    data.val = ImageSet(data.val.data[:32], data.val.targets[:32], data.resize)
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], d2l.init_cnn)
    trainer = d2l.Trainer(max_epochs=1, num_gpus=1)
    trainer.fit(model, data)
    assert trainer.train_batch_idx == 2 and trainer.history[0]["train_loss"] < 10
    assert trainer.device == d2l.try_gpu()


def test_lenet(capsys):
    model = Net(
        nn.LazyConv2d(6, kernel_size=5, padding=2), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.LazyConv2d(16, kernel_size=5), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.LazyLinear(120), nn.Sigmoid(),
        nn.LazyLinear(84), nn.Sigmoid(),
        nn.LazyLinear(10),
    )  # fmt: skip
    model.layer_summary((1, 1, 28, 28))
    ours = capsys.readouterr().out

    @d2l.add_to_class(d2l.Classifier)
    def layer_summary(self, X_shape):
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(layer.__class__.__name__, "output shape:\t", X.shape)

    model.layer_summary((1, 1, 28, 28))
    assert capsys.readouterr().out == ours
    assert ours.count("\n") == 12 and ours.endswith("Linear output shape:\t torch.Size([1, 10])\n")
    fit(model, batch_size=16)


def test_alexnet(capsys):
    model = Net(
        nn.LazyConv2d(96, kernel_size=11, stride=4, padding=1), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.LazyConv2d(256, kernel_size=5, padding=2), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.LazyConv2d(384, kernel_size=3, padding=1), nn.ReLU(),
        nn.LazyConv2d(384, kernel_size=3, padding=1), nn.ReLU(),
        nn.LazyConv2d(256, kernel_size=3, padding=1), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Flatten(),
        *dense(4096, 4096, 10),
        lr=0.01, init=d2l.init_cnn,
    )  # fmt: skip
    model.layer_summary((1, 1, 224, 224))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[12] == "MaxPool2d output shape:\t torch.Size([1, 256, 5, 5])"
    fit(model, batch_size=16, resize=(224, 224))


def test_vgg(capsys):
    def vgg_block(num_convs, out_channels):
        layers = []
        for _ in range(num_convs):
            layers.append(nn.LazyConv2d(out_channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    def vgg(arch):
        blocks = [vgg_block(*numbers) for numbers in arch]
        layers = (*blocks, nn.Flatten(), *dense(4096, 4096, 10))
        return Net(*layers, lr=0.01, init=d2l.init_cnn)

    vgg(((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))).layer_summary((1, 1, 224, 224))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[4] == "Sequential output shape:\t torch.Size([1, 512, 7, 7])"
    assert lines[5] == "Flatten output shape:\t torch.Size([1, 25088])"
    narrow = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
    fit(vgg(narrow), batch_size=16, resize=(224, 224))
    fit(d2l.VGG(arch=narrow, lr=0.01), batch_size=16, resize=(56, 56))


# --- that the tests above leave no trace ------------------------------------------------------


def test_patches_are_undone():
    assert d2l.Trainer.fit_epoch.__module__ == "d2l_utils.trainer"
    assert d2l.Classifier.layer_summary.__module__ == "d2l_utils.module"
    assert d2l.FashionMNIST.get_dataloader.__module__ == "d2l_utils.data"
