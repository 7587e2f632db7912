"""The paper's equations in plain Python: loops over lists of numbers, without PyTorch.

A map is ``[channel][row][column]`` and a weight ``[out][in][ky][kx]``, of one image.
"""

from __future__ import annotations

import math
from itertools import product

Map = list[list[list[float]]]
Weight = list[list[list[list[float]]]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def each(function, *maps: Map) -> Map:
    """A function of the values at one place of each map."""
    return [
        [
            [function(*values) for values in zip(*rows, strict=True)]
            for rows in zip(*planes, strict=True)
        ]
        for planes in zip(*maps, strict=True)
    ]


def relu(x: Map) -> Map:
    return each(lambda v: max(v, 0.0), x)


def conv(x: Map, weight: Weight, bias: list[float]) -> Map:
    """A convolution of stride 1 that keeps the size: outside of the image are zeros."""
    height, width, size = len(x[0]), len(x[0][0]), len(weight[0][0])
    reach = size // 2
    out = []
    for filters, start in zip(weight, bias, strict=True):
        plane = [[start] * width for _ in range(height)]
        for row, column, c in product(range(height), range(width), range(len(x))):
            for ky, kx in product(range(size), repeat=2):
                y, x_ = row + ky - reach, column + kx - reach
                if 0 <= y < height and 0 <= x_ < width:
                    plane[row][column] += filters[c][ky][kx] * x[c][y][x_]
        out.append(plane)
    return out


def _source(position: int, size: int, low_size: int) -> tuple[int, int, float]:
    """The two pixels that a pixel of an upsampled axis lies between, and how far it is from the first."""
    middle = max((position + 0.5) * low_size / size - 0.5, 0.0)
    first = min(int(middle), low_size - 1)
    return first, min(first + 1, low_size - 1), middle - first


def upsample(x: Map, height: int, width: int) -> Map:
    """Bilinear, pixels being areas: ``align_corners=False``."""
    out = []
    for plane in x:
        rows = []
        for i in range(height):
            top, bottom, down = _source(i, height, len(plane))
            row = []
            for j in range(width):
                left, right, along = _source(j, width, len(plane[0]))
                above = plane[top][left] * (1 - along) + plane[top][right] * along
                below = plane[bottom][left] * (1 - along) + plane[bottom][right] * along
                row.append(above * (1 - down) + below * down)
            rows.append(row)
        out.append(rows)
    return out


def context(p_high: Map, weight: Weight, bias: list[float]) -> list[float]:
    """Eq. 2-3: ``relu(phi(max))``."""
    pooled = [max(max(row) for row in plane) for plane in p_high]
    return [
        max(start + sum(row[c][0][0] * pooled[c] for c in range(len(pooled))), 0.0)
        for row, start in zip(weight, bias, strict=True)
    ]


def cem(p_low: Map, p_high: Map, weight: Weight, bias: list[float]) -> Map:
    """Eq. 1-4."""
    added = context(p_high, weight, bias)
    return [[[v + a for v in row] for row in plane] for plane, a in zip(p_low, added, strict=True)]


def fbsm_mask(c_low: Map, p_high: Map, p: dict) -> Map:
    """Eq. 6-7; ``p`` maps the parameters' names to them."""
    up = upsample(p_high, len(c_low[0]), len(c_low[0][0]))
    gates = []
    for name, x in (("high", up), ("low", c_low)):
        hidden = relu(conv(x, p[f"{name}_conv_weight"], p[f"{name}_conv_bias"]))
        gates.append(each(sigmoid, conv(hidden, p[f"{name}_gate_weight"], p[f"{name}_gate_bias"])))
    total = each(lambda a, b: a + b, *gates)
    return each(sigmoid, conv(total, p["fuse_weight"], p["fuse_bias"]))


def fbsm(c_low: Map, p_high: Map, p: dict) -> Map:
    """Eq. 5-8; a mask of one channel is every channel's."""
    mask = fbsm_mask(c_low, p_high, p)
    masks = mask * len(c_low) if len(mask) == 1 else mask
    separated = each(lambda a, b: a * b, c_low, masks)
    return relu(conv(separated, p["refine_weight"], p["refine_bias"]))


def efpn_bs(p_low: Map, p_high: Map, p: dict) -> Map:
    """Fig. 3: CEM, then FBSM."""
    return fbsm(cem(p_low, p_high, p["project_weight"], p["project_bias"]), p_high, p)


def dc_loss(error: float, k: float, delta: float, form: str) -> float:
    """Eq. 9-10 of one error."""
    alpha = sigmoid(k * (error - delta))
    if form == "text":
        alpha = 1 - alpha
    return alpha * error * error + (1 - alpha) * error
