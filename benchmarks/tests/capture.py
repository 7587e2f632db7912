"""A stand-in for CUDA graphs on the CPU: it notes what a capture reads, and calls nothing again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Reads(TorchDispatchMode):
    """Weak references to the memory that operations read and that none of them has made."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, StorageWeakRef] = {}
        self.own: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = {tensor.untyped_storage().data_ptr() for tensor in self.own}
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in made and storage.nbytes():
                self.storages.setdefault(storage.data_ptr(), StorageWeakRef(storage))
        known = made | self.storages.keys()
        self.own += [
            tensor.detach()
            for tensor in _tensors(out)
            if tensor.untyped_storage().data_ptr() not in known
        ]
        return out


class Capture:
    """What the clocks see of a graph; ``reads`` is what its kernels would read at each replay."""

    def __init__(self) -> None:
        self.reads: list[StorageWeakRef] = []
        self.replays = 0

    @property
    def dead(self) -> int:
        """How many of its reads would be of memory that is somebody else's by now."""
        return sum(storage.expired() for storage in self.reads)

    def replay(self) -> None:
        """Count, and refuse what would be an illegal access."""
        assert not self.dead, f"{self.dead} of {len(self.reads)} storages are gone"
        self.replays += 1


class Event:
    """A device event without a device: one millisecond passes between any two."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, _: Event) -> float:
        return 1.0


class Stream:
    """A stream that waits for nothing."""

    def wait_stream(self, _: Stream) -> None:
        pass


def stub(monkeypatch: pytest.MonkeyPatch) -> list[Capture]:
    """Put the stand-ins in place of ``torch.cuda``'s; the list grows with every capture."""
    captures: list[Capture] = []

    @contextmanager
    def graph(capture: Capture, **_: Any) -> Iterator[None]:
        with Reads() as reads:
            yield
        reads.own.clear()
        capture.reads = list(reads.storages.values())
        captures.append(capture)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Capture)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    return captures


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
