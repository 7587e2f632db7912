"""Options of a run, and how a workload becomes groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .records import AUTOGRAD, COMPILE, COMPILE_MAX, COPY, EAGER, FLOOR, FORWARD, REDUCED, TRAINING
from .timers import MAX_COLD_SETS, cold_sets
from .workload import Group, Workload

DIRECTIONS = (FORWARD, TRAINING)
BUDGET_S = {"smoke": 0.2, "quick": 20.0, "full": 20.0}
CUDA_BUDGET_S = {"smoke": 0.2, "quick": 0.6, "full": 3.0}


@dataclass(frozen=True)
class Options:
    """The command line of a run.

    Args:
        size: a name of :data:`~benchmarks.shapes.SIZES`.
        device: ``"cpu"`` or ``"cuda"``.
        backends: of ours, each measured.
        dtypes: of the inputs.
        formats: memory formats of the maps.
        compiled: ``"auto"`` (what fits the size), ``"none"``, ``"default"`` or ``"all"``.
        rivals: the engines that take part, names of :mod:`~benchmarks.records`.
    """

    size: str
    device: str
    backends: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    formats: tuple[str, ...]
    compiled: str
    rivals: tuple[str, ...] = ()

    def compile_variants(self, direction: str) -> tuple[str, ...]:
        """Which forms of ``torch.compile`` take part."""
        if self.compiled == "none" or (self.compiled == "auto" and self.size == "smoke"):
            return ()
        if self.compiled == "all":
            return COMPILE, COMPILE_MAX
        # A quick run on a GPU, which measures several batches, has no time to compile them backward.
        quick = self.compiled == "auto" and self.size == "quick" and self.device == "cuda"
        return () if quick and direction == TRAINING else (COMPILE,)

    def rivals_in(self, workload: Workload, direction: str) -> tuple[str, ...]:
        """Which engines take part: they run a network's forward pass, in float32 on a CPU."""
        deployed = workload.operator != "DCLoss" and direction == FORWARD
        float32_on_cpu = workload.dtype == torch.float32 and self.device == "cpu"
        return self.rivals if deployed and float32_on_cpu else ()


def groups_of(
    workload: Workload,
    options: Options,
    directions: tuple[str, ...] = DIRECTIONS,
    compared: tuple[str, ...] = DIRECTIONS,
    share: float = 1.0,
) -> list[Group]:
    """Every direction, cache state and clock of a workload.

    Args:
        workload: what to measure.
        options: of the run.
        directions: to measure.
        compared: directions in which ``torch.compile`` may take part.
        share: of the size's time budget that each group gets.
    """
    formats = tuple(name for name in workload.formats if name in options.formats)
    if not formats:
        return []
    workload = replace(workload, formats=formats)
    budgets = CUDA_BUDGET_S if options.device == "cuda" else BUDGET_S
    groups = []
    for direction in directions:
        variants = [EAGER]
        if direction in compared:
            variants += options.compile_variants(direction)
        variants += options.rivals_in(workload, direction)
        if workload.reducible:
            variants.append(REDUCED)
        if workload.floor is not None:
            variants.append(FLOOR)
        if workload.traffic:
            variants.append(COPY)
        for cache, clock in conditions(workload, options):
            # A graph keeps nothing of autograd.
            alone = workload.autograd_alone and direction == TRAINING and clock != "graph"
            names = (*variants, AUTOGRAD) if alone else tuple(variants)
            budget = budgets[options.size] * share
            groups.append(Group(workload, direction, cache, clock, names, budget))
    return groups


def conditions(workload: Workload, options: Options) -> list[tuple[str, str]]:
    """The cache states and clocks worth measuring."""
    can_be_cold = cold_sets(workload.input_bytes, options.device) <= MAX_COLD_SETS
    if options.device == "cpu":
        # Convolutions of a whole level are no matter of caches here.
        cold = can_be_cold and workload.floor is None
        return [("warm", "wall"), *([("cold", "wall")] if cold else [])]
    found = [("warm", "events"), ("cold" if can_be_cold else "warm", "graph")]
    if options.size == "full" and can_be_cold:
        found += [("warm", "graph"), ("cold", "events")]
    return found
