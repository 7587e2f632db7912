"""The kernels' cases at the shapes of a detector."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from . import cases
from .cases import Case

HIGH, LOW = (25, 25), (200, 200)
FORMATS = ((torch.bfloat16, True), (torch.float32, False))


def real_cases(N: int, C: int = 256) -> Iterator[Case]:
    """Every kernel at p_low ``[N, C, 200, 200]``, p_high ``[N, C, 25, 25]``; DCLoss by elements."""
    yield from cases.pooled_cases([((N, C, *HIGH), C)])
    yield from cases.level_cases([(N, C, *HIGH, *LOW)])
    yield from cases.border_cases([(N, C, C, *LOW)])
    yield from cases.map_cases([(N, C, *LOW)])
    if N == 1:
        yield from cases.loss_cases([(2048,), (100_000,), (10_000_000,)])
