"""The floor is the library's full-resolution convolutions, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.baselines import Entrant, build, convolution_floor
from benchmarks.records import (
    EAGER,
    FLOOR,
    TRAINING,
)
from benchmarks.tests.planted import workload
from benchmarks.workload import Group


@pytest.mark.parametrize("gates", [1, 8])
@pytest.mark.parametrize("operator", ["EFPNBS", "FBSM"])
def test_the_floors_convolutions_counted(operator: str, gates: int) -> None:
    """Two of the full resolution, a third with a mask per channel; in training each has two gradients."""

    N, C, H, W, D = 1, 8, 12, 10, 6
    work = workload(
        operator=operator,
        arguments={
            "high_channels": C,
            "low_channels": C,
            "hidden_channels": D,
            "gate_channels": gates,
        },
        input_shapes=((N, C, H, W), (N, C, 3, 2)),
        floor=convolution_floor,
    )
    one = Group(work, TRAINING, "warm", "wall", (EAGER, FLOOR), 0.0)
    candidate = build(Entrant(FLOOR, "contiguous"), one, "cpu", 1)
    calls: list[tuple[str, tuple, tuple, object]] = []
    masks = []

    class Convolutions(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            if name == "aten.convolution.default":
                calls.append((name, tuple(args[0].shape), tuple(args[1].shape), args[2]))
            elif name == "aten.convolution_backward.default":
                masks.append(list(args[-1]))
            return func(*args, **(kwargs or {}))

    inputs = candidate.adapt(work.inputs("cpu", "contiguous"))
    with Convolutions():
        outputs = candidate.module(*inputs)
        leaves = [*inputs, *candidate.parameters]
        torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])
    maps = (N, C, H, W)
    expected = [((D, C, 3, 3), maps), ((C, C, 3, 3), maps)]
    if gates > 1:
        expected.append(((C, C, 3, 3), maps))
    assert [(weight, x) for _, x, weight, _ in calls] == expected
    assert {bias for *_, bias in calls} == {None}
    assert masks == [[True, True, False]] * len(expected)
    # The weights are the block's own, padded to the same size.
    block = work.master
    fbsm = getattr(block, "fbsm", block)
    x = inputs[0].detach()
    convolutions = [fbsm.low_conv, fbsm.refine_conv, fbsm.fuse_conv][: len(expected)]
    for out, conv in zip(outputs, convolutions, strict=True):
        torch.testing.assert_close(out, nn.functional.conv2d(x, conv.weight, padding=1))
