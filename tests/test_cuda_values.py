"""The CUDA kernels against their contracts without a GPU: their sources, compiled for the CPU."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kernel_cases import (
    Case,
    Maker,
    check_results,
    kernel_cases,
    level_cases,
    loss_cases,
    map_cases,
    run_kernel,
)

from efpn_kernels.ops.kernels import KERNELS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))

import build_cpu  # noqa: E402
import build_cuda  # noqa: E402
from cuda_on_cpu import build as cuda_on_cpu  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        build_cuda.find_nvcc() is None, reason="nvcc: not found, and with it the headers of CUDA"
    ),
    pytest.mark.skipif(build_cpu.find_compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(
        platform.machine() != "x86_64", reason="the change of stacks is written for x86-64"
    ),
]

# Several blocks, several samples of a level, channels that do not divide a block, downsampling.
LARGER = (
    *level_cases([(1, 8, 13, 13, 104, 104), (2, 8, 40, 30, 13, 17), (1, 136, 3, 4, 12, 17)]),
    *map_cases([(2, 256, 20, 20), (1, 192, 17, 15)]),
    *loss_cases([(4097,), (16_385,), (20_003,)]),
)
CASES = [
    (case, channels_last) for case in (*kernel_cases(), *LARGER) for channels_last in case.formats
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def case_id(value: Case | bool) -> str:
    if isinstance(value, Case):
        return f"{value.kernel}-{value.id}"
    return "channels_last" if value else "contiguous"


@pytest.fixture(scope="module")
def kernel_of() -> Callable[[str], Callable]:
    """The kernels by name. They are built once and kept from run to run."""
    namespace = cuda_on_cpu.NAMESPACE
    library = torch.library.Library(namespace, "FRAGMENT")
    for name, schema in KERNELS.items():
        library.define(name + schema)
    folder = ROOT / "build" / "cuda_on_cpu"
    folder.mkdir(parents=True, exist_ok=True)
    torch.ops.load_library(str(cuda_on_cpu.build(folder)))

    def kernel(name: str) -> Callable:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", "CPU")
        _ = library
        return getattr(getattr(torch.ops, namespace), name).default

    return kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("case", "channels_last"), CASES, ids=case_id)
def test_cuda_kernel_keeps_its_contract(
    kernel_of: Callable[[str], Callable], case: Case, dtype: torch.dtype, channels_last: bool
) -> None:
    maker = Maker(dtype, channels_last, "cpu")
    args = case.build(maker)
    check_results(case.kernel, args, run_kernel(kernel_of(case.kernel), args), maker)
