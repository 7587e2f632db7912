"""Choices of the process: a call sets them, a ``with`` block or a decorator sets them for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from typing import ClassVar


class Switch(ContextDecorator):
    """A choice among ``names``, as ``torch.set_grad_enabled`` is one.

    Calling it is enough, and as a context manager (or decorator) it restores on exit what was chosen before. The
    choice is of the process, as those of ``torch.backends``: threads see it too, among them autograd's, which
    recompute checkpoints.
    """

    names: ClassVar[tuple[str, ...]]
    choice: ClassVar[str]

    def __init__(self, name: str) -> None:
        kind = type(self)
        if name not in kind.names:
            raise ValueError(f"{kind.__name__}: expected one of {kind.names}, got {name!r}")
        self.name = name
        self.before = kind.choice
        self.outer: list[str] = []
        kind.choice = name

    def __enter__(self) -> Switch:
        kind = type(self)
        self.outer.append(self.before if kind.choice == self.name else kind.choice)
        kind.choice = self.name
        return self

    def __exit__(self, *exception: object) -> None:
        type(self).choice = self.outer.pop()

    def __call__(self, function: Callable) -> Callable:
        """As a decorator it chooses nothing until the function is called."""
        type(self).choice = self.before
        return super().__call__(function)
