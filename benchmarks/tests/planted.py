"""A small group of candidates, some of whose modules are planted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks import harness as harness_module
from benchmarks.baselines import Candidate, Entrant, build
from benchmarks.harness import Harness
from benchmarks.records import (
    COMPILE,
    EAGER,
    FORWARD,
    Omission,
    Row,
)
from benchmarks.workload import Group, Workload


def workload(**changes: object) -> Workload:
    settings = dict(
        operator="CEM",
        shape="small",
        arguments={"high_channels": 4, "low_channels": 4},
        input_shapes=((1, 4, 6, 5), (1, 4, 2, 2)),
        differentiable=(True, True),
        dtype=torch.float32,
        formats=("contiguous",),
    )
    return Workload(**settings | changes)


def group(
    direction: str = FORWARD, variants: tuple[str, ...] = (EAGER,), **changes: object
) -> Group:
    return Group(workload(**changes), direction, "warm", "wall", variants, 0.0)


def measure(
    monkeypatch: pytest.MonkeyPatch,
    modules: dict[str, Callable[[nn.Module], nn.Module]],
    direction: str = FORWARD,
    variants: tuple[str, ...] = (EAGER,),
    backends: tuple[str, ...] = ("reference",),
    **changes: object,
) -> tuple[dict[str, Row], dict[str, Omission]]:
    """Rows and omissions by variant, with some variants' modules replaced."""

    def planted(entrant: Entrant, group: Group, device: str, sets: int) -> Candidate:
        if entrant.variant == COMPILE:  # without its compiler, which takes its time
            candidate = build(Entrant(EAGER, entrant.memory_format), group, device, sets)
            candidate.entrant = entrant
        else:
            candidate = build(entrant, group, device, sets)
        if entrant.variant in modules:
            candidate.module = modules[entrant.variant](candidate.module)
        return candidate

    monkeypatch.setattr(harness_module, "build", planted)
    harness = Harness("cpu", backends, lambda text: None)
    rows, omissions = harness.measure(group(direction, variants, **changes))
    found = {row.variant: row for row in rows if row.direction == direction}
    return found, {one.variant: one for one in omissions}


class Changed(nn.Module):
    """A module whose result is changed by a function."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.change(self.module(*inputs))


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda module: Changed(module, change)
