"""Addresses of the CUDA kernels in maps of more than 2**31 elements, without the memory for them.

The blocks at the ends of each grid are emulated; nobody touches what lies between. At the first and at the last
place of a map the result must be the contract's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import build_cuda
from checking.contracts import CONTRACTS
from checking.emulator import emulation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        build_cuda.find_nvcc() is None or platform.machine() != "x86_64",
        reason="the emulation needs CUDA's headers and an x86-64 processor",
    ),
]

# N, C, H, W: one image beyond 2**31 elements, and several that are together.
SHAPES = ((1, 64, 6000, 6000), (9, 64, 2000, 2000))


@pytest.fixture(autouse=True)
def unpoisoned(poison: None) -> Iterator[None]:
    """Poison would be the first to touch the memory."""
    torch.use_deterministic_algorithms(False)
    yield


class Large:
    """Tensors with values at both ends: zeros as the system hands memory out, else."""

    def __init__(self, shape: tuple[int, ...], channels_last: bool) -> None:
        self.N, self.C, self.H, self.W = shape
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator = torch.Generator().manual_seed(5)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def ends(self, *shape: int, dtype: torch.dtype) -> Tensor:
        x = torch.empty(shape, dtype=dtype, memory_format=self.format)
        for i, j in ((0, 0), (-1, -1)):
            x[i, :, j, j] = self.normal(shape[1]).to(dtype)
        return x

    def map(self) -> Tensor:
        return self.ends(self.N, self.C, self.H, self.W, dtype=torch.bfloat16)

    def gate(self) -> Tensor:
        x = torch.empty(self.N, 1, self.H, self.W)
        x[0, 0, 0, 0], x[-1, 0, -1, -1] = 0.25, 0.75
        return x

    def border(self) -> Tensor:
        """The same for every class, so that a pixel alone has it too."""
        return self.normal(self.N, 1, 1, self.C).expand(-1, 3, 3, -1).contiguous()

    def context(self) -> Tensor:
        return self.normal(self.N, self.C)

    def channels(self) -> Tensor:
        return self.normal(self.C).bfloat16()


KERNELS: dict[str, Callable[[Large], list]] = {
    "context_add": lambda m: [m.map(), m.context()],
    "border_relu": lambda m: [m.map(), m.border()],
    "bias_relu_": lambda m: [m.map(), m.channels()],
    "mask_apply": lambda m: [m.map(), m.context(), m.gate()],
    "mask_apply of a map": lambda m: [m.map(), None, m.map()],
    "mask_merge_": lambda m: [m.map(), m.map(), m.gate()],
    "low_gate": lambda m: [m.map(), m.border(), m.channels(), m.normal(1).bfloat16()],
}


def at_end(x: object, large: Large, i: int) -> object:
    """What of an argument or a result belongs to the first (0) or the last (-1) pixel."""
    if not isinstance(x, Tensor) or x.dim() < 2:
        return x
    images = x[i:] if i else x[:1]
    if tuple(x.shape[2:]) == (large.H, large.W):
        images = images[:, :, -1:, -1:] if i else images[:, :, :1, :1]
    return images


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_both_ends_of_a_large_map(name: str, shape: tuple[int, ...], channels_last: bool) -> None:
    large, kernel = Large(shape, channels_last), name.split()[0]
    args = KERNELS[name](large)
    assert args[0].numel() > 2**31
    expected = []
    for i in (0, -1):
        small = [at_end(a, large, i) for a in args]
        wide = [a.double() if isinstance(a, Tensor) else a for a in small]
        expected.append(CONTRACTS[kernel](*wide)[0])
    with emulation().ends():
        out = emulation().kernel(kernel)(*args)
    assert not emulation().problem()
    result = args[0] if kernel.endswith("_") else out
    for i, want in zip((0, -1), expected, strict=True):
        got = at_end(result, large, i).double()
        # Of a contiguous map the other channels of the pixel lie in blocks that did not run.
        assert got[0, i].item() == pytest.approx(want[0, i].item(), rel=1e-2, abs=1e-6), i
        assert want[0, i].item() != 0 or kernel in ("border_relu", "bias_relu_")
