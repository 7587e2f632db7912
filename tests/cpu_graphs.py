"""CUDA graphs imitated on the CPU: a capture notes every operation, a replay runs them on the same memory.

What PyTorch builds on graphs then runs for real, with results and gradients in memory that the next replay
overwrites.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self, operations: list[tuple]) -> None:
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out


class Graph:
    """The operations of a capture, and how often they were run again."""

    made: list[Graph]

    def __init__(self) -> None:
        self.operations: list[tuple] = []
        self.replays = 0
        Graph.made.append(self)

    def replay(self) -> None:
        """Run the operations; their results go where those of the capture went."""
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, out in self.operations:
                again = func(*args, **kwargs)
                read = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
                for kept, new in zip(_tensors(out), _tensors(again), strict=True):
                    if kept.untyped_storage().data_ptr() not in read:
                        # No operation of autograd's: as unseen by its versions as a replay is.
                        kept.detach().data.copy_(new)


class _Stream:
    def wait_stream(self, _: _Stream) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    """Put the imitation in place of ``torch.cuda``'s; its ``made`` has every graph from now on."""
    Graph.made = []

    @contextmanager
    def capture(graph: Graph, **_: Any) -> Iterator[None]:
        with _Recorder(graph.operations):
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return Graph


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
