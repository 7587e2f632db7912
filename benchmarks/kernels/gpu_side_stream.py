"""Whether the small kernels of the block's forward run beside its first convolution: an experiment.

    python -m benchmarks.kernels.gpu_side_stream --json side.json

The pooled context, the border constants and the gate of the higher level need little of the GPU and nothing
of ``low_conv``. They are captured after it on one stream, and beside it on a second one; both graphs give the
same bits. What the second one saves is what a side stream could bring, if cuDNN leaves room.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from checking.real_shapes import HIGH, LOW

from ..environment import describe
from .gpu_kernels import DeviceMaker, graph_microseconds
from .table import Table

C = 256

Calls = list[Callable[[], Tensor]]


def calls(namespace: str, N: int, device: str) -> tuple[Calls, Calls]:
    """The convolution; the small kernels, each of them with its result."""
    m = DeviceMaker(torch.bfloat16, True, device)
    kernels = getattr(torch.ops, namespace)
    x, weight, p_high = m.map(N, C, *LOW), m.map(C, C, 3, 3) / 48, m.map(N, C, *HIGH)
    project, bias, context = m.normal(C, C) / 16, m.normal(C), m.accumulated(N, C)
    taps, gate, gate_bias = m.accumulated(N, *HIGH, 9, C), m.normal(C) / 16, m.normal(1)
    small: Calls = [
        lambda: kernels.pooled_context(p_high, project, bias)[0],
        lambda: kernels.border_bias(context, weight, bias, *LOW),
        lambda: kernels.upsampled_gate(taps, bias, gate, gate_bias, *LOW),
    ]
    return [partial(F.conv2d, x, weight, padding=1)], small


def in_turn(large: Calls, small: Calls) -> list[Tensor]:
    """One after the other."""
    return [call() for call in (*large, *small)]


def beside(side: torch.cuda.Stream, large: Calls, small: Calls) -> list[Tensor]:
    """The small ones on a stream of their own, which ends before this returns."""
    main = torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        found = [call() for call in small]
    results = [call() for call in large]
    main.wait_stream(side)  # so the memory may be used again by either
    return results + found


def measure(namespace: str, N: int) -> dict[str, float]:
    """Times of the convolution alone, of all in turn and of all beside each other."""
    large, small = calls(namespace, N, "cuda")
    side = torch.cuda.Stream()
    expected = in_turn(large, small)
    for got, want in zip(beside(side, large, small), expected, strict=True):
        assert torch.equal(got, want), "a side stream changed the bits"
    ways = {
        "convolution_us": lambda: in_turn(large, []),
        "in_turn_us": lambda: in_turn(large, small),
        "beside_us": lambda: beside(side, large, small),
    }
    return {name: graph_microseconds([way] * 4) for name, way in ways.items()}


def main() -> None:
    """Measure both namespaces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--namespaces", default="efpn,efpn_triton")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--continue", dest="continues", action="store_true", help="keep its rows")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    table = Table(options.json, describe("cuda"), options.continues)
    for N in map(int, options.batches.split(",")):
        for namespace in options.namespaces.split(","):
            row = table.measure({"namespace": namespace, "N": N}, partial(measure, namespace, N))
            print(row, flush=True)


if __name__ == "__main__":
    main()
