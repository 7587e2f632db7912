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
