"""The project's goals as ratios, each against the rows that it speaks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .accuracy import REDUCED_SLACK, SLACK
from .records import (
    COMPILE,
    COMPILE_MAX,
    COPY,
    EAGER,
    FLOOR,
    FORWARD,
    OURS,
    REDUCED,
    RIVALS,
    TRAINING,
    GroupKey,
    Row,
    by_group,
)
from .shapes import CALL

FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Goal:
    """A goal and what came of it; ``measured`` is a ratio, or a share of the copy bandwidth."""

    what: str
    required: str
    measured: float
    met: bool

    @property
    def distance(self) -> str:
        """How far from the goal, in the measured ratio."""
        if self.met:
            return "met"
        bound = float(self.required.split()[1])
        return f"missed by {abs(self.measured / bound - 1):.0%}"


def at_most(what: str, measured: float | None, bound: float) -> list[Goal]:
    """A goal with an upper bound; nothing where nothing was measured."""
    if measured is None:
        return []
    return [Goal(what, f"<= {bound:.2f}", measured, measured <= bound)]


def at_least(what: str, measured: float | None, bound: float) -> list[Goal]:
    """A goal with a lower bound; nothing where nothing was measured."""
    if measured is None:
        return []
    return [Goal(what, f">= {bound:.2f}", measured, measured >= bound)]


class Contest:
    """The rows of one group, with one of ours singled out."""

    def __init__(self, rows: Sequence[Row], ours: Row) -> None:
        self.rows = rows
        self.ours = ours

    def find(self, variant: str, memory_format: str | None = None) -> Row | None:
        """The row of a variant, in our format unless another is named."""
        memory_format = memory_format or self.ours.memory_format
        for row in self.rows:
            if row.variant == variant and row.memory_format == memory_format:
                return row
        return None

    def times(self, variant: str, memory_format: str | None = None) -> float | None:
        """Our time as a multiple of a variant's."""
        other = self.find(variant, memory_format)
        return None if other is None else self.ours.median_s / other.median_s

    def speedup(self, variant: str, memory_format: str | None = None) -> float | None:
        """A variant's time as a multiple of ours."""
        times = self.times(variant, memory_format)
        return None if times is None else 1 / times

    @property
    def copy_share(self) -> float | None:
        """Our bandwidth over the copy's."""
        return copy_share(self.ours, self.rows)

    def saved(self, own: bool) -> float | None:
        """Our saved memory over eager's."""
        eager = self.find(EAGER)
        if eager is None or not eager.saved_own_bytes or self.ours.saved_bytes is None:
            return None
        if own:
            return self.ours.saved_own_bytes / eager.saved_own_bytes
        return self.ours.saved_bytes / eager.saved_bytes


def copy_share(row: Row, rows: Sequence[Row]) -> float | None:
    """The bandwidth of a row, for the bytes that have to move, over that of its group's copy."""
    copy = next((other for other in rows if other.variant == COPY), None)
    if copy is None or not row.traffic_bytes or not copy.traffic_bytes:
        return None
    return (row.traffic_bytes / row.median_s) / (copy.traffic_bytes / copy.median_s)


def goals_of(rows: Sequence[Row]) -> list[Goal]:
    """Every goal that the rows can answer, and the two that hold everywhere."""
    goals: list[Goal] = []
    for key, members in by_group(list(rows)).items():
        check = CHECKS.get(key.operator)
        if check is None:
            continue
        for ours in (row for row in members if row.variant == OURS):
            goals += check(key, Contest(members, ours))
    return goals + numerics_goals(rows)


def block_goals(key: GroupKey, contest: Contest) -> list[Goal]:
    """E-FPN-BS at 800 x 800 with hidden = C = 256, and the cost of a call."""
    if key.clock == "wall" and key.shape.startswith(CALL.name):
        return call_goals(key, contest, {FORWARD: 0.60, TRAINING: 0.75})
    if not key.shape.startswith("AI-TOD"):
        return []
    if key.clock == "wall" and "N=1," in key.shape:
        return cpu_block_goals(key, contest)
    # Kernels alone on tensors that left the cache: launches are the same work for everyone.
    if key.clock == "graph" and key.cache == "cold" and key.dtype == "bfloat16":
        return cuda_block_goals(key, contest) if key.shape.endswith("hidden 256") else []
    return []


def call_goals(key: GroupKey, contest: Contest, bounds: dict[str, float]) -> list[Goal]:
    """A call that is as short as its own cost."""
    if key.dtype != "float32" or key.direction not in bounds:
        return []
    name = f"{key.operator} {key.direction}, {key.shape}, {contest.ours.memory_format}: "
    return at_most(name + "time / eager's", contest.times(EAGER), bounds[key.direction])


def cpu_block_goals(key: GroupKey, contest: Contest) -> list[Goal]:
    """One image: in float32, with a mask per channel, in bfloat16."""
    name = f"EFPNBS {key.direction}, {contest.ours.memory_format}: "
    floor, eager = contest.times(FLOOR), contest.speedup(EAGER)
    if key.shape.endswith("hidden 256, gate 256"):
        if key.dtype != "float32" or key.direction != FORWARD:
            return []
        return at_most(name + "a mask per channel: time / library floor", floor, 0.65)
    if not key.shape.endswith("hidden 256") or key.direction not in (FORWARD, TRAINING):
        return []
    if key.dtype == "bfloat16":
        return at_least(name + "bfloat16: speed-up over eager", eager, 1.0)
    if key.dtype != "float32":
        return []
    found = [
        *at_most(name + "time / library floor", floor, 0.50),
        *at_least(name + "speed-up over eager", eager, 3.0),
    ]
    if key.direction == TRAINING:
        return found + memory_goals(name, contest)
    for engine in RIVALS:
        found += at_least(f"{name}speed-up over {engine}", contest.speedup(engine), 3.0)
    return found + reduced_goals(name, contest)


