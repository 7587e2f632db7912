"""Clocks: the host's for a CPU, events and graph replay for a CUDA device.

A *step* is a callable that takes ``split``, which it calls between forward and backward. Each clock
turns a step into a sampler; a sample is the mean of as many calls as make it long enough to read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

Step = Callable[[Callable[[], None]], object]

# A CPU sample below this is dominated by the scheduler, a CUDA one by the events' resolution.
MIN_SAMPLE_S = {"wall": 0.02, "events": 0.005, "graph": 0.005}
# More sets of inputs than this are not worth their memory.
MAX_COLD_SETS = 64
# An event costs about two microseconds: too much to split a short step with it.
MIN_SPLIT_S = 0.5e-3


@dataclass(frozen=True)
class Sample:
    """Seconds per call; ``forward`` is None where the step was not split."""

    total: float
    forward: float | None = None


class Sampler(Protocol):
    """Takes one sample of a prepared step."""

    calls: int

    def __call__(self) -> Sample: ...


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def estimate(step: Step, device: str) -> float:
    """Seconds of one warm call."""
    synchronize(device)
    start = time.perf_counter()
    step(_ignore)
    synchronize(device)
    return time.perf_counter() - start


def _ignore() -> None:
    pass


class WallSampler:
    """The host's clock around each call; for code that runs on the host."""

    def __init__(self, step: Step, seconds: float, sets: int) -> None:
        if sets > 1:  # until as many results are alive as ever will be
            for _ in range(sets):
                step(_ignore)
        self.step = step
        self.calls = max(1, math.ceil(MIN_SAMPLE_S["wall"] / seconds))
        self._forward = 0.0
        self._mark = 0.0

    def __call__(self) -> Sample:
        """One sample."""
        self._forward = 0.0
        start = time.perf_counter()
        for _ in range(self.calls):
            self._mark = time.perf_counter()
            self.step(self._split)
        total = time.perf_counter() - start
        return Sample(total / self.calls, self._forward / self.calls or None)

    def _split(self) -> None:
        self._forward += time.perf_counter() - self._mark


class EventSampler:
    """Device events around calls issued back to back: what a user waits for, launches included."""

    def __init__(self, step: Step, seconds: float) -> None:
        self.step = step
        self.calls = max(1, math.ceil(MIN_SAMPLE_S["events"] / seconds))
        self.splits = seconds >= MIN_SPLIT_S

    def __call__(self) -> Sample:
        """One sample."""
        torch.cuda.synchronize()
        marks = [_recorded()]
        for _ in range(self.calls):
            self.step(lambda: marks.append(_recorded()) if self.splits else None)
            if self.splits:
                marks.append(_recorded())
        if not self.splits:
            marks.append(_recorded())
        marks[-1].synchronize()
        total = marks[0].elapsed_time(marks[-1]) / 1e3 / self.calls
        if len(marks) != 2 * self.calls + 1:
            return Sample(total)
        pairs = zip(marks[0:-1:2], marks[1::2], strict=True)
        forward = sum(start.elapsed_time(split) for start, split in pairs) / 1e3 / self.calls
        return Sample(total, forward)


class GraphSampler:
    """Events around the replay of a CUDA graph of several calls: the kernels alone.

    Autograd remembers the stream on which it first met a leaf and waits for it at the end of a backward
    pass, which a capture on another stream may not do. So everything runs on one stream that can
    capture (:func:`use_capturing_stream`), and the graph is captured there.

    A graph holds addresses, not tensors: every replay reads what the step owns (inputs, weights, the
    gradients of the outputs), so the step lives as long as its graph.
    """

    def __init__(self, step: Step, seconds: float, sets: int) -> None:
        self.step = step
        self.calls = sets
        self.replays = max(1, math.ceil(MIN_SAMPLE_S["graph"] / (seconds * sets)))
        for _ in range(2):
            step(_ignore)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            # The results are kept until the capture ends, or all calls would write the same memory.
            kept = [step(_ignore) for _ in range(sets)]
        del kept

    def __call__(self) -> Sample:
        """One sample."""
        torch.cuda.synchronize()
        start = _recorded()
        for _ in range(self.replays):
            self.graph.replay()
        end = _recorded()
        end.synchronize()
        return Sample(start.elapsed_time(end) / 1e3 / (self.replays * self.calls))


def use_capturing_stream() -> None:
    """Leave the default stream, which cannot capture, for the rest of the process."""
    if torch.cuda.current_stream() == torch.cuda.default_stream():
        torch.cuda.set_stream(torch.cuda.Stream())


def _recorded() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def make_sampler(clock: str, step: Step, seconds: float, sets: int) -> Sampler:
    """The sampler of a clock: ``"wall"``, ``"events"`` or ``"graph"``."""
    if clock == "wall":
        return WallSampler(step, seconds, sets)
    if clock == "events":
        return EventSampler(step, seconds)
    return GraphSampler(step, seconds, sets)


def cache_bytes(device: str) -> int:
    """Size of the last cache before memory: L2 of a GPU, all of the last level of a CPU."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [
        int(path.read_text().strip().removesuffix("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 * 2**20)


def cold_sets(bytes_per_set: int, device: str) -> int:
    """How many sets of inputs to rotate through so that each has left the cache on its return.

    Together twice the cache on a CPU, and four times on a GPU, whose L2 keeps two copies of a line.
    Above :data:`MAX_COLD_SETS` a case is too small to be measured cold in this way.
    """
    factor = 4 if device == "cuda" else 2
    return max(2, math.ceil(factor * cache_bytes(device) / max(bytes_per_set, 1)))
