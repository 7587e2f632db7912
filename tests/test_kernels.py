"""Every kernel of every backend against its contract: values, layouts, repeatability."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, Maker, check_results, kernel_cases, run_kernel

import efpn_kernels  # noqa: F401: loads every backend that this machine can run
from efpn_kernels.ops.kernels import KERNELS

CASES = [(case, channels_last) for case in kernel_cases() for channels_last in case.formats]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def case_id(value: Case | bool) -> str:
    if isinstance(value, Case):
        return f"{value.kernel}-{value.id}"
    return "channels_last" if value else "contiguous"


def has_kernel(namespace: str, name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", key)


def targets() -> list[tuple[str, str]]:
    """The (namespace, device) pairs that have kernels here."""
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
