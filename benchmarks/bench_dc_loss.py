"""DCLoss (Eq. 9-10): launch overhead in two-stage heads, memory bandwidth in dense ones."""

from __future__ import annotations

from benchmarks.plan import DIRECTIONS, Options, groups_of
from benchmarks.records import FORWARD, TRAINING
from benchmarks.shapes import LOSS_GOAL_SIZES, LOSS_SIZES
from benchmarks.workload import Group, Workload


def plan(options: Options) -> list[Group]:
    """The groups of a run."""
    groups = []
    for dtype in options.dtypes:
        for elements in LOSS_SIZES[options.size]:
            size = elements * dtype.itemsize
            workload = Workload(
                operator="DCLoss",
                shape=f"{elements:,} elements".replace(",", " "),
                arguments={},
                input_shapes=((elements,), (elements,)),
                differentiable=(True, False),
                dtype=dtype,
                formats=("contiguous",),
                input_scale=0.3,
                cast_parameters=False,
                # pred and target are read; training writes grad_pred too.
                traffic={FORWARD: 2 * size, TRAINING: 3 * size},
                autograd_alone=elements == min(LOSS_GOAL_SIZES),
            )
            compare = elements in LOSS_GOAL_SIZES or options.size == "full"
            compared = DIRECTIONS if compare else ()
            groups += groups_of(workload, options, compared=compared, share=0.1)
    return groups


def bench_dc_loss(entry, record):
    """One candidate of one group."""
    record(entry)
