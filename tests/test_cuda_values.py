"""The CUDA kernels without a GPU, their sources compiled for the CPU: values, races, alignment, bounds."""

from __future__ import annotations

import os
import platform
import shutil

import pytest
import toolchain
import torch
from torch import Tensor

import build_cuda
from checking.cases import (
    POOLS,
    Case,
    Maker,
    border_cases,
    kernel_cases,
    level_cases,
    loss_cases,
    map_cases,
    pooled_cases,
)
from checking.comparison import check_results, run_kernel
from checking.emulator import Emulation, emulation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        build_cuda.find_nvcc() is None, reason="nvcc: not found, and with it the headers of CUDA"
    ),
    pytest.mark.skipif(toolchain.find_compiler() is None, reason="no C++ compiler"),
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
# Every kernel where whole vectors would fit.
WIDE = (
    *level_cases([(1, 16, 2, 3, 8, 16)]),
    *border_cases([(1, 16, 24, 4, 5)]),
    *map_cases([(2, 16, 4, 8)]),
    *loss_cases([(1000,)]),
    *pooled_cases([((2, 40, 4, 4), 16)]),
)
CASES = [
    (case, channels_last) for case in (*kernel_cases(), *LARGER) for channels_last in case.formats
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dtype_id(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def case_id(value: Case | bool | list[int]) -> str:
    if isinstance(value, Case):
        return f"{value.kernel}-{value.id}"
    if isinstance(value, list):
        return "moved" + "".join(map(str, value))
    return "channels_last" if value else "contiguous"


@pytest.fixture(name="emulation")
def the_emulation() -> Emulation:
    return emulation()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(("case", "channels_last"), CASES, ids=case_id)
def test_cuda_kernel_keeps_its_contract(
    emulation: Emulation, case: Case, dtype: torch.dtype, channels_last: bool
) -> None:
    maker = Maker(dtype, channels_last, "cpu")
    args = case.build(maker)
    results = run_kernel(emulation.kernel(case.kernel), args)
    assert not emulation.problem()
    check_results(case.kernel, args, results, maker)


FAULTS = (
    "",
    "",
    "reads shared memory that its block has not written",
    "a read races with a write",
    "two writes race",
    "a read races with a write",
    "a write races with a read",
    "a read races with a write",
    "is not aligned (16 bytes)",
    "reads shared memory that its block has not written",
    "an index is outside of its array",
    "a sum overflows",
    "a shuffle reads a lane that does not take part",
)
"""What is wrong with the kernels of ``emulator/broken.cu``, in their order."""


@pytest.mark.parametrize("fault", range(len(FAULTS)))
def test_faults_are_found(emulation: Emulation, fault: int) -> None:
    found = emulation.broken(fault)
    if FAULTS[fault]:
        assert FAULTS[fault] in found
        assert "broken.cu" in found or not shutil.which("addr2line")
    else:
        assert not found


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("channels_last", (False, True), ids=case_id)
@pytest.mark.parametrize("case", tuple(pooled_cases((*POOLS, ((1, 300, 3, 4), 8)))), ids=case_id)
def test_clusters(
    emulation: Emulation, case: Case, dtype: torch.dtype, channels_last: bool
) -> None:
    """What runs where clusters exist, in one launch; a GPU that runs older PTX takes the other way."""
    maker = Maker(dtype, channels_last, "cpu")
    args = case.build(maker)
    # Both GPUs in turn: what is known of one must not be taken for the other.
    for device, code in ((1, (90, 90)), (2, (90, 80)), (1, (90, 90))):
        with emulation.device(device, *code):
            results = run_kernel(emulation.kernel(case.kernel), args)
            assert not emulation.problem()
            with emulation.counting() as launches:
                run_kernel(emulation.kernel(case.kernel), args)
        check_results(case.kernel, args, results, maker)
        clusters = [launch for launch in launches if "cluster" in launch["kernel"]]
        pools = case.kernel == "pooled_context" and args[0].shape[0] > 0
        assert len(clusters) == (pools and code == (90, 90))


def test_the_gpu_is_asked_once_for_its_clusters(emulation: Emulation) -> None:
    args = next(pooled_cases()).build(Maker(torch.float32, False, "cpu"))
    asked = []
    for device in (5, 6, 5, 6, 70, 70):  # 70: more GPUs than answers are kept for
        before = emulation.questions()
        with emulation.device(device, 90, 90):
            run_kernel(emulation.kernel("pooled_context"), args)
        asked.append(emulation.questions() - before)
    assert asked == [1, 1, 0, 0, 1, 1]


def shifted(x: Tensor) -> Tensor:
    """The same values with the same strides, one element further from an aligned address."""
    memory = x.new_empty(x.numel() + 1)[1:]
    return memory.as_strided(x.size(), x.stride(), memory.storage_offset()).copy_(x)


def tensors(case: Case) -> list[int]:
    """Which arguments are tensors."""
    args = case.build(Maker(torch.float32, False, "cpu"))
    return [i for i, a in enumerate(args) if isinstance(a, Tensor)]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    ("case", "channels_last", "moved"),
    [
        (case, channels_last, moved)
        for case in WIDE
        for channels_last in case.formats
        for moved in (tensors(case), *([i] for i in tensors(case)))
    ],
    ids=case_id,
)
def test_unaligned_arguments(
    emulation: Emulation, case: Case, channels_last: bool, moved: list[int], dtype: torch.dtype
) -> None:
    """Tensors that start at any element: all of them, or one."""
    maker = Maker(dtype, channels_last, "cpu")
    args = case.build(maker)
    given = [shifted(a) if i in moved else a for i, a in enumerate(args)]
    results = run_kernel(emulation.kernel(case.kernel), given)
    assert not emulation.problem()
    check_results(case.kernel, args, results, maker)


@pytest.mark.parametrize("case", tuple(loss_cases([(7,)])), ids=case_id)
def test_mixed_dtypes_of_the_loss_are_refused(emulation: Emulation, case: Case) -> None:
    args = case.build(Maker(torch.float32, False, "cpu"))
    elements = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.numel() > 1]
    for i in elements:
        mixed = [a.half() if j == i else a for j, a in enumerate(args)]
        with pytest.raises(RuntimeError, match="expected the dtype of pred"):
            emulation.kernel(case.kernel)(*mixed)