def reduced_goals(name: str, contest: Contest) -> list[Goal]:
    """Speed and error where reduced precision is asked for."""
    reduced = contest.find(REDUCED)
    if reduced is None:
        return []
    floor = Contest(contest.rows, reduced).times(FLOOR)
    name += "reduced precision: "
    goals = at_most(name + "time / library floor", floor, 0.38)
    return goals + at_most(
        name + "error / eager's", reduced.error / reduced.eager_error, REDUCED_SLACK
    )


def cuda_block_goals(key: GroupKey, contest: Contest) -> list[Goal]:
    """Batches of 1, 2 and 8 in bfloat16, channels_last."""
    ours = contest.ours
    if ours.memory_format != "channels_last":
        return []
    batch = key.shape.split("N=")[1].split(",")[0]
    name = f"EFPNBS {key.direction}, bfloat16 channels_last, N={batch}, {ours.ran_on}: "
    floor, eager = contest.times(FLOOR), contest.speedup(EAGER)
    if key.direction == FORWARD:
        tuned = contest.speedup(COMPILE_MAX)
        return [
            *at_most(name + "time / library floor", floor, 1.2),
            *at_least(name + "speed-up over eager", eager, 1.7),
            *at_least(name + "speed-up over torch.compile max-autotune", tuned, 1.4),
        ]
    if key.direction != TRAINING:
        return []
    return [
        *at_most(name + "time / library floor", floor, 1.25),
        *at_least(name + "speed-up over eager", eager, 2.0),
        *memory_goals(name, contest),
    ]


def memory_goals(name: str, contest: Contest) -> list[Goal]:
    """What is kept for backward, without and with the block's own inputs and outputs."""
    kept = name + "memory kept for backward / eager's"
    return [
        *at_most(kept + ", without own inputs and outputs", contest.saved(own=True), 0.35),
        *at_most(kept + ", with them", contest.saved(own=False), 0.35),
    ]


def cem_goals(key: GroupKey, contest: Contest) -> list[Goal]:
    """Bandwidth of the forward pass, and the cost of a call."""
    if key.shape.startswith(CALL.name):
        calls = {FORWARD: 1.0, TRAINING: 1.0} if key.clock == "wall" else {}
        return call_goals(key, contest, calls)
    if key.direction != FORWARD:
        return []
    ours = contest.ours
    name = f"CEM forward, {key.shape}, {key.dtype} {ours.memory_format}, {ours.ran_on}: "
    copied = at_least(name + "share of copy bandwidth", contest.copy_share, 0.9)
    wall = key.clock == "wall" and key.shape.startswith("AI-TOD")
    if wall and key.cache == "warm" and key.dtype == "float32":
        compiled = contest.speedup(COMPILE)
        return [*copied, *at_least(name + "speed-up over torch.compile", compiled, 1.0)]
    return copied if (key.clock, key.cache) == ("graph", "cold") else []


def dc_loss_goals(key: GroupKey, contest: Contest) -> list[Goal]:
    """Call overhead of a small loss, bandwidth of a large one."""
    ours = contest.ours
    backend = f", {ours.ran_on}" if key.clock != "wall" else ""
    name = f"DCLoss {key.direction}, {key.shape}, {key.dtype}, {key.cache}{backend}: "
    if key.shape.startswith("2 048") and key.direction == TRAINING and key.clock != "graph":
        return at_most(name + "time / eager's", contest.times(EAGER), 0.40)
    if not key.shape.startswith("10 000 000"):
        return []
    if key.clock == "graph" and key.cache == "cold":
        return at_least(name + "share of copy bandwidth", contest.copy_share, 0.9)
    if key.clock == "wall" and key.cache == "warm" and key.direction == FORWARD:
        return at_least(name + "speed-up over torch.compile", contest.speedup(COMPILE), 1.0)
    return []


CHECKS: dict[str, Callable[[GroupKey, Contest], list[Goal]]] = {
    "EFPNBS": block_goals,
    "CEM": cem_goals,
    "DCLoss": dc_loss_goals,
}


def numerics_goals(rows: Sequence[Row]) -> list[Goal]:
    """The worst error over eager's, one ulp granted, and the share of repeatable results."""
    ratios = [
        max(row.error - torch.finfo(getattr(torch, row.dtype)).eps, 0.0) / row.eager_error
        for row in rows
        if row.variant == OURS and row.eager_error
    ]
    what = "worst error over one ulp / eager's error"
    goals = at_most(what, max(ratios, default=None), SLACK)
    repeatable = [row.repeatable for row in rows if row.variant == OURS]
    if repeatable:
        share = sum(map(bool, repeatable)) / len(repeatable)
        goals += at_least("share of results that are bitwise repeatable", share, 1.0)
    return goals
