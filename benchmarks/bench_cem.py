"""CEM alone (Eq. 1-4): a kernel that memory bandwidth bounds."""

from __future__ import annotations

from math import prod

from benchmarks.plan import Options, groups_of
from benchmarks.records import FORWARD, TRAINING
from benchmarks.shapes import CALL, neck_shapes
from benchmarks.workload import Group, Workload


def plan(options: Options) -> list[Group]:
    """The groups of a run."""
    groups = []
    for dtype in options.dtypes:
        for shape in neck_shapes(options.size, options.device):
            low, high = (prod(size) * dtype.itemsize for size in (shape.low, shape.high))
            workload = Workload(
                operator="CEM",
                shape=shape.label,
                arguments={"high_channels": shape.channels, "low_channels": shape.channels},
                input_shapes=(shape.low, shape.high),
                differentiable=(True, True),
                dtype=dtype,
                traffic={}
                if shape == CALL
                else {
                    # p_low and p_high are read, the output is written;
                    FORWARD: 2 * low + high,
                    # backward reads grad_out (it is grad_p_low as well) and writes grad_p_high.
                    TRAINING: 3 * low + 2 * high,
                },
            )
            groups += groups_of(workload, options, share=0.1)
    return groups


def bench_cem(entry, record):
    """One candidate of one group."""
    record(entry)
