"""The CPU's own convolutions of a mask per channel: hidden map, gates and fuse, kernel by kernel, float32."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accuracy import assert_accurate, assert_rule
from cases import LAYOUTS, Problem
from test_winograd import SIZES, WIDE, Draw, Size, assert_same_bits, every_layout, threads
from torch import Tensor

from checking import contracts

__all__ = ["threads"]  # the fixture

SOURCE = Path(__file__).resolve().parents[1] / "csrc" / "cpu" / "pointwise.cpp"


class LowHidden(torch.autograd.Function):
    """``low_hidden_conv`` with its backward."""

    @staticmethod
    def forward(ctx: Any, p_low: Tensor, weight: Tensor, border: Tensor) -> Tensor:
        hidden = torch.ops.efpn.low_hidden_conv(p_low, weight, border)
        ctx.save_for_backward(hidden, p_low, weight)
        return hidden

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.efpn.low_hidden_conv_backward(grad, *ctx.saved_tensors)


class Gate(torch.autograd.Function):
    """``pointwise_gate_conv`` with its backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, channels_last: bool
    ) -> Tensor:
        gate = torch.ops.efpn.pointwise_gate_conv(hidden, weight, bias, channels_last)
        ctx.save_for_backward(gate, hidden, weight)
        return gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *torch.ops.efpn.pointwise_gate_conv_backward(grad, *ctx.saved_tensors), None


class Fuse(torch.autograd.Function):
    """``fuse_conv`` with its backward, from the gradient of the mask."""

    @staticmethod
    def forward(ctx: Any, m_high: Tensor, m_low: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mask = torch.ops.efpn.fuse_conv(m_high, m_low, weight, bias)
        ctx.save_for_backward(mask, m_high, m_low, weight)
        return mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        mask, *others = ctx.saved_tensors
        grad_logit = grad * mask * (1 - mask)
        grad_sum, *of_parameters = torch.ops.efpn.fuse_conv_backward(grad_logit, *others)
        return grad_sum, grad_sum, *of_parameters


def low_hidden(p_low: Tensor, weight: Tensor, border: Tensor) -> Tensor:
    return contracts.border_relu(F.conv2d(p_low, weight, padding=1), border)[0]


def gate(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(hidden, weight, bias).sigmoid()


def fuse(m_high: Tensor, m_low: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(m_high + m_low, weight, bias, padding=1).sigmoid()


def low_hidden_problem(size: Size, layout: str, seed: int = 0) -> Problem:
    N, C, D, H, W = size
    draw = Draw(size, layout, seed)
    tensors = {
        "p_low": draw(N, C, H, W),
        "weight": draw.weight(D, C),
        "border": draw(N * 9, D).view(N, 3, 3, D),
    }
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    return Problem(LowHidden.apply, low_hidden, leaves, grad_out=draw(N, D, H, W))


def gate_problem(size: Size, layout: str, seed: int = 0) -> Problem:
    """From C hidden to D gate channels; a map of one channel does not tell its format."""
    N, C, D, H, W = size
    draw = Draw(size, layout, seed)
    tensors = {
        "hidden": draw(N, C, H, W).relu_(),
        "weight": draw(D, C, 1, 1, scale=C**-0.5),
        "bias": draw(D),
    }
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    return Problem(
        lambda *args: Gate.apply(*args, layout == "channels_last"),
        gate,
        leaves,
        grad_out=draw(N, D, H, W),
    )


def fuse_problem(size: Size, layout: str, seed: int = 0) -> Problem:
    N, C, D, H, W = size
    draw = Draw(size, layout, seed)
    tensors = {
        "m_high": draw(N, C, H, W).abs_().clamp_(max=1),
        "m_low": draw(N, C, H, W).abs_().clamp_(max=1),
        "weight": draw.weight(D, C),
        "bias": draw(D),
    }
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    return Problem(Fuse.apply, fuse, leaves, grad_out=draw(N, D, H, W))


PROBLEMS = {"low_hidden": low_hidden_problem, "gate": gate_problem, "fuse": fuse_problem}
Make = Callable[..., Problem]
each_kernel = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)


@each_kernel
@every_layout
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_values(make: Make, size: Size, layout: str) -> None:
    assert_accurate(lambda seed: make(size, layout, seed))


@each_kernel
@every_layout
def test_rule(make: Make, layout: str) -> None:
    """The error against float64 is at most 1.25 times the library's."""
    assert_rule([make(size, layout, seed) for size in WIDE for seed in range(6)])


@each_kernel
@every_layout
@pytest.mark.parametrize("size", [SIZES[6], SIZES[8], SIZES[10], WIDE[0]], ids=str)
def test_bits_do_not_depend_on_threads(
    threads: list[int], make: Make, size: Size, layout: str
) -> None:
    problem = make(size, layout)
    first = problem.fused()
    for count in (*threads, *threads):
        torch.set_num_threads(count)
        assert_same_bits(problem.fused(), first)


@each_kernel
@pytest.mark.parametrize("size", [SIZES[5], SIZES[8]], ids=str)
def test_bits_and_formats(make: Make, size: Size) -> None:
    """The same bits in both formats, each result in the format of its argument."""
    results = []
    for layout in LAYOUTS:
        problem = make(size, layout)
        results.append(problem.fused())
        for name, x in problem.tensors.items():
            assert results[-1][f"grad_{name}"].stride() == x.stride(), f"{layout}, {name}"
        assert results[-1]["out"].is_contiguous() == (layout == "contiguous")
    if make is low_hidden_problem:  # sums over a map follow its order in memory
        for one in results:
            del one["grad_border"]
    assert_same_bits(*results)


def test_the_largest_size_has_several_chunks() -> None:
    """By the constants of the source: one that grows would leave the sum of chunks untested."""
    most, least = map(
        int,
        re.findall(r"kMostChunks = (\d+), kLeastPixelsOfChunk = (\d+);", SOURCE.read_text())[0],
    )
    n, _, _, height, width = SIZES[10]
    wanted = min(height * width // least, most // n)
    chunk = math.ceil(height * width / wanted)
    assert wanted > 2 and height * width % chunk, "several chunks, the last one smaller"


@each_kernel
def test_not_a_number_stays(make: Make) -> None:
    problem = make((1, 8, 8, 12, 12), "contiguous")
    name = next(iter(problem.tensors))
    x = problem.tensors[name].detach().clone()
    x[0, 3, 5, 6] = float("nan")
    tensors = {**problem.tensors, name: x.requires_grad_()}
    out = Problem(
        problem.functional, problem.reference, tensors, grad_out=problem.grad_out
    ).fused()["out"]
    reach = 0 if make is gate_problem else 1
    assert out[0, :, 5 - reach : 6 + reach, 6 - reach : 7 + reach].isnan().all()
    assert not out[0, :, 8:].isnan().any()


@pytest.mark.parametrize("instructions", ["portable", "avx2"])
def test_lesser_instruction_sets(instructions: str) -> None:
    """The values again, with fewer instructions: they are chosen when the library is first called."""
    environment = {**os.environ, "EFPN_KERNELS_CPU_CAPABILITY": instructions}
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "test_values"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
