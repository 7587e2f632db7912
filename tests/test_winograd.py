"""The CPU's Winograd convolutions with all that is fused into them, kernel by kernel."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accuracy import assert_accurate, assert_rule
from cases import LAYOUTS, Problem
from torch import Tensor

from checking import contracts

ROOT = Path(__file__).resolve().parents[1]
Size = tuple[int, int, int, int, int]

SIZES: tuple[Size, ...] = (
    (1, 1, 1, 1, 1),
    (2, 3, 5, 1, 2),
    (1, 7, 4, 2, 1),
    (2, 17, 33, 2, 2),
    (1, 33, 40, 3, 5),
    (2, 12, 20, 7, 9),
    (1, 20, 9, 33, 17),
    (1, 5, 35, 4, 70),
    (3, 64, 48, 11, 13),
    (0, 4, 4, 5, 5),
    (2, 5, 6, 65, 66),
)
"""``N, C, D, H, W``: whole and broken tiles, strips of many rows and images, broken registers; last 2178 tiles,
whose weight gradient is summed in three chunks, the third of 130."""

WIDE: tuple[Size, ...] = ((1, 64, 64, 26, 25), (2, 128, 64, 14, 18), (1, 96, 160, 20, 15))
MASKS = ("gate", "map")


class LowGate(torch.autograd.Function):
    """``low_gate_conv`` with its backward."""

    @staticmethod
    def forward(ctx: Any, reduced: bool, *args: Tensor) -> Tensor:
        gate, kept = torch.ops.efpn.low_gate_conv(*args, True, reduced)
        ctx.save_for_backward(gate, kept, *args[:4])
        ctx.reduced = reduced
        return gate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = (grad.contiguous(), *ctx.saved_tensors)
        return None, *torch.ops.efpn.low_gate_conv_backward(*tensors, ctx.reduced)


class Refine(torch.autograd.Function):
    """``refine_conv`` with its backward; context and mask get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        reduced: bool,
        p_low: Tensor,
        weight: Tensor,
        bias: Tensor,
        context: Tensor | None,
        mask: Tensor,
    ) -> Tensor:
        out = torch.ops.efpn.refine_conv(p_low, context, mask, weight, bias, reduced)
        ctx.save_for_backward(out, p_low, context, mask, weight)
        ctx.reduced = reduced
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, p_low, context, mask, weight = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.efpn.refine_conv_backward(
            grad, out, p_low, context, mask, weight, ctx.reduced
        )
        return None, grad_x * mask, grad_weight, grad_bias, None, None


def low_gate(p_low: Tensor, weight: Tensor, border: Tensor, *gate: Tensor) -> Tensor:
    """All in the dtype of the map, as plain modules are; the gate in that of ours."""
    conv = F.conv2d(p_low, weight, padding=1)
    return contracts.low_gate(conv, border.to(p_low.dtype), *gate)[0].to(border.dtype)


def refine(
    p_low: Tensor, weight: Tensor, bias: Tensor, context: Tensor | None, mask: Tensor
) -> Tensor:
    context, mask = (None if x is None else x.to(p_low.dtype) for x in (context, mask))
    x = p_low if context is None else p_low + context[:, :, None, None]
    return torch.relu(F.conv2d(x * mask, weight, bias, padding=1))


