"""Every kernel of every backend against its contract: values, layouts, repeatability."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

# Importing the package loads every backend that this machine can run.
import efpn_kernels  # noqa: F401
from checking.cases import NOT_NEEDED, Case, Maker, kernel_cases
from checking.comparison import check_results, run_kernel
from efpn_kernels.ops.kernels import KERNELS

CASES = [(case, channels_last) for case in kernel_cases() for channels_last in case.formats]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


INTERPRETED_FORMATS = {
    torch.float32: (False, True),
    torch.bfloat16: (True,),
    torch.float16: (False,),
    torch.float64: (False,),
}


def interpreted(target: tuple[str, str]) -> bool:
    return target == ("efpn_triton", "cpu")


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


def kernel_of(namespace: str, name: str) -> Callable:
    return getattr(getattr(torch.ops, namespace), name).default


@pytest.fixture(params=targets(), ids="-".join)
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_registered(target: tuple[str, str], name: str) -> None:
    namespace, device = target
    needed = name not in NOT_NEEDED.get(target, ())
    assert has_kernel(namespace, name, device.upper()) == needed


@pytest.mark.filterwarnings("ignore:.*NaN.*:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("case", "channels_last"), CASES, ids=case_id)
def test_kernel_keeps_its_contract(
    target: tuple[str, str], case: Case, dtype: torch.dtype, channels_last: bool
) -> None:
    namespace, device = target
    if case.kernel in NOT_NEEDED.get(target, ()):
        pytest.skip("left out by this backend")
    if interpreted(target) and channels_last not in INTERPRETED_FORMATS[dtype]:
        pytest.skip("the interpreter is slow: one memory format for this dtype")
    maker = Maker(dtype, channels_last, device)
    args = case.build(maker)
    kernel = kernel_of(namespace, case.kernel)
    first = run_kernel(kernel, args)
    check_results(case.kernel, args, first, maker)
    if dtype == torch.float32:  # the same bits in a second run
        again = run_kernel(kernel, args)
        torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)


def at_offset(x: torch.Tensor, offset: int) -> torch.Tensor:
    """The same values with the same strides, so many elements into a storage of other values."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    other = float("nan") if x.is_floating_point() else 1 << 20
    storage = x.new_full((offset + last + 1 + offset,), other)
    return storage.as_strided(x.shape, x.stride(), offset).copy_(x)


ONE_OF_EACH = {case.kernel: case for case in kernel_cases()}


@pytest.mark.parametrize("offset", [3, 4096])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_arguments_may_lie_within_larger_storages(
    target: tuple[str, str], name: str, offset: int
) -> None:
    """An image of a batch, a parameter of a flat buffer; its neighbours are NaN."""
    if name in NOT_NEEDED.get(target, ()):
        pytest.skip("left out by this backend")
    case = ONE_OF_EACH[name]
    namespace, device = target
    maker = Maker(torch.float32, case.formats[-1], device)
    args = [at_offset(a, offset) if torch.is_tensor(a) else a for a in case.build(maker)]
    check_results(name, args, run_kernel(kernel_of(namespace, name), args), maker)
