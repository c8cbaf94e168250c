"""The variations for instructors have the answers that the library counts."""

import torch
from test_notebooks import ROOT

import d2l_utils as d2l

TEXT = (ROOT / "book/instructors.md").read_text(encoding="utf-8")


def total(net, shape, quantity, kinds=("conv", "fc")):
    return sum(getattr(r, quantity) for r in d2l.layer_costs(net, shape) if r.kind in kinds)


def says(*answers):
    row = [line for line in TEXT.splitlines() if all(answer in line for answer in answers)]
    return len(row) == 1


def test_parameters():
    for channels, classes in ((1, 10), (3, 1000)):
        nets = d2l.VGG(d2l.VGG_ARCHS["A"], num_classes=classes), d2l.AlexNet(num_classes=classes)
        assert says(*(f"{total(net, (channels, 224, 224), 'params'):,}" for net in nets))
    column_c = d2l.VGG(d2l.VGG_ARCHS["C"], num_classes=1000)
    assert says(f"{total(column_c, (3, 224, 224), 'params'):,}")
    head = d2l.VGG(d2l.VGG_ARCHS["A"], num_classes=100, head="gap")
    assert says(f"{total(head, (3, 224, 224), 'params', ['fc']):,}")


def test_work_and_memory_of_smaller_images():
    vgg, small = d2l.VGG(d2l.VGG_ARCHS["A"]), (3, 160, 160)
    assert says(*(f"{total(vgg, small, 'macs', [kind]):,}" for kind in ("conv", "fc")))
    whole = total(vgg, (3, 224, 224), "macs", ["conv"])
    assert 49 * total(vgg, small, "macs", ["conv"]) == 25 * whole
    kept = [sum(t.bytes for t in d2l.saved_tensors(n, (1, 160, 160))) for n in (vgg, d2l.AlexNet())]
    assert says(*(f"{count / 1e6:.1f} MB" for count in kept))


def test_inputs_and_gain_of_the_first_fully_connected_layer():
    for side in (64, 32):
        net = d2l.VGG(d2l.VGG_NARROW)
        net(torch.zeros(1, 1, side, side))
        first = next(m for m in net.modules() if isinstance(m, torch.nn.Linear))
        n, m = first.in_features, first.out_features
        assert says(f"{n}", f"gain {(n / (n + m)) ** 0.5:.2f}", f"{side}")