class Draw:
    """Random tensors of a memory format, the same for every format and thread count."""

    def __init__(self, size: Size, layout: str, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(zlib.crc32(f"{size}/{seed}".encode()))
        self.format = torch.channels_last if layout == "channels_last" else torch.contiguous_format

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        x = scale * torch.randn(shape, generator=self.generator)
        return x.contiguous(memory_format=self.format) if x.dim() == 4 else x

    def weight(self, D: int, C: int) -> Tensor:
        return self(D, C, 3, 3, scale=(9 * C) ** -0.5)


def low_gate_problem(
    size: Size,
    layout: str,
    seed: int = 0,
    reduced: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    N, C, D, H, W = size
    draw = Draw(size, layout, seed)
    tensors = {
        "p_low": draw(N, C, H, W),
        "weight": draw.weight(D, C),
        "border": draw(N * 9, D).view(N, 3, 3, D),
        "gate_weight": draw(D, scale=D**-0.5),
        "gate_bias": draw(1),
    }
    grad = draw(N * H * W).view(N, 1, H, W)
    tensors |= {name: x.to(dtype) for name, x in tensors.items() if name != "border"}
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    return Problem(lambda *args: LowGate.apply(reduced, *args), low_gate, leaves, grad_out=grad)


def refine_problem(
    size: Size,
    layout: str,
    mask: str,
    context: bool,
    seed: int = 0,
    reduced: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    N, C, D, H, W = size
    draw = Draw(size, layout, seed)
    tensors = {"p_low": draw(N, C, H, W), "weight": draw.weight(D, C), "bias": draw(D)}
    gate = draw(N * H * W).view(N, 1, H, W) if mask == "gate" else draw(N, C, H, W)
    gate = gate.sigmoid() if mask == "gate" else gate.sigmoid().to(dtype)
    added, grad = (draw(N, C) if context else None), draw(N, D, H, W).to(dtype)
    leaves = {name: x.to(dtype).requires_grad_() for name, x in tensors.items()}
    return Problem(
        lambda *args: Refine.apply(reduced, *args, added, gate),
        lambda *args: refine(*args, added, gate),
        leaves,
        grad_out=grad,
    )


every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
class TestValues:
    def test_low_gate(self, size: Size, layout: str) -> None:
        assert_accurate(lambda seed: low_gate_problem(size, layout, seed))

    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("context", [True, False], ids=["context", "plain"])
    def test_refine(self, size: Size, layout: str, mask: str, context: bool) -> None:
        assert_accurate(lambda seed: refine_problem(size, layout, mask, context, seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_layout
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
class TestValuesOfHalves:
    def test_low_gate(self, size: Size, layout: str, dtype: torch.dtype) -> None:
        assert_accurate(lambda seed: low_gate_problem(size, layout, seed, dtype=dtype))

    @pytest.mark.parametrize("mask", MASKS)
    def test_refine(self, size: Size, layout: str, mask: str, dtype: torch.dtype) -> None:
        assert_accurate(lambda seed: refine_problem(size, layout, mask, True, seed, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_layout
class TestRule:
    """The error against float64 is at most 1.25 times the library's."""

    def test_low_gate(self, layout: str, dtype: torch.dtype) -> None:
        draws = [(size, seed) for size in WIDE for seed in range(6)]
        assert_rule([low_gate_problem(s, layout, seed, dtype=dtype) for s, seed in draws])

    def test_refine(self, layout: str, dtype: torch.dtype) -> None:
        draws = [(size, seed) for size in WIDE for seed in range(6)]
        assert_rule(
            [refine_problem(s, layout, "gate", True, seed, dtype=dtype) for s, seed in draws]
        )


@pytest.fixture
def threads() -> Iterator[list[int]]:
    present = torch.get_num_threads()
    yield [1, 2, 3, 5]
    torch.set_num_threads(present)


def problems(size: Size, layout: str, dtype: torch.dtype = torch.float32) -> list[Problem]:
    return [
        low_gate_problem(size, layout, dtype=dtype),
        refine_problem(size, layout, "gate", True, dtype=dtype),
    ]


def assert_same_bits(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, x in expected.items():
        assert results[name].equal(x), f"{name}: other bits"


@every_layout
@pytest.mark.parametrize("size", [SIZES[6], SIZES[8], SIZES[10], WIDE[0]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads(
    threads: list[int], size: Size, layout: str, dtype: torch.dtype
) -> None:
    for problem in problems(size, layout, dtype):
        first = problem.fused()
        for count in (*threads, *threads):
            torch.set_num_threads(count)
            assert_same_bits(problem.fused(), first)


@pytest.mark.parametrize("size", [SIZES[5], SIZES[8]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_the_format(size: Size, dtype: torch.dtype) -> None:
    formats = (problems(size, layout, dtype) for layout in LAYOUTS)
    for contiguous, last in zip(*formats, strict=True):
        assert_same_bits(last.fused(), contiguous.fused())


@every_layout
def test_formats_of_the_results(layout: str) -> None:
    for problem in problems((2, 12, 20, 7, 9), layout):
        results = problem.fused()
        for name in ("p_low", "weight"):
            assert results[f"grad_{name}"].stride() == problem.tensors[name].stride()
    assert results["out"].is_contiguous() == (layout == "contiguous")


def test_the_largest_size_has_several_chunks() -> None:
    """By the constants of the source: one that grows would leave the sum of chunks untested."""
    source = (ROOT / "csrc" / "cpu" / "winograd.cpp").read_text()
    most, least = re.findall(r"kMostChunks = (\d+), kLeastTilesOfChunk = (\d+);", source)[0]
    n, _, _, height, width = SIZES[10]
    tiles = n * ((height + 1) // 2) * ((width + 1) // 2)
    wanted = min(tiles // int(least), int(most))
    chunk = math.ceil(tiles / wanted / int(least)) * int(least)
    assert tiles > 2 * chunk and tiles % chunk, "several chunks, the last one smaller"


def test_a_bit_per_activation_is_kept() -> None:
    tensors = [
        x.detach() for x in low_gate_problem((2, 16, 64, 9, 11), "contiguous").tensors.values()
    ]
    _, kept = torch.ops.efpn.low_gate_conv(*tensors, True)
    assert kept.nbytes <= 2 * 64 * 9 * 11 / 4
    gate, nothing = torch.ops.efpn.low_gate_conv(*tensors, False)
    assert nothing.numel() == 0
    assert gate.equal(torch.ops.efpn.low_gate_conv(*tensors, True)[0])


@every_layout
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 8e37, -3e38])
def test_what_is_not_finite_stays_where_it_is(layout: str, value: float) -> None:
    """At every pixel of a map in turn: forward, and backward from the same pixel of the gradient.

    Inside of its reach an infinity may become NaN, and what is beyond a quarter of the largest number too.
    """
    problem = refine_problem((1, 4, 4, 7, 9), layout, "gate", True)
    maps = problem.tensors["p_low"].detach(), problem.grad_out
    for pixel in itertools.product(range(7), range(9)):
        changed = [y.clone() for y in maps]
        for y in changed:
            y[(0, 1, *pixel)] = value
        tensors = {**problem.tensors, "p_low": changed[0].requires_grad_()}
        one = Problem(problem.functional, problem.reference, tensors, grad_out=changed[1])
        ours, eager = one.fused(), one.eager()
        y, x = (slice(max(i - 1, 0), i + 2) for i in pixel)
        for name in ("out", "grad_p_low"):
            beside = torch.ones(eager[name].shape, dtype=torch.bool)
            beside[:, :, y, x] = abs(value) < torch.finfo(torch.float32).max / 4
            assert ours[name][beside].isfinite().all(), (name, pixel)
            assert not ours[name][~eager[name].isfinite()].isfinite().any(), (name, pixel)


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx512"])
def test_lesser_instruction_sets(instructions: str) -> None:
    """The values again, with fewer instructions: they are chosen when the library is first called."""
    environment = {**os.environ, "EFPN_KERNELS_CPU_CAPABILITY": instructions}
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "TestValues"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
