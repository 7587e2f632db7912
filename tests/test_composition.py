"""The operators composed in C++ and in Python from the same kernels: the same bits.

On the CPU's kernels, and on the CUDA sources compiled for the CPU: every line of the composition that a GPU
runs has run here.
"""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch
from cases import CASES, DTYPES, Case, block_problem
from cases import case as case_of
from torch import Tensor

import build_cuda
from checking.emulator import emulation
from efpn_kernels import backends
from efpn_kernels.composition import Target, cem, efpn_bs

CPU = Target("efpn", backends.cpu_fuses_convolutions, library_adds_bias=True)
SMALL = [case for case in CASES if not case.slow]
# The emulation runs thread by thread.
TINY = [
    case_of(name, dtype, layout)
    for name in (
        "x2",
        "odd_channels",
        "one_channel",
        "row",
        "one_pixel_low",
        "per_channel_downsampled",
    )
    for dtype in DTYPES
    for layout in ("contiguous", "channels_last")
]
EMULATED = pytest.mark.skipif(
    build_cuda.find_nvcc() is None or platform.machine() != "x86_64",
    reason="the emulation needs CUDA's headers and an x86-64 processor",
)


def same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    assert got.stride() == expected.stride(), what
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True, msg=what)


def compare(target: Target, operator: str, case: Case) -> dict[str, Tensor]:
    """Both compositions; the output and the gradients of the maps."""
    problem = block_problem(operator, case)
    tensors: list[Any] = [x.detach() for x in problem.tensors.values()]
    channels_last = case.layout == "channels_last"
    if operator == "fbsm":
        tensors[2:2] = [None, None]
    name, composed = ("cem", cem) if operator == "cem" else ("efpn_bs", efpn_bs)
    out, state = getattr(target.kernels, name)(*tensors, channels_last, True)
    our_out, our_state = composed.forward(target, *tensors, channels_last, True)
    same_bits(our_out, out, "out")
    assert len(our_state) == len(state)
    for i, (ours, theirs) in enumerate(zip(our_state, state, strict=True)):
        same_bits(ours, theirs, f"state {i}")

    if name == "cem":
        arguments = (problem.grad_out, *tensors[1:], state)
    else:
        arguments = (problem.grad_out, out, *tensors, state, channels_last)
    for grad_dtype in (torch.float64, None):
        expected = getattr(target.kernels, f"{name}_backward")(*arguments, grad_dtype)
        got = composed.backward(target, *arguments, grad_dtype)
        assert len(got) == len(expected)
        for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
            same_bits(ours, theirs, f"gradient {i} in {grad_dtype}")
    names = list(problem.tensors)[1 if name == "cem" else 0 :]
    return {"out": out, **{f"grad_{n}": g for n, g in zip(names, expected, strict=True)}}


@pytest.mark.parametrize("operator", ["cem", "fbsm", "efpn_bs"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_on_the_cpus_kernels(operator: str, case: Case) -> None:
    compare(CPU, operator, case)


@EMULATED
@pytest.mark.slow
@pytest.mark.parametrize("operator", ["cem", "fbsm", "efpn_bs"])
@pytest.mark.parametrize("case", TINY, ids=str)
def test_on_the_kernels_of_a_gpu(operator: str, case: Case) -> None:
    results = compare(Target(emulation().namespace.ns), operator, case)
    assert not emulation().problem()
    if case.dtype == torch.float64:
        oracle = block_problem(operator, case).oracle()
        for name, value in results.items():
            torch.testing.assert_close(value, oracle[name], rtol=1e-9, atol=1e-9, msg=name)


def test_nothing_is_handed_out_unless_asked_for() -> None:
    problem = block_problem("efpn_bs", SMALL[0])
    tensors = [x.detach() for x in problem.tensors.values()]
    assert torch.ops.efpn.efpn_bs(*tensors)[1] == []
    assert efpn_bs.forward(CPU, *tensors)[1] == []
