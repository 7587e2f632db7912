"""The full-resolution 3x3 convolutions on a GPU: cuDNN with the passes around it, and our fused ones.

    python -m benchmarks.kernels.gpu_convolutions.py --json gpu_convolutions.json

At p_low ``[N, 256, 200, 200]`` bfloat16 channels_last. Each candidate of a group gives the same result and
is compared with float64 first; times are as in ``gpu_kernels``. What ``auto`` runs follows from these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from checking.contracts import CONTRACTS
from checking.real_shapes import LOW
from efpn_kernels.triton import convolution as triton_conv

from ..environment import describe
from . import cudnn_fused
from .cudnn_fused import FusedConvolution
from .gpu_kernels import (
    DeviceMaker,
    clone_arguments,
    graph_microseconds,
    rotations,
    tensor_bytes,
)
from .table import Table

C = 256


def arguments(N: int) -> list[Tensor]:
    maker = DeviceMaker(torch.bfloat16, True, "cuda")
    x, border = maker.map(N, C, *LOW), maker.accumulated(N, 3, 3, C)
    weight, bias = maker.map(C, C, 3, 3) / 48, maker.normal(C)
    gate_weight, gate_bias = maker.normal(C) / 16, maker.normal(1)
    context, mask = maker.accumulated(N, C), maker.gate(N, *LOW)
    return [x, weight, bias, border, gate_weight, gate_bias, context, mask]


def bare(x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def relu_eager(x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1).relu_()


def relu_cudnn(x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
    return torch.cudnn_convolution_relu(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)


def relu_pass(namespace: str) -> Callable[..., Tensor]:
    kernels = getattr(torch.ops, namespace)

    def run(x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
        out = F.conv2d(x, weight, padding=1)
        kernels.bias_relu_(out, bias)
        return out

    return run


def relu_triton(x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
    return triton_conv.relu_conv(x, weight, bias)


def gate_pass(namespace: str) -> Callable[..., Tensor]:
    kernels = getattr(torch.ops, namespace)

    def run(x, weight, bias, border, gate_weight, gate_bias, *_):
        return kernels.low_gate(F.conv2d(x, weight, padding=1), border, gate_weight, gate_bias)

    return run


def gate_triton(keep: bool) -> Callable[..., Tensor]:
    def run(x, weight, bias, border, gate_weight, gate_bias, *_):
        return triton_conv.low_gate_conv(x, weight, border, gate_weight, gate_bias, keep)[0]

    return run


def refine_pass(namespace: str) -> Callable[..., Tensor]:
    kernels = getattr(torch.ops, namespace)

    def run(x, weight, bias, border, gate_weight, gate_bias, context, mask):
        separated = kernels.mask_apply(x, context, mask)
        return F.conv2d(separated, weight, bias, padding=1).relu_()

    return run


def refine_triton(x, weight, bias, border, gate_weight, gate_bias, context, mask):
    return triton_conv.refine_conv(x, context, mask, weight, bias)


def available(namespace: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::low_gate", "CUDA")


def groups() -> dict[str, dict[str, Callable[..., Tensor]]]:
    """Candidates by what they compute; the first of each group is plain PyTorch."""
    spaces = [n for n in ("efpn", "efpn_triton") if available(n)]
    return {
        "conv": {"cudnn": bare},
        "relu": {
            "eager": relu_eager,
            "cudnn fused": relu_cudnn,
            **({"cudnn frontend": FusedConvolution()} if cudnn_fused.available() else {}),
            **{f"cudnn + {n}": relu_pass(n) for n in spaces},
            "triton": relu_triton,
        },
        "low_gate": {
            **{f"cudnn + {n}": gate_pass(n) for n in spaces},
            "triton": gate_triton(False),
            "triton keep": gate_triton(True),
        },
        "refine": {
            **{f"{n} + eager": refine_pass(n) for n in spaces},
            "triton": refine_triton,
        },
    }


def oracle(group: str, args: list[Tensor]) -> Tensor:
    x, weight, bias, border, gate_weight, gate_bias, context, mask = (a.double() for a in args)
    if group == "low_gate":
        conv = F.conv2d(x, weight, padding=1)
        return CONTRACTS["low_gate"](conv, border, gate_weight, gate_bias)[0]
    if group == "refine":
        x = CONTRACTS["mask_apply"](x, context, mask)[0]
    out = F.conv2d(x, weight, None if group == "conv" else bias, padding=1)
    return out if group == "conv" else out.relu()


def keeps_nan(candidate: Callable[..., Tensor], args: list[Tensor]) -> bool:
    """Whether one NaN in ``x`` reaches the results that its convolution reaches."""
    x, weight, *rest = args
    x = x.clone()
    x[0, 3, 4, 5] = torch.nan
    return bool(candidate(x, weight, *rest)[0, ..., 3:6, 4:7].isnan().all())


def measure(
    candidate: Callable[..., Tensor], args: list[Tensor], expected: Tensor | None
) -> dict[str, float | bool]:
    """The largest error where the oracle is at hand, and the time."""
    row: dict[str, float | bool] = {}
    if expected is not None:
        first = candidate(*args)
        row["max_error"] = (first.double() - expected).abs().max().item()
        row["repeatable"] = torch.equal(first, candidate(*args))
        row["keeps_nan"] = keeps_nan(candidate, args)
        del first
    copies = [clone_arguments(args) for _ in range(rotations(2 * tensor_bytes(args)))]
    row["us"] = graph_microseconds([partial(candidate, *c) for c in copies])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", default="1,2,8")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--continue", dest="continues", action="store_true", help="keep its rows")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    table = Table(options.json, describe("cuda"), options.continues)
    for N in map(int, options.batches.split(",")):
        args = arguments(N)
        flops = 2 * 9 * C * C * N * LOW[0] * LOW[1]
        for group, candidates in groups().items():
            expected = oracle(group, args) if N == 1 else None
            for name, candidate in candidates.items():
                identity = {"group": group, "candidate": name, "N": N}
                row = table.measure(identity, partial(measure, candidate, args, expected))
                if "error" in row:
                    text = f"FAILED {row['error'][:160]}"
                else:
                    text = f"{row['us']:8.1f} us {flops / row['us'] / 1e6:6.0f} TFLOP/s"
                if "max_error" in row:
                    text += f" error {row['max_error']:.1e}"
                    text += "" if row["repeatable"] else ", BITS DIFFER from run to run"
                    text += "" if row["keeps_nan"] else ", NaN IS LOST"
                print(f"{group:9} N={N} {name:20} {text}", flush=True)
            del expected


if __name__ == "__main__":
    main()
