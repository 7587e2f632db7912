"""Rows with known times, for tables, goals and pictures."""

from __future__ import annotations

from benchmarks.records import OURS, Row

BLOCK = "AI-TOD 800x800, N=1, P2 200x200, hidden 256"


def row(
    variant: str,
    seconds: float,
    *,
    operator: str = "EFPNBS",
    shape: str = BLOCK,
    dtype: str = "float32",
    direction: str = "forward",
    cache: str = "warm",
    clock: str = "wall",
    memory_format: str = "contiguous",
    ran_on: str | None = None,
    spread: float = 0.0,
    **more: object,
) -> Row:
    """A row of ``seconds``, its quartiles half of ``spread`` away on each side."""
    if variant == OURS and ran_on is None:
        ran_on = "cpu"
    half = seconds * spread / 2
    low, high = seconds - half, seconds + half
    group = (operator, shape, dtype, direction, cache, clock)
    who = (variant, memory_format, ran_on, ran_on)
    times = (seconds, low, high, low, (low, seconds, high), 1, None)
    return Row(*group, *who, *times, **more)
