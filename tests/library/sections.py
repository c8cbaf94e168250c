"""The code of sections up to 8.8, in our own words, for any package with D2L's interface.

Each function is a section and takes the package, `d2l`, of which it uses what the section does.
Data are cut to some images, by what both packages allow: a `Subset` in place of the data set.
"""

import io
import math
from contextlib import contextmanager, redirect_stdout

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


def few(data, n=32):
    data.train, data.val = Subset(data.train, range(n)), Subset(data.val, range(n))
    data.num_workers = 0
    return data


def train(d2l, model, data, epochs=1):
    trainer = d2l.Trainer(max_epochs=epochs, num_gpus=1)
    trainer.fit(model, data)
    assert trainer.train_batch_idx == epochs * len(data.train_dataloader())


def train_on_few(d2l, model, **arguments):
    """Trains a network of the later chapters, with its layers initialised by the first batch."""
    data = few(d2l.FashionMNIST(**arguments))
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], d2l.init_cnn)
    train(d2l, model, data)


def global_average(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.LazyLinear(num_classes))


def calculus(d2l):
    x = np.arange(0, 3, 0.1)
    d2l.plot(x, [3 * x**2 - 4 * x, 2 * x - 3], "x", "f(x)", legend=["f(x)", "Tangent line (x=1)"])
    assert len(d2l.plt.gca().lines) == 2 and d2l.plt.gca().get_xlabel() == "x"
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
    for i in range(100):
        x = torch.tensor(i / 10)
        board.draw(x, torch.sin(x), "sin", every_n=2)
        board.draw(x, torch.cos(x), "cos", every_n=10)
    assert [len(board.data[label]) for label in ("sin", "cos")] == [50, 10]


def linear_regression(d2l):
    x = np.arange(-7, 7, 0.01)
    params = [(0, 1), (0, 2), (3, 1)]
    curves = [np.exp(-0.5 / s**2 * (x - m) ** 2) / math.sqrt(2 * math.pi * s**2) for m, s in params]
    d2l.plot(x, curves, xlabel="x", ylabel="p(x)", figsize=(4.5, 2.5), legend=list("abc"))
    assert [len(line.get_xdata()) for line in d2l.plt.gca().lines] == [1400] * 3


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


def linear_regression_scratch(d2l, own_loop=True):
    w, b = torch.tensor([2, -3.4]), 4.2
    if own_loop:
        grow_the_trainer(d2l)
    model = d2l.LinearRegressionScratch(2, lr=0.03)
    trainer = d2l.Trainer(max_epochs=3)
    trainer.fit(model, d2l.SyntheticRegressionData(w=w, b=b))
    with torch.no_grad():
        torch.testing.assert_close(model.w.reshape(w.shape), w, atol=0.2, rtol=0)
        torch.testing.assert_close(model.b, torch.tensor([b]), atol=0.3, rtol=0)
    assert trainer.train_batch_idx == 96
    assert len(model.board.data["train_loss"]) == 6
    assert [x for x, _ in model.board.data["val_loss"]][-1] == 3


def grow_the_trainer(d2l):
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


