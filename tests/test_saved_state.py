"""What the block hands out for backward, real and fake: shapes, dtypes, strides."""

from __future__ import annotations

import pytest
import torch
from cases import block_problem, case
from conftest import Backend
from torch._subclasses.fake_tensor import FakeTensorMode

from efpn_kernels import backends


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["x2", "per_channel", "one_low", "one_pixel_low", "one_hidden"])
def test_the_state_is_what_the_fake_says(
    backend: Backend, name: str, channels_last: bool, dtype: torch.dtype
) -> None:
    """Where p_low is contiguous and channels_last at once too: that says nothing of the hidden map."""
    layout = "channels_last" if channels_last else "contiguous"
    problem = block_problem("efpn_bs", case(name, dtype, layout), backend.device)
    op = getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace).efpn_bs.default
    tensors = [x.detach() for x in problem.tensors.values()]
    found = []
    mode = FakeTensorMode()
    for given in (tensors, [mode.from_tensor(x) for x in tensors]):
        out, state = op(*given, channels_last, True)
        found.append(
            [
                (x.shape, x.dtype, [s for n, s in zip(x.shape, x.stride(), strict=True) if n > 1])
                for x in (out, *state)
            ]
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("operator", ["cem", "efpn_bs"])
@pytest.mark.parametrize("grad_dtype", [None, torch.float32], ids=str)
def test_gradients_of_parameters_come_in_the_dtype_that_is_asked_for(
    backend: Backend, operator: str, grad_dtype: torch.dtype | None
) -> None:
    """Under autocast in that of their sums; the fake says the same."""
    problem = block_problem(operator, case("x2", torch.bfloat16), backend.device)
    ops = getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace)
    tensors = [x.detach() for x in problem.tensors.values()]
    out, state = getattr(ops, operator)(*tensors, False, True)
    if operator == "cem":
        saved, options = [out, *tensors[1:], state], [grad_dtype]
    else:
        saved, options = [out, out, *tensors, state], [False, grad_dtype]
    backward = getattr(ops, f"{operator}_backward")
    mode = FakeTensorMode()
    fakes = [
        [mode.from_tensor(y) for y in x] if isinstance(x, list) else mode.from_tensor(x)
        for x in saved
    ]
    for given in (saved, fakes):
        grads = backward(*given, *options)
        parameters = grads[-len(tensors[2:]) :]
        assert {x.dtype for x in parameters} == {grad_dtype or torch.bfloat16}


def test_the_output_is_kept_itself(backend: Backend) -> None:
    problem = block_problem("efpn_bs", case("x2"), backend.device)
    out = problem.functional(*problem.tensors.values())
    storages = {x.untyped_storage().data_ptr() for x in out.grad_fn.saved_tensors if x is not None}
    assert out.untyped_storage().data_ptr() in storages
