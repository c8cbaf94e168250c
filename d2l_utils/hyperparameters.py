"""Classes in the book's manner: arguments that are kept, methods that are added later."""

import inspect
from typing import TYPE_CHECKING, Any

__all__ = ["HyperParameters", "add_to_class"]


def add_to_class(Class):
    """Return a decorator that registers a function as a method of `Class`.

    The book grows its classes over several notebook cells this way.

    >>> class Cat: ...
    >>> @add_to_class(Cat)
    ... def say(self):
    ...     return "miaow"
    >>> Cat().say()
    'miaow'
    """

    def register(function):
        setattr(Class, function.__name__, function)
        return function

    return register


class HyperParameters:
    """Save the arguments of `__init__` as attributes."""

    if TYPE_CHECKING:  # no type checker sees these attributes

        def __getattr__(self, name: str) -> Any: ...

    def save_hyperparameters(self, ignore=()):
        """Save the caller's arguments, as they are now, as attributes and in `self.hparams`.

        Left out are `self`, names in `ignore` (a list, or one name), and names that start with `_`.

        >>> class Point(HyperParameters):
        ...     def __init__(self, x, y, _secret=0):
        ...         self.save_hyperparameters(ignore=["y"])
        >>> Point(1, 2).hparams
        {'x': 1}
        """
        names, rest, keywords, values = inspect.getargvalues(inspect.currentframe().f_back)
        left_out = {"self", None, *([ignore] if isinstance(ignore, str) else ignore)}
        self.hparams = {
            name: values[name]
            for name in (*names, rest, keywords)
            if name not in left_out and not name.startswith("_")
        }
        for name, value in self.hparams.items():
            setattr(self, name, value)