def linear_regression_concise(d2l):
    model = d2l.LinearRegression(lr=0.03)
    data = d2l.SyntheticRegressionData(w=torch.tensor([2, -3.4]), b=4.2)
    d2l.Trainer(max_epochs=3).fit(model, data)
    w, b = model.get_w_b()
    assert (data.w - w.reshape(data.w.shape)).abs().max() < 0.1 and abs(data.b - float(b)) < 0.1


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
        d2l.Trainer(max_epochs=10).fit(model, data)
        norms.append(float((model.w.detach() ** 2).sum()))
    assert norms[1] < norms[0]
    model = WeightDecay(wd=3, lr=0.01)
    model.board.yscale = "log"
    d2l.Trainer(max_epochs=10).fit(model, data)
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

    def get_dataloader(self, train):
        data = self.train if train else self.val
        return DataLoader(data, self.batch_size, shuffle=train, num_workers=self.num_workers)

    @d2l.add_to_class(FashionMNIST)
    def visualize(self, batch, nrows=1, ncols=8, labels=()):
        X, y = batch
        d2l.show_images(X.squeeze(1), nrows, ncols, titles=labels or [str(int(i)) for i in y])

    d2l.add_to_class(FashionMNIST)(get_dataloader)
    own, packaged = FashionMNIST(resize=(32, 32)), d2l.FashionMNIST(resize=(32, 32))
    assert (len(own.train), len(own.val)) == (len(packaged.train), len(packaged.val))
    for batch, packaged_batch in zip(own.val_dataloader(), packaged.val_dataloader(), strict=True):
        assert all(map(torch.equal, batch, packaged_batch))
    own.visualize(batch)
    assert len(d2l.plt.gcf().axes) == 8

    d2l.add_to_class(d2l.FashionMNIST)(get_dataloader)
    X, y = next(iter(few(d2l.FashionMNIST(batch_size=32)).train_dataloader()))
    assert (X.shape, X.dtype, y.dtype) == ((32, 1, 28, 28), torch.float32, torch.int64)


def accuracy_of(d2l, model):
    train(d2l, model, few(d2l.FashionMNIST(batch_size=256), 4096), epochs=2)
    return model.board.data["val_acc"][-1].y


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

    assert accuracy_of(d2l, Regression(0.1)) > 0.65


