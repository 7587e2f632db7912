"""When a result is accurate: its error against float64, held against that of plain PyTorch.

The rule: our error is at most 1.25 times eager's in the same dtype, plus one unit in the last place
of that dtype at the oracle's largest magnitude; for the largest absolute and for the l2 error.

One draw of random numbers cannot say that. Rounding errors are random themselves: the gradient of a
single bias is right to the last bit by luck, and a value that is zero but for rounding may fall on
either side of a ReLU. So the rule is held on the geometric mean over many draws
(:func:`assert_rule`), and every single case (:func:`assert_accurate`) on a few: the median l2 error of a result
of many elements keeps it. A largest error, a result of few elements and a single draw have little to average
over; there our median is held against a multiple of eager's worst, which a mistake is above by orders of
magnitude. Where a few draws are not enough, more are taken, so that eager's luck in some makes no difference.

float64 has no wider oracle: there only rounding may differ.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable

import torch
from cases import Problem
from torch import Tensor

FACTOR = 1.25
MISTAKE = 8.0
LUCK = 1 / 8  # of what is allowed: no draw counts as better in a mean
FLOAT64_TOLERANCE = 1e-12
MANY = 16  # elements whose l2 error varies little from draw to draw
DRAWS = 3
MORE_DRAWS = 11  # before a case counts as wrong
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

Draw = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""What eager, the oracle and we made of one problem, by name."""


def ulp(dtype: torch.dtype, magnitude: float) -> float:
    """One unit in the last place of ``dtype`` at ``magnitude``."""
    info = torch.finfo(dtype)
    return info.eps * 2.0 ** math.floor(math.log2(max(magnitude, info.tiny)))


def errors(result: Tensor, oracle: Tensor) -> tuple[float, float]:
    """Largest absolute error, and the l2 error per element."""
    difference = result.double() - oracle
    return difference.abs().max().item(), difference.square().mean().sqrt().item()


def solve(problem: Problem) -> Draw:
    """Run a problem three times: plain, plain in float64, and fused."""
    return problem.eager(), problem.oracle(), problem.fused()


def assert_same_meta(ours: Tensor, like: Tensor, name: str) -> None:
    """The same shape, dtype and device."""
    for attribute in ("shape", "dtype", "device"):
        got, expected = getattr(ours, attribute), getattr(like, attribute)
        assert got == expected, f"{name}: {attribute} is {got}, expected {expected}"


def complaint(name: str, draws: list[Draw], factor: float = FACTOR) -> str | None:
    """What is wrong with one result, given a few draws of its problem."""
    eager, oracle, ours = ([draw[i][name] for draw in draws] for i in range(3))
    for mine, like in zip(ours, eager, strict=True):
        assert_same_meta(mine, like, name)
        if not mine.isfinite().all():
            return f"{name}: not finite"
    if not oracle[0].numel():
        return None
    dtype = ours[0].dtype
    magnitude = max(x.abs().max().item() for x in oracle)
    our_errors = [errors(*pair) for pair in zip(ours, oracle, strict=True)]
    eager_errors = [errors(*pair) for pair in zip(eager, oracle, strict=True)]
    for i, measure in enumerate(("largest absolute", "l2")):
        error, of_eager = (statistics.median(e[i] for e in of) for of in (our_errors, eager_errors))
        if measure == "l2" and oracle[0].numel() >= MANY and len(draws) >= DRAWS:
            limit = factor * of_eager
        else:
            limit = MISTAKE * factor / FACTOR * max(e[i] for e in eager_errors)
        limit += ulp(dtype, magnitude)
        if dtype == torch.float64:
            limit = FLOAT64_TOLERANCE * magnitude
        if error > limit:
            return f"{name}: {measure} error {error:.3g}, at most {limit:.3g} allowed"
    return None


def assert_accurate(
    make: Callable[[int], Problem], draws: int = DRAWS, factor: float = FACTOR
) -> None:
    """The result and every gradient of ``make(seed)`` are free of mistakes. Names all that are not."""
    assert_draws_accurate(lambda seed: solve(make(seed)), draws, factor)


def assert_draws_accurate(
    draw: Callable[[int], Draw], draws: int = DRAWS, factor: float = FACTOR
) -> None:
    """The same for problems that are solved in another way.

    The interpreter of Triton takes seconds for a draw: there the others are taken only if the first one, held
    to eager's error in the same draw, is not enough.
    """
    results: list[Draw] = []
    for count in (1, draws, MORE_DRAWS) if INTERPRETED else (draws, MORE_DRAWS):
        results += [draw(seed) for seed in range(len(results), count)]
        complaints = all_complaints(results, factor)
        if not complaints:
            return
    raise AssertionError("\n".join(complaints))


def all_complaints(draws: list[Draw], factor: float = FACTOR) -> list[str]:
    """What is wrong with the results of a few draws."""
    return [text for name in draws[0][1] if (text := complaint(name, draws, factor))]


def assert_rule(problems: list[Problem], factor: float = FACTOR) -> None:
    """Over problems of one dtype, result and gradients keep the rule in the geometric mean.

    With another ``factor`` on eager's error where reduced precision was asked for.
    """
    logarithms: dict[str, list[tuple[float, float]]] = {}
    for problem in problems:
        eager, oracle, ours = solve(problem)
        for name, exact in oracle.items():
            unit = ulp(ours[name].dtype, exact.abs().max().item())
            mine, theirs = errors(ours[name], exact), errors(eager[name], exact)
            for measure, error, other in zip(("max", "l2"), mine, theirs, strict=True):
                limit = factor * other + unit
                # A result that is exact by luck must not pay for another's mistake.
                counted = max(error, unit / 2, limit * LUCK)
                pair = math.log(counted), math.log(limit)
                logarithms.setdefault(f"{name} ({measure})", []).append(pair)
    excesses = {
        name: math.exp(statistics.fmean(mine - limit for mine, limit in pairs))
        for name, pairs in logarithms.items()
    }
    broken = [f"{name}: {x:.2f} of what is allowed" for name, x in excesses.items() if x > 1]
    assert not broken, "\n".join(broken)
