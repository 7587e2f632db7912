"""How alike a ground truth and an anchor are: every measure that can stand for IoU, under one interface.

A similarity is a function ``(gts [..., G, 4], anchors [..., A, 4]) -> [..., G, A]`` of boxes in xyxy: 1 for equal
boxes, towards 0 for boxes far apart. What it depends on besides the boxes are keyword arguments, positive
numbers. With ``dx, dy`` the offset of the centres, ``w1, h1`` the ground truth's sides and ``w2, h2`` the
anchor's::

    KL(anchor || gt) = (w2^2 / w1^2 + h2^2 / h1^2 + 4 dx^2 / w1^2 + 4 dy^2 / h1^2
                        + ln(w1^2 / w2^2) + ln(h1^2 / h2^2) - 2) / 2
    W^2              = dx^2 + dy^2 + ((w1 - w2)^2 + (h1 - h2)^2) / 4
                     = half of the squared distance of the two boxes' coordinates

for the Gaussians ``N(centre, diag(w^2 / 4, h^2 / 4))`` of the boxes. Each is elementwise in the pair of boxes, in
a fixed order of operations: computing a slice of the matrix gives the same bits as slicing the whole matrix.

- ``kl``, ``exp_kl``, ``wasserstein``: RFLA (Xu et al., ECCV 2022), with the epsilons of its published code
- ``nwd``: normalised Wasserstein distance (Wang et al., 2021), also RFLA's
- ``dotd``: dot distance (Xu et al., CVPR workshops 2021)
- ``simd``: similarity distance (Shi et al., IROS 2024)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]

SIDE_EPS = 1e-6
EXP_KL_SCALE = 10.0
_SIMILARITIES: dict[str, Callable[..., Tensor]] = {}


def register_similarity(name: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: makes a similarity known under ``name`` to the calculator, the assigners, losses and NMS.

    Raises:
        ValueError: the name is taken.
    """

    if name in _SIMILARITIES:
        raise ValueError(f"register_similarity: expected a new name, got {name!r}")

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _SIMILARITIES[name] = function
        return function

    return register


def build_similarity(config: str | dict) -> Score:
    """The function of two sets of boxes that a name or a config stands for.

    Args:
        config: a name, such as ``"kl"``, or a name with constants: ``dict(type="nwd", constant=12.8)``.

    Raises:
        ValueError: an unknown name; a constant that is unknown, missing or no positive number.
    """
    constants = {"type": config} if isinstance(config, str) else dict(config)
    name = constants.pop("type", None)
    if name not in _SIMILARITIES:
        raise ValueError(f"similarity: expected one of {', '.join(_SIMILARITIES)}, got {name!r}")
    function = _SIMILARITIES[name]
    known = {
        one.name: one.default
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }
    required = {key for key, default in known.items() if default is inspect.Parameter.empty}
    if not required <= set(constants) <= set(known):
        raise ValueError(
            f"similarity {name!r}: expected the constants {list(known)}, required of them "
            f"{sorted(required)}, got {list(constants)}"
        )
    for key, value in constants.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise ValueError(
                f"similarity {name!r}: {key}: expected a positive number, got {value!r}"
            )
    return partial(function, **constants)


