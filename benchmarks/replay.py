"""Feeds interleaved samples to pytest-benchmark, which itself times one function at a time.

The clock stands still but for :func:`advance`, so a "call" lasts exactly as long as a sample did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_now = 0.0


def clock() -> float:
    """The timer that pytest-benchmark reads."""
    return _now


def advance(seconds: float) -> None:
    """Let time pass."""
    global _now
    _now += seconds


def replay(benchmark: Any, samples: Sequence[float]) -> None:
    """Let the ``benchmark`` fixture see ``samples``, in seconds."""
    remaining = iter(samples)
    benchmark.pedantic(lambda: advance(next(remaining)), rounds=len(samples))
