"""A candidate in a contest: what its check found, its samples, and the rows or the note it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import quantiles

from .baselines import Candidate, Entrant
from .memory import Memory
from .records import AUTOGRAD, BACKWARD, TRAINING, Omission, Row
from .timers import Sample, Sampler
from .workload import Group


class NotTimed(Exception):
    """The reason why a candidate is left out."""


@dataclass(frozen=True)
class Check:
    """What is known of a candidate before it is timed."""

    first_call_s: float
    warm_call_s: float
    error: float | None
    eager_error: float | None
    repeatable: bool | None = None
    memory: Memory | None = None
    ran_on: str | None = None


@dataclass(eq=False)
class Contestant:
    """A candidate that passed its check, with the samples taken so far."""

    candidate: Candidate
    check: Check
    sampler: Sampler
    samples: list[Sample] = field(default_factory=list)


def reason_of(error: Exception) -> str:
    """One line for the report."""
    reason = str(error) if isinstance(error, NotTimed) else f"{type(error).__name__}: {error}"
    return reason.strip().splitlines()[0][:200]


def omission(group: Group, entrant: Entrant, reason: str) -> Omission:
    """The note that an entrant is missing from a group."""
    key = group.key
    return Omission(
        key.operator,
        key.shape,
        key.dtype,
        key.direction,
        key.cache,
        key.clock,
        entrant.variant,
        entrant.memory_format,
        entrant.backend,
        reason,
    )


def rows_of(group: Group, one: Contestant) -> list[Row]:
    """The row of a contestant; in training another one for backward alone, where it was split off."""
    rows = [_row(group, one, group.direction, [sample.total for sample in one.samples])]
    if all(sample.forward is not None for sample in one.samples):
        backward = [sample.total - sample.forward for sample in one.samples]
        rows.append(_row(group, one, BACKWARD, backward))
    return rows


def _row(group: Group, one: Contestant, direction: str, seconds: list[float]) -> Row:
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    key, entrant, check = group.key, one.candidate.entrant, one.check
    memory = check.memory
    traffic = group.workload.traffic.get(direction)
    return Row(
        operator=key.operator,
        shape=key.shape,
        dtype=key.dtype,
        direction=direction,
        cache=key.cache,
        clock=key.clock,
        variant=entrant.variant,
        memory_format=entrant.memory_format,
        backend=entrant.backend,
        ran_on=check.ran_on,
        median_s=median,
        q25_s=low,
        q75_s=high,
        min_s=min(seconds),
        samples_s=tuple(seconds),
        calls_per_round=one.sampler.calls,
        first_call_s=check.first_call_s,
        error=check.error,
        eager_error=check.eager_error,
        repeatable=check.repeatable,
        saved_bytes=memory.saved if memory and direction == TRAINING else None,
        saved_own_bytes=memory.saved_own if memory and direction == TRAINING else None,
        peak_bytes=memory.peak if memory and direction != BACKWARD else None,
        traffic_bytes=None if entrant.variant == AUTOGRAD else traffic,
    )
