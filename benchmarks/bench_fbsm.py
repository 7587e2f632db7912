"""FBSM alone (Eq. 5-8): what is left of the block when CEM is switched off."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.baselines import convolution_floor
from benchmarks.plan import DIRECTIONS, Options, groups_of
from benchmarks.records import FORWARD
from benchmarks.shapes import CALL, neck_shapes
from benchmarks.workload import Group, Workload

HIDDEN = 64  # the narrow gate; bench_efpn_bs has the wide one


def plan(options: Options) -> list[Group]:
    """The groups of a run."""
    groups = []
    for dtype in options.dtypes:
        for full_shape in neck_shapes(options.size, options.device):
            if full_shape == CALL or (options.device == "cpu" and full_shape.batch > 1):
                continue  # bench_efpn_bs shows what a call costs, and what a batch does
            shape = replace(full_shape, hidden=min(HIDDEN, full_shape.hidden))
            workload = Workload(
                operator="FBSM",
                shape=shape.block_label,
                arguments={
                    "high_channels": shape.channels,
                    "low_channels": shape.channels,
                    "hidden_channels": shape.hidden,
                },
                input_shapes=(shape.low, shape.high),
                differentiable=(True, True),
                dtype=dtype,
                floor=convolution_floor,
            )
            # Quick runs leave out what bench_efpn_bs shows too: torch.compile and the gradients.
            quick = options.size == "quick"
            directions, compared = ((FORWARD,), ()) if quick else (DIRECTIONS, DIRECTIONS)
            groups += groups_of(workload, options, directions, compared)
    return groups


def bench_fbsm(entry, record):
    """One candidate of one group."""
    record(entry)