def softmax_regression_scratch(d2l):
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
    assert accuracy_of(d2l, model) > 0.65

    data = d2l.FashionMNIST(batch_size=256)
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

    assert accuracy_of(d2l, network(d2l, nn.Flatten(), nn.LazyLinear(10))) > 0.65
    assert d2l.SoftmaxRegression(num_outputs=10, lr=0.1)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def network(d2l, *layers, lr=0.1, init=None):
    """Returns a classifier as the sections write one, with the layers that are given."""

    class Net(d2l.Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(*layers)
            if init:
                self.net.apply(init)

    return Net(lr)


def multilayer_perceptrons(d2l):
    x = torch.arange(-8.0, 8.0, 0.1, requires_grad=True)
    y = torch.relu(x)
    d2l.plot(x.detach(), y.detach(), "x", "relu(x)", figsize=(5, 2.5))
    y.backward(torch.ones_like(x), retain_graph=True)
    d2l.plot(x.detach(), x.grad, "x", "grad of relu", figsize=(5, 2.5))
    assert d2l.plt.gca().lines[0].get_ydata()[-1] == 1


def implementation_of_multilayer_perceptrons(d2l):
    class MLPScratch(d2l.Classifier):
        def __init__(self, num_inputs, num_outputs, num_hiddens, lr, sigma=0.01):
            super().__init__()
            self.save_hyperparameters()
            self.W1 = nn.Parameter(torch.randn(num_inputs, num_hiddens) * sigma)
            self.b1 = nn.Parameter(torch.zeros(num_hiddens))
            self.W2 = nn.Parameter(torch.randn(num_hiddens, num_outputs) * sigma)
            self.b2 = nn.Parameter(torch.zeros(num_outputs))

    @d2l.add_to_class(MLPScratch)
    def forward(self, X):
        H = torch.relu(X.reshape((-1, self.num_inputs)) @ self.W1 + self.b1)
        return H @ self.W2 + self.b2

    class MLP(d2l.Classifier):
        def __init__(self, num_outputs, num_hiddens, lr):
            super().__init__()
            self.save_hyperparameters()
            hidden = (nn.LazyLinear(num_hiddens), nn.ReLU())
            self.net = nn.Sequential(nn.Flatten(), *hidden, nn.LazyLinear(num_outputs))

    data = few(d2l.FashionMNIST(batch_size=256), 512)
    for model in (MLPScratch(784, 10, 256, lr=0.1), MLP(10, 256, lr=0.1)):
        train(d2l, model, data, epochs=2)
        assert model.board.data["train_loss"][-1].y < 2.4


def numerical_stability(d2l):
    x = torch.arange(-8.0, 8.0, 0.1, requires_grad=True)
    y = torch.sigmoid(x)
    y.backward(torch.ones_like(x))
    curves = [y.detach().numpy(), x.grad.numpy()]
    d2l.plot(x.detach().numpy(), curves, legend=["sigmoid", "gradient"], figsize=(4.5, 2.5))
    texts = d2l.plt.gca().get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["sigmoid", "gradient"]


def dropout(d2l):
    def dropout_layer(X, dropout):
        mask = (torch.rand(X.shape) > dropout).float()
        return mask * X / (1.0 - dropout)

    class DropoutMLPScratch(d2l.Classifier):
        def __init__(self, num_outputs, num_hiddens_1, num_hiddens_2, dropout_1, dropout_2, lr):
            super().__init__()
            self.save_hyperparameters()
            self.lin1 = nn.LazyLinear(num_hiddens_1)
            self.lin2 = nn.LazyLinear(num_hiddens_2)
            self.lin3 = nn.LazyLinear(num_outputs)
            self.relu = nn.ReLU()

        def forward(self, X):
            H1 = self.relu(self.lin1(X.reshape((X.shape[0], -1))))
            if self.training:
                H1 = dropout_layer(H1, self.dropout_1)
            H2 = self.relu(self.lin2(H1))
            if self.training:
                H2 = dropout_layer(H2, self.dropout_2)
            return self.lin3(H2)

    model = DropoutMLPScratch(10, 256, 256, dropout_1=0.5, dropout_2=0.5, lr=0.1)
    train(d2l, model, few(d2l.FashionMNIST(batch_size=256), 512))


def gpus(d2l):
    assert d2l.cpu() == torch.device("cpu") and d2l.gpu(1) == torch.device("cuda:1")
    assert d2l.num_gpus() == torch.cuda.device_count()
    assert len(d2l.try_all_gpus()) >= d2l.num_gpus() and d2l.try_gpu(10) == d2l.cpu()

    @d2l.add_to_class(d2l.Trainer)
    def prepare_batch(self, batch):
        return [a.to(self.gpus[0]) for a in batch] if self.gpus else batch

    @d2l.add_to_class(d2l.Trainer)
    def prepare_model(self, model):
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        if self.gpus:
            model.to(self.gpus[0])
        self.model = model

    class Regression(d2l.Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

    train(d2l, Regression(0.1), few(d2l.FashionMNIST(batch_size=64), 128))


def convolutions_for_images(d2l):
    X = torch.ones((6, 8))
    X[:, 2:6] = 0
    K = torch.tensor([[1.0, -1.0]])
    Y = d2l.corr2d(X, K)
    assert (Y.shape, Y[0].tolist()) == ((6, 7), [0, 1, 0, 0, 0, -1, 0])

    class Conv2D(nn.Module):
        def __init__(self, kernel_size):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(kernel_size))
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return d2l.corr2d(x, self.weight) + self.bias

    Conv2D((1, 2))(X).sum().backward()


def channels(d2l):
    X = torch.arange(18.0).reshape(2, 3, 3)
    K = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]]])
    Y = sum(d2l.corr2d(x, k) for x, k in zip(X, K, strict=True))
    assert torch.equal(Y, F.conv2d(X[None], K[None])[0, 0])


