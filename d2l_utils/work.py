"""Torch's count of a forward pass, given to the module that runs; `cost` builds on this."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Work", "all_weights", "current_module", "memory", "tensors"]


@dataclass
class Row:
    """The work of one module and kind so far."""

    macs: int = 0
    activations: int = 0
    output_shape: tuple[int, ...] = ()
    weights: set[torch.Tensor] = field(default_factory=set)


class Work(TorchDispatchMode):
    """Runs `net(X)` and gives torch's count of each operation to the module that runs.

    `current` is the stack that `current_module` yields. `rows` is by the module's name and the kind
    of work. Uncounted operations that multiply by weights are refused. To know them, each tensor is
    followed: does it come of the input (`of_input`); if not, of which weights (`of_weights`); is it
    the input times weights (`products`)? A sum of such products is an uncounted matrix product.
    """

    def __init__(self, net, X, current):
        from torch.utils.flop_counter import FlopCounterMode  # slow to import

        super().__init__()
        self.current = current
        # Its formulas alone: entered, it would look up the modules that run a second time.
        self.flops = FlopCounterMode(display=False, custom_mapping=_NO_FORMULA).flop_registry
        self.rows: dict[tuple[str, str], Row] = {}
        # What a tensor was made of, by its memory; all are held, so that no address comes twice.
        self.held = [X]
        self.of_input = {memory(X)}
        self.weights = all_weights(net)
        self.of_weights = {memory(w): {w} for w in self.weights}
        self.products: set[int] = set()
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(lambda m, _, out, name=name: self._ran(name, m, out))
        with self:
            net(X)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # in inference mode operations come whole, such as `linear`
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        if func is torch.ops.aten.relu.default and args[0].is_meta:
            output = torch.empty_like(args[0])  # torch's own takes a third of the whole count
        else:
            output = func(*args, **kwargs)
        flops = self.flops.get(func.overloadpacket)
        macs = flops(*args, **kwargs, out_val=output) // 2 if flops else 0

        takes, gives = tensors((args, kwargs)), tensors(output)
        of_input = any(memory(t) in self.of_input for t in takes)
        weights = set().union(*(self.of_weights.get(memory(t), ()) for t in takes))
        if macs:
            self._add(func, macs, output, weights)
        elif of_input:
            self._refuse_hidden_work(func, takes, weights)

        for tensor in gives:
            self.held.append(tensor)
            if of_input:
                self.of_input.add(memory(tensor))
                self.of_weights.pop(memory(tensor), None)  # written in place
            elif weights:  # as a weight that is masked or normalised before it is used
                self.of_weights[memory(tensor)] = weights
            if of_input and weights and "mul" in _name(func):
                self.products.add(memory(tensor))
        return output

    def _add(self, func, macs, output, weights):
        name, module = self.current[-1]
        kind = "conv" if "conv" in _name(func) else "matmul"
        row = self.rows.setdefault((name, _kind(module) or kind), Row())
        row.macs += macs
        row.weights |= weights | set(_weights(module))
        if not _kind(module):
            row.activations += output.numel()
            row.output_shape = tuple(output.shape)

    def _ran(self, name, layer, output):
        row = self.rows.setdefault((name, _kind(layer)), Row())
        row.activations += output.numel()
        row.output_shape = tuple(output.shape)

    def _refuse_hidden_work(self, func, takes, weights):
        operation, (name, module) = _name(func), self.current[-1]
        harmless = torch.Tag.pointwise in func.tags or any(w in operation for w in _NO_PRODUCTS)
        a_sum_of_products = operation == "sum" and any(memory(t) in self.products for t in takes)
        if (weights and not harmless) or a_sum_of_products:
            raise ValueError(
                f"layer {name!r}, a {type(module).__name__}, works with its weights by "
                f"{operation}, which is not counted here; convolutions and matrix products are"
            )


# Products that torch has no formula for.
_PRODUCTS = (torch.ops.aten.mv, torch.ops.aten.dot)
_NO_FORMULA = dict.fromkeys(_PRODUCTS, lambda a_shape, *_, **__: 2 * math.prod(a_shape))

# Operations that only look up, move or normalise by weights.
_NO_PRODUCTS = ("norm", "prelu", "embedding", "cat", "stack", "copy", "index", "gather", "scatter")


def _name(func) -> str:
    return func.overloadpacket.__name__


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "fc"
    return "conv" if isinstance(module, nn.Conv2d) else ""


def memory(tensor: torch.Tensor) -> int:
    """Return a number that a tensor and its views have in common, and no other tensor."""
    return tensor.untyped_storage()._cdata


def tensors(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in nested lists, tuples and dicts."""
    found, branches = [], [tree]  # torch's own `tree_leaves` takes as long as all else in a count
    while branches:
        branch = branches.pop()
        if isinstance(branch, torch.Tensor):
            found.append(branch)
        elif isinstance(branch, dict):
            branches += branch.values()
        elif isinstance(branch, list | tuple):
            branches += branch
    return found


def all_weights(net: nn.Module) -> list[torch.Tensor]:
    """Return the weights of all modules, those that are plain attributes included."""
    return [weight for module in net.modules() for weight in _weights(module)]


def _weights(module: nn.Module) -> list[torch.Tensor]:
    def trained(tensor):
        return isinstance(tensor, nn.Parameter) or (tensor.is_leaf and tensor.requires_grad)

    return [tensor for tensor in tensors(vars(module)) if trained(tensor)]


@contextmanager
def current_module(net: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield a stack whose last item is the name and module that runs now."""
    stack, names = [("", net)], {module: name for name, module in net.named_modules()}

    def enter(module, _):
        # One that `forward` itself has made counts for the module that made it.
        stack.append((names[module], module) if module in names else stack[-1])

    def leave(*_):
        stack.pop()

    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave):
        yield stack
