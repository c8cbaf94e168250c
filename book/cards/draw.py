"""Draws the pictures of the first page's cards: `python book/cards/draw.py`.

They are stored, so that the page reads well where nothing is built; a test draws them again.
"""

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

import d2l_utils as d2l

matplotlib.use("agg")

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A8A8A"
NETWORKS = {"AlexNet": d2l.AlexNet(), "VGG-11": d2l.VGG(d2l.VGG_ARCHS["A"])}
SHAPE = (3, 224, 224)


def cost(net, quantity):
    """Returns what the convolutions and the fully connected layers take."""
    rows = d2l.layer_costs(net, SHAPE)
    return [sum(getattr(r, quantity) for r in rows if r.kind == kind) for kind in ("conv", "fc")]


def bars(ax, rows, unit, label):
    """Draws one bar a row, made of two parts, with its total beside it."""
    for i, (first, second) in enumerate(rows.values()):
        ax.barh(i, first / unit, color=BLUE)
        ax.barh(i, second / unit, left=first / unit, color=ORANGE)
        ax.text((first + second) / unit, i, f" {label((first + second) / unit)}", va="center")
    ax.set_yticks(range(len(rows)), rows)
    ax.margins(x=0.3)
    ax.invert_yaxis()
    ax.xaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(left=False)


def key(ax, **colors):
    """Names the colours in one line above the bars."""
    for i, (name, color) in enumerate(colors.items()):
        ax.text(0.6 * i, 1.04, name.replace("_", " "), color=color, transform=ax.transAxes)


def squares(ax, counts, y, color, size=0.8):
    """Draws a row of squares, a gap after each block; returns where the row ends."""
    x = 0.0
    for count in counts:
        for _ in range(count):
            ax.add_patch(plt.Rectangle((x, y), size, size, color=color))
            x += 1
        x += 0.4
    return x


def layers(ax, rows):
    """Draws the layers of networks, convolutions by block and then the FC layers."""
    for i, (name, blocks) in enumerate(rows.items()):
        y = -1.9 * i
        ax.text(-0.5, y + 0.4, name, ha="right", va="center")
        end = squares(ax, blocks, y, BLUE)
        for j in range(3):
            ax.add_patch(plt.Rectangle((end + 0.4 + j, y), 0.8, 0.8, color=ORANGE))
    ax.set_aspect("equal")
    ax.autoscale_view()
    ax.axis("off")


def memory_and_speed(ax):
    """What autograd keeps of one image, with one channel, for the backward pass."""
    rows = {}
    for name, net in NETWORKS.items():
        rows[name] = (sum(t.bytes for t in d2l.saved_tensors(net, (1, *SHAPE[1:]))), 0)
    bars(ax, rows, 1e6, lambda mb: f"{mb:.0f} MB")
    key(ax, kept_for_the_backward_pass=BLUE)


def parameters(ax):
    bars(ax, {k: cost(net, "params") for k, net in NETWORKS.items()}, 1e6, lambda m: f"{m:.0f} M")
    key(ax, convolutions=BLUE, FC=ORANGE)


def flops(ax):
    """Operations, two per multiply-accumulate."""
    bars(ax, {k: cost(net, "macs") for k, net in NETWORKS.items()}, 5e8, lambda g: f"{g:.1f} G")
    key(ax, convolutions=BLUE, FC=ORANGE)


def fully_connected_cost(ax):
    heads = {"4096, 4096": (4096, 4096), "average": "gap"}
    nets = {k: d2l.VGG(d2l.VGG_ARCHS["A"], head=head) for k, head in heads.items()}
    bars(ax, {k: cost(net, "params") for k, net in nets.items()}, 1e6, lambda m: f"{m:.1f} M")
    key(ax, convolutions=BLUE, head=ORANGE)


def missing_layers(ax):
    layers(ax, {"summary": (1,) * 5, "network": (1, 1, 2, 2, 2)})


def vgg16_vgg19(ax):
    archs = {"VGG-11": "A", "VGG-16": "D", "VGG-19": "E"}
    layers(ax, {k: [convs for convs, _ in d2l.VGG_ARCHS[v]] for k, v in archs.items()})


def low_resolution(ax):
    for side, x, color in ((224, 0, GREY), (56, 260, BLUE)):
        ax.add_patch(plt.Rectangle((x, 0), side, side, color=color))
        ax.text(x + side / 2, -10, f"{side} × {side}", ha="center", va="top")
    ax.set_aspect("equal")
    ax.set(xlim=(-60, 360), ylim=(-50, 230))
    ax.axis("off")


def explorer(ax):
    rows = d2l.layer_costs(NETWORKS["VGG-11"], SHAPE)
    for i, (quantity, color) in enumerate((("params", ORANGE), ("macs", BLUE))):
        counts = [getattr(row, quantity) for row in rows]
        places = [n + 0.4 * i for n in range(len(rows))]
        ax.bar(places, [count / sum(counts) for count in counts], width=0.4, color=color)
    key(ax, MACs=BLUE, parameters=ORANGE)
    ax.set_xlabel("layers of VGG-11")
    ax.set(xticks=[], yticks=[])
    ax.spines[["top", "left", "right"]].set_visible(False)


CARDS = (
    memory_and_speed,
    parameters,
    flops,
    fully_connected_cost,
    missing_layers,
    vgg16_vgg19,
    low_resolution,
    explorer,
)


def draw_logo(path, pixels):
    """Draws the book's mark: five blocks, each lower than the one before, deep as VGG's are."""
    fig = plt.figure(figsize=(1, 1), dpi=pixels)
    ax = fig.add_axes((0, 0, 1, 1))
    left = 0.0
    for i, convs in enumerate((1, 1, 2, 2, 2)):
        height, width = 0.75**i, 0.5 + 0.25 * convs
        box = (left, 0.5 - height / 2), width, height
        ax.add_patch(plt.Rectangle(*box, color=ORANGE if i == 4 else BLUE))
        left += width + 0.2
    ax.set(xlim=(0, left - 0.2), ylim=(-0.05, 1.05))
    ax.axis("off")
    fig.savefig(path, transparent=True, metadata={"Software": None})
    plt.close(fig)


def draw(folder):
    draw_logo(Path(folder) / "logo.png", 128)
    draw_logo(Path(folder) / "favicon.png", 32)
    with plt.rc_context({"font.size": 13, "figure.constrained_layout.use": True}):
        for card in CARDS:
            fig, ax = plt.subplots(figsize=(4, 1.9))
            card(ax)
            fig.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
            fig.savefig(Path(folder) / f"{card.__name__}.png", dpi=120, metadata={"Software": None})
            plt.close(fig)


if __name__ == "__main__":
    draw(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
