"""The code of the sections from 5.2 to 8.8, in our own words; see `sections.py`."""

import io
from contextlib import redirect_stdout

import torch
from sections import SECTIONS as EARLIER
from sections import few, network, train
from torch import nn
from torch.nn import functional as F  # noqa: N812


def train_on_few(d2l, model, size=96):
    """Trains a network with its layers initialised by the first batch."""
    data = few(d2l.FashionMNIST(batch_size=4, resize=(size, size)))
    model.apply_init([next(iter(data.get_dataloader(True)))[0]], d2l.init_cnn)
    return train(d2l, model, data)


def summary_of(model, shape):
    """Returns the lines that `layer_summary` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        model.layer_summary(shape)
    return printed.getvalue().splitlines()


def global_average(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.LazyLinear(num_classes))


def dense(*widths):
    """Returns layers of these widths with dropout between them."""
    hidden = [(nn.LazyLinear(n), nn.ReLU(), nn.Dropout(0.5)) for n in widths[:-1]]
    return (*sum(hidden, ()), nn.LazyLinear(widths[-1]))


def multilayer_perceptrons(d2l):
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

    layers = nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10)
    data = few(d2l.FashionMNIST(batch_size=256), 512)
    for model in (MLPScratch(784, 10, 256, lr=0.1), network(d2l, *layers, init=False)):
        train(d2l, model, data, epochs=2)
        assert model.board.data["train_loss"][-1].y < 2.4


def dropout(d2l):
    def dropout_layer(X, dropout):
        mask = (torch.rand(X.shape) > dropout).float()
        return mask * X / (1.0 - dropout)

    class DropoutMLPScratch(d2l.Classifier):
        def __init__(self, num_outputs, num_hiddens, dropout, lr):
            super().__init__()
            self.save_hyperparameters()
            self.lin1, self.lin2 = nn.LazyLinear(num_hiddens), nn.LazyLinear(num_outputs)

        def forward(self, X):
            H = torch.relu(self.lin1(X.reshape((X.shape[0], -1))))
            return self.lin2(dropout_layer(H, self.dropout) if self.training else H)

    train(d2l, DropoutMLPScratch(10, 256, 0.5, lr=0.1), few(d2l.FashionMNIST(batch_size=4)))


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

    model = network(d2l, nn.Flatten(), nn.LazyLinear(10), init=False)
    train(d2l, model, few(d2l.FashionMNIST(batch_size=4)))


def convolutions(d2l):
    X = torch.ones((6, 8))
    X[:, 2:6] = 0
    Y = d2l.corr2d(X, torch.tensor([[1.0, -1.0]]))
    assert (Y.shape, Y[0].tolist()) == ((6, 7), [0, 1, 0, 0, 0, -1, 0])
    weight = nn.Parameter(torch.rand(1, 2))
    d2l.corr2d(X, weight).sum().backward()
    assert weight.grad.shape == (1, 2)
    X, K = torch.arange(18.0).reshape(2, 3, 3), torch.arange(8.0).reshape(2, 2, 2)
    Y = sum(d2l.corr2d(x, k) for x, k in zip(X, K, strict=True))
    assert torch.equal(Y, F.conv2d(X[None], K[None])[0, 0])


def lenet(d2l):
    model = network(
        d2l,
        nn.LazyConv2d(6, kernel_size=5, padding=2), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.LazyConv2d(16, kernel_size=5), nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.LazyLinear(120), nn.Sigmoid(), nn.LazyLinear(84), nn.Sigmoid(), nn.LazyLinear(10),
        init=False,
    )  # fmt: skip
    lines = summary_of(model, (1, 1, 28, 28))

    @d2l.add_to_class(d2l.Classifier)
    def layer_summary(self, X_shape):
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(layer.__class__.__name__, "output shape:\t", X.shape)

    assert summary_of(model, (1, 1, 28, 28)) == lines
    assert summary_of(d2l.LeNet(), (1, 1, 28, 28)) == lines
    assert len(lines) == 12 and lines[-1] == "Linear output shape:\t torch.Size([1, 10])"
    train_on_few(d2l, model, 28)


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
        lr=0.01,
    )  # fmt: skip
    layers = repr(model.net)
    train_on_few(d2l, model)
    return layers


def vgg(d2l):
    def vgg_block(num_convs, out_channels):
        layers = []
        for _ in range(num_convs):
            layers.append(nn.LazyConv2d(out_channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        return nn.Sequential(*layers)

    arch = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
    blocks = [vgg_block(*numbers) for numbers in arch]
    model = network(d2l, *blocks, nn.Flatten(), *dense(4096, 4096, 10), lr=0.01)
    layers = repr(model.net)
    train_on_few(d2l, model, 32)
    return layers


def nin(d2l):
    def nin_block(out_channels, kernel_size, strides, padding):
        return nn.Sequential(
            nn.LazyConv2d(out_channels, kernel_size, strides, padding), nn.ReLU(),
            nn.LazyConv2d(out_channels, kernel_size=1), nn.ReLU(),
            nn.LazyConv2d(out_channels, kernel_size=1), nn.ReLU(),
        )  # fmt: skip

    first = nin_block(24, kernel_size=11, strides=4, padding=0), nn.MaxPool2d(3, stride=2)
    last = nin_block(10, kernel_size=3, strides=1, padding=1), nn.AdaptiveAvgPool2d((1, 1))
    model = network(d2l, *first, nn.Dropout(0.5), *last, nn.Flatten(), lr=0.05)
    model.layer_summary((1, 1, 224, 224))
    train_on_few(d2l, model)


class Inception(nn.Module):
    def __init__(self, c1, c2, c3):
        super().__init__()
        self.b1_1 = nn.LazyConv2d(c1, kernel_size=1)
        self.b2_1 = nn.LazyConv2d(c2[0], kernel_size=1)
        self.b2_2 = nn.LazyConv2d(c2[1], kernel_size=3, padding=1)
        self.b3_1 = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        self.b3_2 = nn.LazyConv2d(c3, kernel_size=1)

    def forward(self, x):
        b1 = F.relu(self.b1_1(x))
        b2 = F.relu(self.b2_2(F.relu(self.b2_1(x))))
        return torch.cat((b1, b2, F.relu(self.b3_2(self.b3_1(x)))), dim=1)


class Residual(nn.Module):
    def __init__(self, num_channels, strides=1):
        super().__init__()
        self.conv1 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1, stride=strides)
        self.conv2 = nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
        self.conv3 = nn.LazyConv2d(num_channels, kernel_size=1, stride=strides)
        self.bn1, self.bn2 = nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d()

    def forward(self, X):
        Y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(X)))))
        return F.relu(Y + self.conv3(X))


class DenseBlock(nn.Module):
    def __init__(self, num_convs, num_channels):
        super().__init__()
        self.net = nn.Sequential()
        for i in range(num_convs):
            conv = nn.LazyConv2d(num_channels, kernel_size=3, padding=1)
            self.net.add_module(f"{i}", nn.Sequential(nn.LazyBatchNorm2d(), nn.ReLU(), conv))

    def forward(self, X):
        for block in self.net:
            X = torch.cat((X, block(X)), dim=1)
        return X


def googlenet_resnet_densenet(d2l):
    stem = nn.LazyConv2d(16, kernel_size=7, stride=2, padding=3), nn.LazyBatchNorm2d(), nn.ReLU()
    blocks = Inception(8, (8, 16), 8), Residual(16, strides=2), DenseBlock(2, 8)
    model = network(d2l, *stem, *blocks, lr=0.01)
    model.net.add_module("last", global_average(10))
    model.layer_summary((1, 1, 96, 96))
    train_on_few(d2l, model)


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

    conv = (nn.LazyConv2d(6, kernel_size=5), BatchNorm(6, num_dims=4), nn.Sigmoid())
    dense = (nn.LazyLinear(84), BatchNorm(84, num_dims=2), nn.Sigmoid(), nn.LazyLinear(10))
    model = network(d2l, *conv, nn.AvgPool2d(2, 2), nn.Flatten(), *dense, init=False)
    assert train_on_few(d2l, model, 28).net[1].moving_mean.abs().min() > 0


def cnn_design(d2l):
    class AnyNet(d2l.Classifier):
        def stem(self, num_channels):
            conv = nn.LazyConv2d(num_channels, kernel_size=3, stride=2, padding=1)
            return nn.Sequential(conv, nn.LazyBatchNorm2d(), nn.ReLU())

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
            arch = ((1, 16, 4, 1), (2, 32, 4, 1))
            super().__init__(arch, 8, lr, num_classes)

    RegNetX32().layer_summary((1, 1, 96, 96))
    train_on_few(d2l, RegNetX32(lr=0.05))
    block = d2l.Residual(6, use_1x1conv=True, strides=2)
    assert block(torch.randn(4, 3, 6, 6)).shape == (4, 6, 3, 3)
    block = d2l.ResNeXtBlock(32, 16, 1)
    assert block(torch.randn(4, 32, 24, 24)).shape == (4, 32, 24, 24)
    assert sum(p.numel() for p in block.parameters()) == 2 * 1056 + 32 * 16 * 9 + 32 + 3 * 64


SECTIONS = EARLIER | {
    "5.2": multilayer_perceptrons,
    "5.6": dropout,
    "6.7": gpus,
    "7.2 and 7.4": convolutions,
    "7.6": lenet,
    "8.1": alexnet,
    "8.2": vgg,
    "8.3": nin,
    "8.4, 8.6 and 8.7": googlenet_resnet_densenet,
    "8.5": batch_normalization,
    "8.8": cnn_design,
}
