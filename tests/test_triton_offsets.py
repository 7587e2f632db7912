"""Addresses of the Triton kernels in tensors of more than 2**31 elements, without the memory for them.

The first and the last programs of each launch are interpreted on tensors whose memory nobody touches: every
address must lie in its tensor, and those of a large tensor must reach from its first byte to its last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch

from checking import cases
from checking.cases import Case, Maker

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton and TRITON_INTERPRET=1",
)

LARGE = 2**31
# N, C, H, W: several images, one image, and one whose tiles of 64 channels pass 2**31 elements.
MAPS = ((9, 256, 1000, 1000), (1, 64, 6000, 6000), (1, 80, 8000, 8000))
LEVEL = (1, 64, 750, 750, 6000, 6000)
"""``N, D, h, w, H, W``."""

CASES = [
    *(c for c in cases.map_cases(MAPS) if c.kernel not in ("relu_backward", "fuse_backward")),
    *(Case("relu_backward", lambda m, s=s: [m.map(*s), m.map(*s)], str(s)) for s in MAPS),
    *cases.level_cases([LEVEL]),
]


@pytest.fixture(autouse=True)
def unpoisoned(poison: None) -> None:
    """Poison would be the first to touch the memory."""
    torch.use_deterministic_algorithms(False)


def first_and_last(programs: int) -> list[int]:
    return sorted({0, programs - 1})


def check_addresses(call: Callable[[], object]) -> None:
    from checking.counting import counting

    with counting(first_and_last) as launches:
        call()
    large = 0
    for launch in launches:
        for use in launch.uses:
            # An argument that a launch does not need may be another one in disguise.
            if use.tensor.numel() > LARGE and (use.reads or use.writes):
                large += 1
                ends = use.first, use.last - use.tensor.numel() * use.tensor.element_size()
                assert ends == (0, 0), f"{launch.kernel}: {ends} from both ends of a large tensor"
    assert large


def launcher(name: str) -> Callable:
    from efpn_kernels.triton import KERNELS

    return next(kernel for kernel in KERNELS if kernel.__name__ == name)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.kernel}-{c.id}")
def test_maps(case: Case, channels_last: bool) -> None:
    from checking.counting import EmptyMaker

    if channels_last and (case.kernel in cases.WITHOUT_MAPS or "8000" in case.id):
        pytest.skip("checks nothing that the contiguous case does not")
    maker: Maker = EmptyMaker(torch.bfloat16, channels_last, "cpu")
    args = case.build(maker)
    if not any(isinstance(a, torch.Tensor) and a.numel() > LARGE for a in args) and (
        case.kernel != "upsampled_relu"
    ):
        pytest.skip("sees no large tensor")
    check_addresses(lambda: launcher(case.kernel)(*args))


def test_dc_loss() -> None:
    pred, target, weight = (torch.empty(LARGE + 5000, dtype=torch.bfloat16) for _ in range(3))
    k, delta = torch.tensor(10.0), torch.tensor(0.15)
    parameters = (pred, target, weight, k, delta, 0)
    check_addresses(lambda: launcher("dc_loss")(*parameters, True, 1.0, True))
    check_addresses(lambda: launcher("dc_loss_backward")(weight, *parameters, 1.0))