def _centre_offsets(gts: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """``dx, dy``, each ``[..., G, A]``."""
    gt_centres = (gts[..., :2] + gts[..., 2:]) / 2
    anchor_centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    dx, dy = (
        gt_centres[..., :, None, axis] - anchor_centres[..., None, :, axis] for axis in (0, 1)
    )
    return dx, dy


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height plus ``SIDE_EPS``, so that an empty box divides nothing by zero."""
    sides = boxes[..., 2:] - boxes[..., :2] + SIDE_EPS
    return sides[..., 0], sides[..., 1]


def kl_divergence(gts: Tensor, anchors: Tensor) -> Tensor:
    """``KL(anchor || gt)`` for ``gts [..., G, 4]`` and ``anchors [..., A, 4]`` (xyxy), >= 0."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    w1, h1 = w1[..., :, None] ** 2, h1[..., :, None] ** 2
    w2, h2 = w2[..., None, :] ** 2, h2[..., None, :] ** 2
    total = w2 / w1
    total += h2 / h1
    total += dx.pow_(2).mul_(4).div_(w1)
    total += dy.pow_(2).mul_(4).div_(h1)
    total += torch.log(w1 / w2)
    total += torch.log(h1 / h2)
    return total.sub_(2).div_(2)


def wasserstein_squared(gts: Tensor, anchors: Tensor) -> Tensor:
    """``W^2`` for ``gts [..., G, 4]`` and ``anchors [..., A, 4]`` (xyxy): ``[..., G, A]``."""
    dx, dy = _centre_offsets(gts, anchors)
    (w1, h1), (w2, h2) = _sides(gts), _sides(anchors)
    centres = dx.pow_(2).add_(dy.pow_(2)).add_(SIDE_EPS)
    widths = w1[..., :, None] - w2[..., None, :]
    heights = h1[..., :, None] - h2[..., None, :]
    sides = widths.pow_(2).add_(heights.pow_(2)).div_(4)
    return centres.add_(sides)


@register_similarity("kl")
def kl(gts: Tensor, anchors: Tensor) -> Tensor:
    """``1 / (1 + KL)``."""
    return kl_divergence(gts, anchors).add_(1).reciprocal_()


@register_similarity("exp_kl")
def exp_kl(gts: Tensor, anchors: Tensor) -> Tensor:
    """``exp(-KL / 10)``."""
    return kl_divergence(gts, anchors).neg_().div_(EXP_KL_SCALE).exp_()


@register_similarity("wasserstein")
def wasserstein(gts: Tensor, anchors: Tensor) -> Tensor:
    """``1 / (1 + W^2)``."""
    return wasserstein_squared(gts, anchors).add_(1).reciprocal_()


@register_similarity("nwd")
def nwd(gts: Tensor, anchors: Tensor, *, constant: float = 12.8) -> Tensor:
    """``exp(-W / constant)``; ``constant``: the data set's mean object size in pixels, 12.8 for AI-TOD.

    The published codes add ``1e-6`` under the root, which takes equal boxes to 0.9999.
    """
    return _distance(gts, anchors).div(-math.sqrt(2) * constant).exp_()


@register_similarity("dotd")
def dotd(gts: Tensor, anchors: Tensor, *, size: float) -> Tensor:
    """``exp(-D / size)`` with ``D`` the distance of the centres.

    Args:
        size: average object size of the data set in pixels. The paper's is the root of the mean area; the
            published code has 12.7 for AI-TOD-v2. ``efpn similarity-constants`` prints both readings.
    """
    gt_centres = (gts[..., :2] + gts[..., 2:]) / 2
    anchor_centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    return _distance(gt_centres, anchor_centres).div(-size).exp_()


@register_similarity("simd")
def simd(gts: Tensor, anchors: Tensor, *, m: float, n: float) -> Tensor:
    """``exp(-(location + shape))``, offsets and differences relative to the sum of the sides::

        location = |(m dx / (w1 + w2), n dy / (h1 + h2))|
        shape    = |(m (w1 - w2) / (w1 + w2), n (h1 - h2) / (h1 + h2))|

    Args:
        m, n: what ``efpn similarity-constants CONFIG`` computes from a data set and the config's anchors. There
            is no default: they fit these two alone.
    """
    offsets = _centre_offsets(gts, anchors)
    sides = (gts[..., 2:] - gts[..., :2]), (anchors[..., 2:] - anchors[..., :2])
    location, shape = [], []
    for axis, factor in ((0, m), (1, n)):
        gt_sides, anchor_sides = sides[0][..., :, None, axis], sides[1][..., None, :, axis]
        scale = (gt_sides + anchor_sides).clamp(min=SIDE_EPS) / factor
        location.append(offsets[axis] / scale)
        shape.append((gt_sides - anchor_sides) / scale)
    return (_norm(*location) + _norm(*shape)).neg_().exp_()


def _distance(gts: Tensor, anchors: Tensor) -> Tensor:
    """Euclidean, between the rows; its gradient is 0 where two are equal."""
    return torch.cdist(gts, anchors, compute_mode="donot_use_mm_for_euclid_dist")


def _norm(x: Tensor, y: Tensor) -> Tensor:
    """``sqrt(x^2 + y^2)`` with gradient 0 at the origin."""
    return (x * x + y * y).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
