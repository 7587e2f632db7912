"""Every kernel of every backend against its contract: values, layouts, repeatability."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from kernel_cases import Case, Maker, check_results, kernel_cases, run_kernel

from efpn_kernels.ops import kernels
from efpn_kernels.ops.kernels import KERNELS, LIBRARIES

CASES = [(case, channels_last) for case in kernel_cases() for channels_last in case.formats]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def case_id(value: Case | bool) -> str:
    if isinstance(value, Case):
        return f"{value.kernel}-{value.id}"
    return "channels_last" if value else "contiguous"


def has_kernel(namespace: str, name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", key)


def load_backends() -> None:
    """Load what this machine can run, without choosing a backend."""
    for library in Path(kernels.__file__).parents[1].glob("_c*.so"):
        if library.name.startswith("_cpu") or torch.cuda.is_available():
            torch.ops.load_library(library)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    device = "CUDA" if torch.cuda.is_available() else "CPU"
    if find_spec("triton") and (device == "CUDA" or interpreted):
        from efpn_kernels import triton

        if not has_kernel("efpn_triton", "context_add", device):
            triton.register(LIBRARIES["efpn_triton"])


def targets() -> list[tuple[str, str]]:
    """The (namespace, device) pairs that have kernels here."""
    load_backends()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [
        (namespace, device)
        for namespace in ("efpn", "efpn_triton")
        for device in devices
        if has_kernel(namespace, "context_add", device.upper())
    ]


def kernel_of(namespace: str, name: str):  # noqa: ANN201 - torch has no public type for it
    return getattr(getattr(torch.ops, namespace), name).default


@pytest.fixture(params=targets(), ids="-".join)
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_registered(target: tuple[str, str], name: str) -> None:
    namespace, device = target
    assert has_kernel(namespace, name, device.upper())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("case", "channels_last"), CASES, ids=case_id)
def test_kernel_keeps_its_contract(
    target: tuple[str, str], case: Case, dtype: torch.dtype, channels_last: bool
) -> None:
    namespace, device = target
    maker = Maker(dtype, channels_last, device)
    args = case.build(maker)
    kernel = kernel_of(namespace, case.kernel)
    first = run_kernel(kernel, args)
    check_results(case.kernel, args, first, maker)
    torch.testing.assert_close(run_kernel(kernel, args), first, rtol=0, atol=0, equal_nan=True)
