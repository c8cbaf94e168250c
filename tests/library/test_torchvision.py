"""VGG held against torchvision's: same counts, and with the same weights the same logits."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

import d2l_utils as d2l

# Parameters with 1000 classes, from torchvision's page on VGG.
TWINS = {
    "A": ("vgg11", 132_863_336),
    "B": ("vgg13", 133_047_848),
    "D": ("vgg16", 138_357_544),
    "E": ("vgg19", 143_667_240),
}
IMAGE = (1, 3, 224, 224)


def theirs(name):
    """Torchvision's network with random weights, drawn here because its own way is slow."""
    with torch.device("meta"):
        net = get_model(name)
    net.to_empty(device="cpu")
    for weight in net.parameters():
        # Kaiming's rule keeps the logits at order 1, so that the tolerance means something;
        # biases are not zero, so that a misplaced one shows.
        nn.init.normal_(weight, std=(2 / weight[0].numel()) ** 0.5 if weight.dim() > 1 else 0.1)
    return net.eval()


def ours(letter, weights):
    """Our network with the given weights, which are shared, not copied."""
    with torch.device("meta"):
        net = d2l.VGG(arch=d2l.VGG_ARCHS[letter], num_classes=1000)
        net(torch.empty(IMAGE))
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)), assign=True)
    return net.eval()


@pytest.mark.parametrize("letter", TWINS)
def test_parameters_and_macs(letter):
    name, parameters = TWINS[letter]
    meta = get_model_weights(name).DEFAULT.meta
    rows = d2l.layer_costs(d2l.VGG(arch=d2l.VGG_ARCHS[letter], num_classes=1000), IMAGE)
    with torch.device("meta"):
        their_parameters = sum(p.numel() for p in get_model(name).parameters())
    assert sum(row.params for row in rows) == their_parameters == meta["num_params"] == parameters
    assert round(sum(row.macs for row in rows) / 1e9, 3) == meta["_ops"]
    assert len(rows) == int(name.removeprefix("vgg"))


@pytest.mark.parametrize(
    ("name", "macs"), [("convnext_tiny", 4_455_531_264), ("vit_b_16", 17_563_828_224)]
)
def test_networks_with_scales_and_attention(name, macs):
    with torch.device("meta"):
        net = get_model(name)
    counted = sum(row.macs for row in d2l.layer_costs(net, IMAGE))
    assert counted == macs
    assert round(counted / 1e9, 3) == get_model_weights(name).DEFAULT.meta["_ops"]


# B and D are told by their counts.
@pytest.mark.parametrize("letter", ["A", "E"])
@torch.no_grad()
def test_logits(letter):
    torch.manual_seed(0)
    their_net = theirs(TWINS[letter][0])
    our_net = ours(letter, their_net.state_dict().values())
    X = torch.randn(IMAGE)
    their_logits = their_net(X)
    assert 0.1 < their_logits.std() < 100
    torch.testing.assert_close(our_net(X), their_logits, rtol=0, atol=1e-4)
