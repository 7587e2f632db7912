"""The row that a measurement leaves: plain data, written to JSON as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

OURS = "efpn_kernels"
REDUCED = "efpn_kernels, reduced precision"
EAGER = "eager"
COMPILE = "torch.compile"
COMPILE_MAX = "torch.compile max-autotune"
FLOOR = "library floor"
COPY = "copy"
AUTOGRAD = "autograd alone"
OPENVINO = "OpenVINO"
ONNX_RUNTIME = "ONNX Runtime"
RIVALS = (OPENVINO, ONNX_RUNTIME)

PICTURES = ("efpn_bs_time.png", "speedup.png", "dc_loss.png", "memory.png")

FORWARD = "forward"
BACKWARD = "backward"
TRAINING = "forward + backward"

# The clock and cache state that speaks for a device: a GPU's kernels on cold tensors, a CPU's
# calls on warm ones.
HEADLINE = (("graph", "cold"), ("wall", "warm"))


@dataclass(frozen=True)
class GroupKey:
    """Rows with the same key were measured interleaved and may be compared."""

    operator: str
    shape: str
    dtype: str
    direction: str
    cache: str  # "warm": the same tensors in every call; "cold": tensors that left the cache
    clock: str  # "wall": host clock; "events": device, launches included; "graph": kernels alone

    def __str__(self) -> str:
        parts = (self.operator, self.shape, self.dtype, self.direction, self.cache, self.clock)
        return " | ".join(parts)


@dataclass(frozen=True)
class Row:
    """One candidate's measurement. Times in seconds per call, sizes in bytes."""

    operator: str
    shape: str
    dtype: str
    direction: str
    cache: str
    clock: str
    variant: str
    memory_format: str
    backend: str | None  # as asked for; None for baselines
    ran_on: str | None  # the backend that did the work
    median_s: float
    q25_s: float
    q75_s: float
    min_s: float
    samples_s: tuple[float, ...]
    calls_per_round: int
    first_call_s: float | None
    error: float | None = None
    eager_error: float | None = None
    repeatable: bool | None = None
    saved_bytes: int | None = None
    saved_own_bytes: int | None = None
    peak_bytes: int | None = None
    traffic_bytes: int | None = None

    @property
    def group(self) -> GroupKey:
        """The key of the rows that were measured together with this one."""
        return GroupKey(
            self.operator, self.shape, self.dtype, self.direction, self.cache, self.clock
        )

    @property
    def label(self) -> str:
        """Who was measured, with the backend where it is ours."""
        return self.variant if self.ran_on is None else f"{self.variant} ({self.ran_on})"

    @property
    def rounds(self) -> int:
        """How many samples were taken."""
        return len(self.samples_s)

    @property
    def spread(self) -> float:
        """Distance of the quartiles relative to the median."""
        return (self.q75_s - self.q25_s) / self.median_s if self.median_s else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data; samples with six digits."""
        return asdict(self) | {"samples_s": [float(f"{value:.6g}") for value in self.samples_s]}


@dataclass(frozen=True)
class Omission:
    """A candidate that was not timed, and why."""

    operator: str
    shape: str
    dtype: str
    direction: str
    cache: str
    clock: str
    variant: str
    memory_format: str
    backend: str | None
    reason: str

    @property
    def group(self) -> GroupKey:
        """The key of the group that it is missing from."""
        return GroupKey(
            self.operator, self.shape, self.dtype, self.direction, self.cache, self.clock
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def by_group(rows: list[Row]) -> dict[GroupKey, list[Row]]:
    """Rows by group, both in the order of measurement."""
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def ours_in(rows: Sequence[Row], memory_format: str) -> Row | None:
    """The fastest of ours in a memory format."""
    ours = [row for row in rows if row.variant == OURS and row.memory_format == memory_format]
    return min(ours, key=lambda row: row.median_s, default=None)


def speedup_over(row: Row, rows: Sequence[Row]) -> float | None:
    """How many times faster ours is than an equal implementation in the row's memory format."""
    ours = ours_in(rows, row.memory_format)
    if ours is None or row.variant in (OURS, REDUCED, FLOOR, COPY, AUTOGRAD):
        return None
    return row.median_s / ours.median_s
