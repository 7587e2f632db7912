"""The operators composed in C++ and in Python from the same kernels: the same bits."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case, block_problem
from torch import Tensor

from efpn_kernels.composition import Target, cem, efpn_bs

TARGET = Target("efpn", lambda x: x.dtype == torch.float32, library_adds_bias=True)
SMALL = [case for case in CASES if not case.slow]


def same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    assert got.dtype == expected.dtype, what
    assert got.shape == expected.shape, what
    assert got.stride() == expected.stride(), what
    assert got.equal(expected), what


@pytest.mark.parametrize("operator", ["cem", "fbsm", "efpn_bs"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_same_bits(operator: str, case: Case) -> None:
    problem = block_problem(operator, case)
    tensors = [x.detach() for x in problem.tensors.values()]
    channels_last = case.layout == "channels_last"
    if operator == "fbsm":
        tensors[2:2] = [None, None]
    name, composed = ("cem", cem) if operator == "cem" else ("efpn_bs", efpn_bs)
    compiled = getattr(torch.ops.efpn, name)
    out, state = compiled(*tensors, channels_last, True)
    our_out, our_state = composed.forward(TARGET, *tensors, channels_last, True)
    same_bits(our_out, out, "out")
    assert len(our_state) == len(state)
    for i, (ours, theirs) in enumerate(zip(our_state, state, strict=True)):
        same_bits(ours, theirs, f"state {i}")

    backward = getattr(torch.ops.efpn, f"{name}_backward")
    if name == "cem":
        arguments = (problem.grad_out, *tensors[1:], state)
    else:
        arguments = (problem.grad_out, out, *tensors, state, channels_last)
    for grad_dtype in (None, torch.float64):
        expected = backward(*arguments, grad_dtype)
        got = composed.backward(TARGET, *arguments, grad_dtype)
        assert len(got) == len(expected)
        for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
            same_bits(ours, theirs, f"gradient {i} in {grad_dtype}")


def test_nothing_is_handed_out_unless_asked_for() -> None:
    problem = block_problem("efpn_bs", SMALL[0])
    tensors = [x.detach() for x in problem.tensors.values()]
    assert torch.ops.efpn.efpn_bs(*tensors)[1] == []
    assert efpn_bs.forward(TARGET, *tensors)[1] == []