def test_outside_of_tensors(emulation: Emulation) -> None:
    """With AddressSanitizer loaded, every test above finds this too."""
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("needs AddressSanitizer in LD_PRELOAD")
    assert "is outside of every tensor" in emulation.broken(len(FAULTS))


REAL = (
    *level_cases([(1, 256, 5, 5, 40, 40)]),
    *map_cases([(1, 256, 40, 40)]),
)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=dtype_id)
@pytest.mark.parametrize(
    ("case", "channels_last"), [(c, last) for c in REAL for last in c.formats], ids=case_id
)
def test_memory_is_used_well(
    emulation: Emulation, case: Case, channels_last: bool, dtype: torch.dtype
) -> None:
    """Threads of a warp read neighbours, and meet in few banks of shared memory."""
    args = case.build(Maker(dtype, channels_last, "cpu"))
    with emulation.counting() as launches:
        run_kernel(emulation.kernel(case.kernel), args)
    assert launches
    for launch in launches:
        of = {
            (memory, key): sum(p[key] for p in launch["places"] if p["shared"] == memory)
            for memory in (True, False)
            for key in ("wavefronts", "least_wavefronts", "requested", "moved")
        }
        assert of[True, "wavefronts"] <= 1.5 * of[True, "least_wavefronts"], launch["kernel"]
        # Small second stages read few bytes of many sectors; the adjoint of rows of planes (a gate per
        # channel, contiguous) reads across them.
        across = (
            launch["kernel"].startswith("taps_bwd") and case.kernel != "upsampled_gate_backward"
        )
        if of[False, "requested"] > 100_000 and not (across and not channels_last):
            assert of[False, "moved"] <= 2.1 * of[False, "requested"], launch["kernel"]
