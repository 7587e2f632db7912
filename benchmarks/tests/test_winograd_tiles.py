"""The errors that ``benchmarks.kernels.winograd_tiles`` computes are those of the kernels."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.environment import ROOT
from benchmarks.kernels import winograd_tiles
from benchmarks.kernels.winograd_tiles import FOUR, SUMS, THREE, TILES, TWO, convolve


@pytest.fixture
def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(shape, generator=generator) for shape in ((64, 23, 25), (64, 64, 3, 3))
    )
    return x, weight / 24


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "x".join(str(x.outputs) for x in tile))
@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_every_tile_is_a_convolution(problem, tile, add) -> None:
    x, weight = problem
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    assert (convolve(x, weight, tile, add) - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize("reduced, tile", [(False, (TWO, THREE)), (True, (FOUR, FOUR))])
def test_the_error_is_that_of_the_kernel(problem, reduced, tile) -> None:
    x, weight = problem
    exact = F.conv2d(x.double(), weight.double(), padding=1).relu()
    arguments = (x[None], None, torch.ones(1, 1, *x.shape[1:]), weight, torch.zeros(64), reduced)
    kernel = torch.ops.efpn.refine_conv(*arguments)[0]
    computed = convolve(x, weight, tile, SUMS["of 16, these by 8"]).relu()
    ratio = (kernel - exact).norm() / (computed - exact).norm()
    assert 0.9 < ratio < 1.2  # 1.1 without fused multiply-adds; beside F(2x2)'s it would be 1.3


@pytest.mark.parametrize("line", [THREE, FOUR], ids=lambda line: f"{line.outputs}")
def test_the_points_are_those_of_the_source(line) -> None:
    source = (ROOT / "csrc" / "cpu" / "winograd_transform.h").read_text()
    pattern = (
        rf"struct Points<{line.outputs}> {{\s+static constexpr float a = ([\d.]+)f, b = ([\d.]+)f"
    )
    a, b = map(float, re.search(pattern, source).groups())
    assert set(line.points) - {0} == {a, -a, b, -b}


def test_the_table(capsys, tmp_path) -> None:
    options = ["--channels", "4", "--side", "6", "--draws", "1", "--markdown", f"{tmp_path}/t.md"]
    winograd_tiles.main(options)
    rows = [line for line in (tmp_path / "t.md").read_text().splitlines() if line[:3] == "| F"]
    assert len(rows) == len(TILES)
    assert "F(2x3)" in capsys.readouterr().out
