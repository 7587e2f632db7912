"""E-FPN-BS, the whole block: CEM, then FBSM (Eq. 1-8)."""

from __future__ import annotations

import torch

from benchmarks.baselines import convolution_floor
from benchmarks.plan import Options, groups_of
from benchmarks.shapes import CALL, block_shapes
from benchmarks.workload import Group, Workload


def plan(options: Options) -> list[Group]:
    """The groups of a run."""
    groups = []
    for dtype in options.dtypes:
        for shape in block_shapes(options.size, options.device):
            workload = Workload(
                operator="EFPNBS",
                shape=shape.block_label,
                arguments={
                    "high_channels": shape.channels,
                    "low_channels": shape.channels,
                    "hidden_channels": shape.hidden,
                    "gate_channels": shape.gate_channels,
                },
                input_shapes=(shape.low, shape.high),
                differentiable=(True, True),
                dtype=dtype,
                floor=convolution_floor if shape != CALL else None,
                reducible=options.device == "cpu" and dtype == torch.float32 and shape != CALL,
            )
            groups += groups_of(workload, options)
    return groups


def bench_efpn_bs(entry, record):
    """One candidate of one group."""
    record(entry)
