"""How large a tile of Winograd's convolutions the rule for errors allows on a CPU.

    python -m benchmarks.kernels.winograd_tiles [--channels 256] [--side 24] [--draws 3] [--markdown FILE]

Every tile is computed in float32, operation by operation, and its error against float64 divided by that of the
library's convolution here: once with the products over the channels summed exactly, then in chains as long as
registers allow. Which points a transform is interpolated at decides its error as much as its size does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..environment import describe, headline
from ..report import table

Sum = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Line:
    """The transforms of ``F(m, 3)`` at ``m + 2`` points, the last of them infinity.

    With ``f(x)`` the product of ``x - p`` over the finite points: the rows of ``B'`` hold the coefficients of
    ``f(x) / (x - p)``, of ``f`` for infinity; those of ``G`` ``(1, p, p^2) / f'(p)``; a column of ``A'``
    ``1, p, p^2, ...``
    """

    points: tuple[float, ...]

    @property
    def outputs(self) -> int:
        return len(self.points) - 1

    @property
    def label(self) -> str:
        return ", ".join(f"{p:g}" for p in self.points) + ", infinity"

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """``A'``, ``G`` and ``B'`` in float64."""
        m, n = self.outputs, len(self.points) + 1
        a, g, b = np.zeros((m, n)), np.zeros((n, 3)), np.zeros((n, n))
        for i, point in enumerate(self.points):
            others = [p for p in self.points if p != point]
            a[:, i] = [point**power for power in range(m)]
            g[i] = [point**power / math.prod(point - p for p in others) for power in range(3)]
            b[i, : n - 1] = np.poly(others)[::-1]
        a[-1, -1] = g[-1, -1] = 1
        b[-1] = np.poly(self.points)[::-1]
        return tuple(torch.from_numpy(x) for x in (a, g, b))


TWO = Line((0, 1, -1))
TEXTBOOK = Line((0, 1, -1, 2))
THREE = Line((0.375, -0.375, 1.25, -1.25))
FOUR = Line((0, 0.625, -0.625, 1.5, -1.5))
TILES = ((TWO, TWO), (TWO, TEXTBOOK), (TWO, THREE), (TWO, FOUR), (THREE, THREE), (FOUR, FOUR))


def combine(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """``matrix @ x`` along one dimension, each multiply-add rounded to float32."""
    rows = []
    for coefficients in matrix.tolist():
        total = None
        for factor, value in zip(coefficients, x.unbind(dim), strict=True):
            if factor:
                term = factor * value.double()
                total = (term if total is None else total.double() + term).float()
        rows.append(total)
    return torch.stack(rows, dim)


def exactly(v: Tensor, u: Tensor) -> Tensor:
    """The products over the channels, rounded once."""
    return (v.double() @ u.double()).float()


def in_chains(*lengths: int) -> Sum:
    """As many channels at a time, sums of the last length first."""

    def add(v: Tensor, u: Tensor, lengths: Sequence[int] = lengths) -> Tensor:
        total = torch.zeros(*v.shape[:2], u.shape[2])
        for start in range(0, v.shape[2], lengths[0] if lengths else 1):
            part = slice(start, start + lengths[0] if lengths else start + 1)
            if lengths:
                total = total + add(v[:, :, part], u[:, part], lengths[1:])
            else:
                total = (total.double() + v[:, :, part].double() * u[:, part].double()).float()
        return total

    return add


SUMS: dict[str, Sum] = {
    "exact sums": exactly,
    "chains of 32": in_chains(32),
    "of 16": in_chains(16),
    "of 16, these by 8": in_chains(128, 16),
}


def convolve(x: Tensor, weight: Tensor, tile: tuple[Line, Line], add: Sum) -> Tensor:
    """``conv3x3(x [C, H, W], weight [D, C, 3, 3])`` with padding 1, tile by tile."""
    (height, width), (_, H, W) = (line.outputs for line in tile), x.shape
    down, across = -(-H // height), -(-W // width)
    padded = F.pad(x, (1, across * width - W + 1, 1, down * height - H + 1))
    d = padded.unfold(1, height + 2, height).unfold(2, width + 2, width)
    (a_rows, g_rows, b_rows), (a_columns, g_columns, b_columns) = (line.matrices() for line in tile)
    v = combine(b_columns, combine(b_rows, d, 3), 4).flatten(3).flatten(1, 2).permute(2, 1, 0)
    u = torch.einsum("ai,dcij,bj->abcd", g_rows, weight.double(), g_columns).float().flatten(0, 1)
    m = add(v, u).unflatten(0, (height + 2, width + 2))
    y = combine(a_columns, combine(a_rows, m, 0), 1).unflatten(2, (down, across))
    return y.permute(4, 2, 0, 3, 1).reshape(-1, down * height, across * width)[:, :H, :W]


def error_ratio(channels: int, side: int, tile: tuple[Line, Line], add: Sum, draws: int) -> float:
    """The l2 error over that of the library's convolution, the geometric mean over random draws."""
    ratios = []
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(channels, side, side, generator=generator)
        weight = torch.randn(channels, channels, 3, 3, generator=generator) / math.sqrt(
            9 * channels
        )
        exact = F.conv2d(x.double(), weight.double(), padding=1)
        ours, library = convolve(x, weight, tile, add), F.conv2d(x[None], weight, padding=1)[0]
        ratios.append(((ours - exact).norm() / (library - exact).norm()).item())
    return math.exp(sum(map(math.log, ratios)) / draws)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--side", type=int, default=24, help="pixels")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="where the table goes too")
    options = parser.parse_args(arguments)
    rows = []
    for tile in TILES:
        height, width = (line.outputs for line in tile)
        products = (height + 2) * (width + 2) / (height * width)
        row = [f"F({height}x{width})", f"{products:.2f}", tile[1].label]
        for add in SUMS.values():
            ratio = error_ratio(options.channels, options.side, tile, add, options.draws)
            row.append(f"{ratio:.2f}")
        rows.append(row)
        print(*row, flush=True)
    header = ["tile", "products a pixel", "points along a row", *SUMS]
    title, about, *_ = __doc__.split("\n\n")[::2]
    text = f"# {title.rstrip('.')}\n\n{' '.join(about.split())}\n\n{headline(describe('cpu'))}; {options.channels} channels, "
    text += f"{options.side} x {options.side} pixels, contiguous.\n\n{table(header, rows)}"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
