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
    column_d = d2l.VGG(d2l.VGG_ARCHS["D"], num_classes=1000)
    fewer, more = (total(net, (3, 224, 224), "params") for net in (column_c, column_d))
    assert more - fewer == 8 * (256**2 + 2 * 512**2)
    assert says(f"{fewer:,}", f"8·(256² + 2·512²) = {more - fewer:,}")
    head = d2l.VGG(d2l.VGG_ARCHS["A"], num_classes=100, head="gap")
    assert says(f"{total(head, (3, 224, 224), 'params', ['fc']):,}")


def test_work_and_memory_of_smaller_images():
    vgg, small = d2l.VGG(d2l.VGG_ARCHS["A"]), (3, 160, 160)
    convs, fcs = (
        [total(vgg, shape, "macs", [kind]) for shape in (small, (3, 224, 224))]
        for kind in ("conv", "fc")
    )
    assert 49 * convs[0] == 25 * convs[1]
    assert says("25/49", *(f"{less:,}, which is" for less, _ in (convs, fcs)))
    assert says(*(f"{less / whole:.1%}".replace("%", " %") for less, whole in (convs, fcs)))
    kept = [sum(t.bytes for t in d2l.saved_tensors(n, (1, 160, 160))) for n in (vgg, d2l.AlexNet())]
    assert says(*(f"{count / 1e6:.1f} MB" for count in kept))


def test_inputs_and_gain_of_the_first_fully_connected_layer():
    for side in (64, 32):
        net = d2l.VGG(d2l.VGG_NARROW)
        net(torch.zeros(1, 1, side, side))
        first = next(m for m in net.modules() if isinstance(m, torch.nn.Linear))
        n, m = first.in_features, first.out_features
        assert says(f"{n}", f"gain {(n / (n + m)) ** 0.5:.2f}", f"{side}")
