"""A clock that moves only when it is told to: work of known length, for all three kinds of samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import harness, timers


class FakeTime:
    """The host's clock and the device's in one."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class Work(nn.Module):
    """Scales its input; its forward and its backward take as long as they are told to."""

    def __init__(self, time: FakeTime, forward_s: float, backward_s: float = 0.0) -> None:
        super().__init__()
        self.time, self.seconds = time, (forward_s, backward_s)
        self.calls = 0

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        self.calls += 1
        return _Scale.apply(x, self.time, *self.seconds)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, time: FakeTime, forward_s: float, backward_s: float) -> Tensor:
        ctx.time, ctx.seconds = time, backward_s
        time.pass_(forward_s)
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.time.pass_(ctx.seconds)
        return grad * 2, None, None, None


def install(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Put the clock in place of the host's, of the device's events, and of the time of a replay."""
    time = FakeTime()
    for module in (timers, harness):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=time.perf_counter))

    class Event:
        def __init__(self, **_: Any) -> None:
            pass

        def record(self) -> None:
            self.at = time.now

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, later: Event) -> float:
            return (later.at - self.at) * 1e3  # milliseconds

    class Graph:
        seconds = 0.0

        def replay(self) -> None:
            time.pass_(self.seconds)

    @contextmanager
    def capture(graph: Graph, **_: Any) -> Iterator[None]:
        start = time.now
        yield
        graph.seconds, time.now = time.now - start, start  # a capture runs nothing

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    return time
