"""When a result is accurate: its error against float64, held against the error of plain PyTorch.

The rule: our error is at most 1.25 times eager's in the same dtype, plus one unit in the last place
of that dtype; measured as the largest absolute error (the unit taken at the oracle's largest
magnitude) and as the relative l2 error. float64 has no wider oracle: there both may differ by
rounding only.
"""

from __future__ import annotations

import math

import torch
from cases import Problem
from torch import Tensor

FACTOR = 1.25
FLOAT64_TOLERANCE = 1e-12


def ulp(dtype: torch.dtype, magnitude: float) -> float:
    """One unit in the last place of ``dtype`` at ``magnitude``."""
    info = torch.finfo(dtype)
    if magnitude < info.tiny:
        return info.smallest_normal * info.eps
    return info.eps * 2.0 ** math.floor(math.log2(magnitude))


def errors(result: Tensor, oracle: Tensor) -> tuple[float, float]:
    """Largest absolute and relative l2 error."""
    difference = result.double() - oracle
    norm = oracle.norm().item()
    return difference.abs().max().item(), difference.norm().item() / norm if norm else 0.0


def assert_same_meta(ours: Tensor, like: Tensor, name: str) -> None:
    """The same shape, dtype and device."""
    for attribute in ("shape", "dtype", "device"):
        got, expected = getattr(ours, attribute), getattr(like, attribute)
        assert got == expected, f"{name}: {attribute} is {got}, expected {expected}"


def assert_accurate(ours: Tensor, eager: Tensor, oracle: Tensor, name: str) -> None:
    """``ours`` keeps the rule against ``oracle`` (float64) and ``eager`` (the dtype of ``ours``)."""
    assert_same_meta(ours, eager, name)
    if not ours.numel():
        return
    assert ours.isfinite().all(), f"{name}: not finite"
    magnitude = oracle.abs().max().item()
    if ours.dtype == torch.float64:
        allowed = (FLOAT64_TOLERANCE * magnitude, FLOAT64_TOLERANCE)
    else:
        units = (ulp(ours.dtype, magnitude), torch.finfo(ours.dtype).eps)
        allowed = tuple(FACTOR * e + u for e, u in zip(errors(eager, oracle), units, strict=True))
    measures = ("largest absolute", "relative l2")
    for measure, error, limit in zip(measures, errors(ours, oracle), allowed, strict=True):
        assert error <= limit, f"{name}: {measure} error {error:.3g}, at most {limit:.3g} allowed"


def assert_problem_accurate(problem: Problem) -> None:
    """The result and every gradient of a problem keep the rule. Reports all that do not."""
    eager, oracle, ours = problem.eager(), problem.oracle(), problem.fused()
    failures = []
    for name in oracle:
        try:
            assert_accurate(ours[name], eager[name], oracle[name], name)
        except AssertionError as failure:
            failures.append(str(failure).splitlines()[0])
    assert not failures, "\n".join(failures)
