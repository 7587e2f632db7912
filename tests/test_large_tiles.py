"""The CPU's convolutions by F(4x4, 3x3), where reduced precision is asked for, kernel by kernel."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import test_winograd
import torch
from accuracy import assert_accurate, assert_rule
from cases import LAYOUTS, Problem
from test_winograd import (
    MASKS,
    Size,
    assert_same_bits,
    low_gate_problem,
    refine_problem,
)

FACTOR = 6.0
"""What the error may be beside eager's, where :data:`accuracy.FACTOR` holds by default."""

LEAST_TILES = 25
"""Of the source: fewer are computed as by default."""

SIDES = range(1, 13)
SIZES = tuple((n and max(n, LEAST_TILES), *rest) for n, *rest in test_winograd.SIZES)
WIDE = tuple((2, *rest) for _, *rest in test_winograd.WIDE)
Maker = Callable[[Size, str, int, bool], Problem]


def by_gate(size: Size, layout: str, seed: int = 0, reduced: bool = True) -> Problem:
    return low_gate_problem(size, layout, seed, reduced)


def by_mask(mask: str, context: bool) -> Maker:
    def make(size: Size, layout: str, seed: int = 0, reduced: bool = True) -> Problem:
        return refine_problem(size, layout, mask, context, seed, reduced)

    return make


MAKERS: dict[str, Maker] = {"low_gate": by_gate} | {
    f"refine-{mask}-{'context' if context else 'plain'}": by_mask(mask, context)
    for mask in MASKS
    for context in (True, False)
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def is_faster(n: int, height: int, width: int) -> bool:
    """By products, if there are enough tiles: 36 of one of 4 x 4 pixels, 20 of 2 x 3, 16 of 2 x 2."""
    large, wide, small = (
        n * -(-height // rows) * -(-width // columns) for rows, columns in ((4, 4), (2, 3), (2, 2))
    )
    return large >= LEAST_TILES and 36 * large < min(20 * wide, 16 * small)


@every_layout
@every_maker
class TestValues:
    @pytest.mark.parametrize("height", SIDES)
    def test_every_side(self, make: Maker, layout: str, height: int) -> None:
        """Inside, at every border, and in tiles that the border cuts after one, two or three pixels."""
        for width in SIDES:
            size = (LEAST_TILES, 5, 6, height, width)
            assert_accurate(lambda seed, size=size: make(size, layout, seed, True), factor=FACTOR)

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_every_shape(self, make: Maker, layout: str, size: Size) -> None:
        assert_accurate(lambda seed: make(size, layout, seed, True), factor=FACTOR)


@every_layout
@every_maker
def test_the_bound(make: Maker, layout: str) -> None:
    assert_rule([make(s, layout, seed, True) for s in WIDE for seed in range(6)], FACTOR)


@every_maker
def test_only_where_it_is_faster(make: Maker) -> None:
    for height, width in itertools.product(SIDES, SIDES):
        size = (5, 19, 18, height, width)
        of_both = [make(size, "contiguous", 0, reduced).fused()["out"] for reduced in (False, True)]
        assert of_both[0].equal(of_both[1]) != is_faster(5, height, width), size


@every_layout
@every_maker
@pytest.mark.parametrize("size", [SIZES[6], SIZES[8], SIZES[10], WIDE[0]], ids=str)
def test_bits_do_not_depend_on_threads(make: Maker, size: Size, layout: str) -> None:
    problem, present = make(size, layout, 0, True), torch.get_num_threads()
    first = problem.fused()
    try:
        for count in (1, 2, 3, 5) * 2:
            torch.set_num_threads(count)
            assert_same_bits(problem.fused(), first)
    finally:
        torch.set_num_threads(present)


@every_maker
@pytest.mark.parametrize("size", [SIZES[5], SIZES[8]], ids=str)
def test_bits_do_not_depend_on_the_format(make: Maker, size: Size) -> None:
    contiguous, last = (make(size, layout, 0, True).fused() for layout in LAYOUTS)
    assert_same_bits(last, contiguous)


@every_maker
@pytest.mark.parametrize("reduced", [True, False], ids=["reduced", "default"])
def test_nothing_overflows_inside(make: Maker, reduced: bool) -> None:
    """Values near float32's largest and weights near its smallest: a transform without its scale passes the one.

    So do the tiles of the default, in whose place smaller ones are taken then.
    """
    problem = make((3, 4, 4, 12, 12), "contiguous", 0, reduced)
    x = torch.finfo(torch.float32).max / 4.5 * problem.tensors["p_low"].detach().sign()
    weight = problem.tensors["weight"].detach() * 1e-38
    tensors = {**problem.tensors, "p_low": x, "weight": weight}
    with torch.no_grad():
        assert problem.functional(*tensors.values()).isfinite().all()


@pytest.mark.parametrize("instructions", ["portable", "avx2"])
def test_lesser_instruction_sets(instructions: str) -> None:
    """The values and the bound again, with fewer instructions."""
    environment = {**os.environ, "EFPN_KERNELS_CPU_CAPABILITY": instructions}
    chosen = "(TestValues or bound) and (low_gate or gate-context)"
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", chosen]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
