"""The heads of exercise 1.3 that are timed: the whole one, and what `compress` makes of it."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn
from torch.nn.utils import parametrize

from d2l_lab import compress
from d2l_lab.clock import in_turn
from d2l_utils.meta import materialize
from d2l_utils.models import VGG, VGG_NARROW

SPLIT = len(VGG_NARROW)  # the head follows the blocks


def head_times(device: torch.device, plan) -> list[dict]:
    """Return the times of what follows the narrow VGG-11's blocks, as it is and made smaller.

    Heads are named as in book/experiments/fully_connected_cost.toml; "conv" is the head as
    convolutions, "none" a head without hidden layer or pooling, "-sparse" one in CSR form, "blocks"
    what stands before each. A head that this machine cannot run has no times, and says why.
    """
    rows, left_out = [], []
    for side, ranks in plan.ranks:
        for name, make in heads(side, ranks, plan.keep).items():
            make, shape = cache(make), (128, side // 32, side // 32)
            for batch in plan.head_batches:
                row = {"side": side, "head": name, "batch": batch}
                X = torch.randn(batch, *((1, side, side) if name == "blocks" else shape))
                try:
                    run = torch.no_grad()(partial(make().to(device).eval(), X.to(device)))
                    run()
                    rows.append((row, run))
                except (ImportError, RuntimeError) as error:
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    left_out.append(row | {"seconds": [], "left_out": reason[:80]})
    return in_turn(rows, plan) + left_out


def narrow(side: int, hidden=(4096, 4096)) -> VGG:
    """Return the narrow VGG-11 for images of this side, in evaluation mode."""
    model = VGG(VGG_NARROW, head=hidden).eval()
    model(torch.zeros(1, 1, side, side))
    return model


def heads(side: int, ranks, keep) -> dict[str, Callable[[], nn.Module]]:
    """Return functions that make the heads of exercise 1.3, by name."""
    whole = narrow(side)
    made = {
        "blocks": lambda: whole.net[:SPLIT],
        "fc4096": lambda: whole.net[SPLIT:],
        "fc1024": lambda: narrow(side, (1024, 1024)).net[SPLIT:],
        "fc256": lambda: narrow(side, (256, 256)).net[SPLIT:],
        "none": lambda: narrow(side, ()).net[SPLIT:],
        "gap": lambda: compress.global_average_pooling(whole).net[SPLIT:],
        "conv": lambda: compress.fc_as_conv(whole, (1, side, side)).net[SPLIT:],
        "int8": lambda: compress.int8(whole).net[SPLIT:],
    }
    made |= {f"svd-{a}-{b}": partial(_svd, side, (a, b)) for a, b in ranks}
    for share in keep:
        made[f"pruned-{100 * share:g}"] = partial(_pruned, whole, share)
        made[f"pruned-{100 * share:g}-sparse"] = partial(_pruned, whole, share, sparse=True)
    return made


def _svd(side, ranks):
    """Return a head with random weights: its time depends on shapes alone; an SVD takes long."""
    model = materialize(VGG(VGG_NARROW), (1, side, side))
    head = compress.truncated_svd(model, ranks).net[SPLIT:].to_empty(device="cpu")
    for p in head.parameters():
        nn.init.normal_(p, std=0.01)
    return head


def _pruned(whole, share, sparse=False):
    head = compress.magnitude_pruning(whole, share).net[SPLIT:]
    for layer in head:
        if isinstance(layer, nn.Linear):
            parametrize.remove_parametrizations(layer, "weight")
            if sparse:
                with compress.quiet():  # the format is in beta state
                    weight = layer.weight.detach().to_sparse_csr()
                layer.weight = nn.Parameter(weight, requires_grad=False)
    return head