def summary_of(model, shape):
    """Returns the lines that `layer_summary` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        model.layer_summary(shape)
    return printed.getvalue().splitlines()


def dense(*widths):
    """Returns layers of these widths with dropout between them."""
    hidden = [(nn.LazyLinear(n), nn.ReLU(), nn.Dropout(0.5)) for n in widths[:-1]]
    return (*sum(hidden, ()), nn.LazyLinear(widths[-1]))


def lenet(d2l):
    model = network(
        d2l,
        nn.LazyConv2d(6, kernel_size=5, padding=2), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.LazyConv2d(16, kernel_size=5), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.LazyLinear(120), nn.Sigmoid(),
        nn.LazyLinear(84), nn.Sigmoid(),
        nn.LazyLinear(10),
    )  # fmt: skip
    lines = summary_of(model, (1, 1, 28, 28))

    @d2l.add_to_class(d2l.Classifier)
    def layer_summary(self, X_shape):
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(layer.__class__.__name__, "output shape:\t", X.shape)

    assert summary_of(model, (1, 1, 28, 28)) == lines
    assert len(lines) == 12 and lines[-1] == "Linear output shape:\t torch.Size([1, 10])"
    assert summary_of(d2l.LeNet(), (1, 1, 28, 28)) == lines
    train_on_few(d2l, model, batch_size=16)


def alexnet(d2l):
    model = network(
        d2l,
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
    lines = summary_of(model, (1, 1, 224, 224))
    assert len(lines) == 21
    assert lines[12] == "MaxPool2d output shape:\t torch.Size([1, 256, 5, 5])"
    train_on_few(d2l, model, batch_size=16, resize=(224, 224))


def vgg(d2l):
    def vgg_block(num_convs, out_channels):
        layers = []
        for _ in range(num_convs):
            layers.append(nn.LazyConv2d(out_channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    def vgg_of(arch):
        blocks = [vgg_block(*numbers) for numbers in arch]
        layers = (*blocks, nn.Flatten(), *dense(4096, 4096, 10))
        return network(d2l, *layers, lr=0.01, init=d2l.init_cnn)

    arch = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
    lines = summary_of(vgg_of(arch), (1, 1, 224, 224))
    assert len(lines) == 13
    assert lines[4] == "Sequential output shape:\t torch.Size([1, 512, 7, 7])"
    assert lines[5] == "Flatten output shape:\t torch.Size([1, 25088])"
    narrow = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
    train_on_few(d2l, vgg_of(narrow), batch_size=16, resize=(224, 224))


def nin(d2l):
    def nin_block(out_channels, kernel_size, strides, padding):
        return nn.Sequential(
            nn.LazyConv2d(out_channels, kernel_size, strides, padding), nn.ReLU(),
            nn.LazyConv2d(out_channels, kernel_size=1), nn.ReLU(),
            nn.LazyConv2d(out_channels, kernel_size=1), nn.ReLU(),
        )  # fmt: skip

    class NiN(d2l.Classifier):
        def __init__(self, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(
                nin_block(96, kernel_size=11, strides=4, padding=0), nn.MaxPool2d(3, stride=2),
                nin_block(256, kernel_size=5, strides=1, padding=2), nn.MaxPool2d(3, stride=2),
                nin_block(384, kernel_size=3, strides=1, padding=1), nn.MaxPool2d(3, stride=2),
                nn.Dropout(0.5),
                nin_block(num_classes, kernel_size=3, strides=1, padding=1),
                nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(),
            )  # fmt: skip
            self.net.apply(d2l.init_cnn)

    NiN().layer_summary((1, 1, 224, 224))
    train_on_few(d2l, NiN(lr=0.05), batch_size=16, resize=(96, 96))


def googlenet(d2l):
    class Inception(nn.Module):
        def __init__(self, c1, c2, c3, c4):
            super().__init__()
            self.b1_1 = nn.LazyConv2d(c1, kernel_size=1)
            self.b2_1 = nn.LazyConv2d(c2[0], kernel_size=1)
            self.b2_2 = nn.LazyConv2d(c2[1], kernel_size=3, padding=1)
            self.b3_1 = nn.LazyConv2d(c3[0], kernel_size=1)
            self.b3_2 = nn.LazyConv2d(c3[1], kernel_size=5, padding=2)
            self.b4_1 = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
            self.b4_2 = nn.LazyConv2d(c4, kernel_size=1)

        def forward(self, x):
            b1 = F.relu(self.b1_1(x))
            b2 = F.relu(self.b2_2(F.relu(self.b2_1(x))))
            b3 = F.relu(self.b3_2(F.relu(self.b3_1(x))))
            b4 = F.relu(self.b4_2(self.b4_1(x)))
            return torch.cat((b1, b2, b3, b4), dim=1)

    class GoogleNet(d2l.Classifier):
        def b1(self):
            return nn.Sequential(
                nn.LazyConv2d(64, kernel_size=7, stride=2, padding=3),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            )

    @d2l.add_to_class(GoogleNet)
    def b5(self):
        inception = Inception(64, (96, 128), (16, 32), 32)
        return nn.Sequential(inception, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten())

    @d2l.add_to_class(GoogleNet)
    def __init__(self, lr=0.1, num_classes=10):
        super(GoogleNet, self).__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(self.b1(), self.b5(), nn.LazyLinear(num_classes))
        self.net.apply(d2l.init_cnn)

    model = GoogleNet(lr=0.01)
    model.layer_summary((1, 1, 96, 96))
    train_on_few(d2l, model, batch_size=16, resize=(96, 96))


def batch_normalization(d2l):
    def batch_norm(X, gamma, beta, moving_mean, moving_var, eps, momentum):
        if not torch.is_grad_enabled():
            X_hat = (X - moving_mean) / torch.sqrt(moving_var + eps)
        else:
            dim = 0 if len(X.shape) == 2 else (0, 2, 3)
            mean = X.mean(dim=dim, keepdim=True)
            var = ((X - mean) ** 2).mean(dim=dim, keepdim=True)
            X_hat = (X - mean) / torch.sqrt(var + eps)
            moving_mean = (1.0 - momentum) * moving_mean + momentum * mean
            moving_var = (1.0 - momentum) * moving_var + momentum * var
        return gamma * X_hat + beta, moving_mean.data, moving_var.data

    class BatchNorm(nn.Module):
        def __init__(self, num_features, num_dims):
            super().__init__()
            shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
            self.gamma = nn.Parameter(torch.ones(shape))
            self.beta = nn.Parameter(torch.zeros(shape))
            self.moving_mean = torch.zeros(shape)
            self.moving_var = torch.ones(shape)

        def forward(self, X):
            if self.moving_mean.device != X.device:
                self.moving_mean = self.moving_mean.to(X.device)
                self.moving_var = self.moving_var.to(X.device)
            Y, self.moving_mean, self.moving_var = batch_norm(
                X, self.gamma, self.beta, self.moving_mean, self.moving_var, 1e-5, 0.1
            )
            return Y

    class BNLeNetScratch(d2l.Classifier):
        def __init__(self, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            conv = (nn.LazyConv2d(6, kernel_size=5), BatchNorm(6, num_dims=4), nn.Sigmoid())
            dense = (nn.LazyLinear(84), BatchNorm(84, num_dims=2), nn.Sigmoid())
            pool = nn.AvgPool2d(kernel_size=2, stride=2)
            last = nn.LazyLinear(num_classes)
            self.net = nn.Sequential(*conv, pool, nn.Flatten(), *dense, last)

    model = BNLeNetScratch(lr=0.1)
    train_on_few(d2l, model, batch_size=16)
    assert model.net[1].gamma.reshape((-1,)).shape == (6,)


def resnet(d2l):
    class Residual(nn.Module):
        def __init__(self, num_channels, use_1x1conv=False, strides=1):
            super().__init__()
            self.conv1 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1, stride=strides)
            self.conv2 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
            self.conv3 = nn.LazyConv2d(num_channels, 1, stride=strides) if use_1x1conv else None
            self.bn1, self.bn2 = nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d()

        def forward(self, X):
            Y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(X)))))
            return F.relu(Y + (self.conv3(X) if self.conv3 else X))

    class ResNet(d2l.Classifier):
        def __init__(self, arch, lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.LazyConv2d(8, 7, 2, 3), nn.LazyBatchNorm2d(), nn.ReLU())
            for i, (num, channels) in enumerate(arch):
                first = [Residual(channels, use_1x1conv=True, strides=2)] if i else []
                rest = [Residual(channels) for _ in range(num - len(first))]
                self.net.add_module(f"b{i + 2}", nn.Sequential(*first, *rest))
            self.net.add_module("last", global_average(num_classes))
            self.net.apply(d2l.init_cnn)

    model = ResNet(((2, 8), (2, 16), (2, 32)), lr=0.01)
    model.layer_summary((1, 1, 96, 96))
    train_on_few(d2l, model, batch_size=16, resize=(96, 96))
    block = d2l.Residual(6, use_1x1conv=True, strides=2)
    assert block(torch.randn(4, 3, 6, 6)).shape == (4, 6, 3, 3)
    block = d2l.ResNeXtBlock(32, 16, 1)
    assert block(torch.randn(4, 32, 96, 96)).shape == (4, 32, 96, 96)


def densenet(d2l):
    def conv_block(num_channels):
        return nn.Sequential(
            nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
        )

    class DenseBlock(nn.Module):
        def __init__(self, num_convs, num_channels):
            super().__init__()
            self.net = nn.Sequential(*(conv_block(num_channels) for _ in range(num_convs)))

        def forward(self, X):
            for block in self.net:
                X = torch.cat((X, block(X)), dim=1)
            return X

    def transition_block(num_channels):
        return nn.Sequential(
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.LazyConv2d(num_channels, kernel_size=1),
            nn.AvgPool2d(kernel_size=2, stride=2),
        )

    class DenseNet(d2l.Classifier):
        def __init__(self, growth_rate=8, arch=(2, 2), lr=0.1, num_classes=10):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.LazyConv2d(16, 7, 2, 3), nn.LazyBatchNorm2d(), nn.ReLU())
            for i, num_convs in enumerate(arch):
                self.net.add_module(f"dense_blk{i + 1}", DenseBlock(num_convs, growth_rate))
                self.net.add_module(f"tran_blk{i + 1}", transition_block(16))
            self.net.add_module("last", global_average(num_classes))
            self.net.apply(d2l.init_cnn)

    train_on_few(d2l, DenseNet(lr=0.01), batch_size=16, resize=(96, 96))


def cnn_design(d2l):
    class AnyNet(d2l.Classifier):
        def stem(self, num_channels):
            return nn.Sequential(
                nn.LazyConv2d(num_channels, kernel_size=3, stride=2, padding=1),
                nn.LazyBatchNorm2d(),
                nn.ReLU(),
            )

    @d2l.add_to_class(AnyNet)
    def stage(self, depth, num_channels, groups, bot_mul):
        first = d2l.ResNeXtBlock(num_channels, groups, bot_mul, use_1x1conv=True, strides=2)
        rest = [d2l.ResNeXtBlock(num_channels, groups, bot_mul) for _ in range(depth - 1)]
        return nn.Sequential(first, *rest)

    @d2l.add_to_class(AnyNet)
    def __init__(self, arch, stem_channels, lr=0.1, num_classes=10):
        super(AnyNet, self).__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(self.stem(stem_channels))
        for i, s in enumerate(arch):
            self.net.add_module(f"stage{i + 1}", self.stage(*s))
        self.net.add_module("head", global_average(num_classes))
        self.net.apply(d2l.init_cnn)

    class RegNetX32(AnyNet):
        def __init__(self, lr=0.1, num_classes=10):
            arch = ((1, 16, 4, 1), (1, 32, 4, 1))
            super().__init__(arch, 8, lr, num_classes)

    RegNetX32().layer_summary((1, 1, 96, 96))
    train_on_few(d2l, RegNetX32(lr=0.05), batch_size=16, resize=(96, 96))


SECTIONS = {
    "2.4": calculus,
    "3.1": linear_regression,
    "3.2": object_oriented_design,
    "3.3": synthetic_regression_data,
    "3.4": linear_regression_scratch,
    "3.5": linear_regression_concise,
    "3.7": weight_decay,
    "4.2": fashion_mnist,
    "4.3": classification,
    "4.4": softmax_regression_scratch,
    "4.5": softmax_regression_concise,
    "5.1": multilayer_perceptrons,
    "5.2": implementation_of_multilayer_perceptrons,
    "5.4": numerical_stability,
    "5.6": dropout,
    "6.7": gpus,
    "7.2": convolutions_for_images,
    "7.4": channels,
    "7.6": lenet,
    "8.1": alexnet,
    "8.2": vgg,
    "8.3": nin,
    "8.4": googlenet,
    "8.5": batch_normalization,
    "8.6": resnet,
    "8.7": densenet,
    "8.8": cnn_design,
}
