"""What a compiled Triton kernel is looked up by: whatever Triton compiles anew for."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from triton.backends.amd.compiler import HIPBackend

from efpn_kernels.triton import launch


def of_storage(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A small tensor in a storage of so many bytes, none of them real."""
    return torch.empty(size, dtype=torch.uint8, device="meta")[:64].view(dtype)


def test_storages_beyond_2_gib_are_another_kernel_on_amd() -> None:
    """Code for small ones reaches no further: run on a large one it reads something else."""
    small, largest, large = (of_storage(size) for size in (64, 2**31 - 1, 2**31 + 64))
    found = [HIPBackend.get_tensor_specialization(x, align=True) for x in (small, largest, large)]
    assert found[0] == found[1] != found[2], "what Triton does has changed"
    keys = [launch.specialization_on_amd(x) for x in (small, largest, large)]
    assert keys[0] == keys[1] != keys[2]


def test_the_rest_of_the_key_is_the_same_on_amd() -> None:
    # In turn: one alone, a multiple of 16 alone, 64 bits alone, nothing for a number, another type.
    for one, other in (
        (1, 3),
        (32, 33),
        (2**31 - 16, 2**31),
        (2**31 - 1, 2**31 + 1),
        (None, 3),
        (3.0, 3),
    ):
        assert launch.specialization_on_amd(one) == launch.specialization(one)
        assert launch.specialization_on_amd(one) != launch.specialization_on_amd(other)
    # What makes no other code makes no other kernel.
    for one, other in ((3, 5), (16, 32), (2**31 + 1, 2**40 + 1), (2.0, 3.0)):
        assert launch.specialization(one) == launch.specialization(other)
    assert launch.specialization_on_amd(of_storage(64)) != launch.specialization_on_amd(
        of_storage(64, torch.float16)
    )


@pytest.mark.skipif(torch.version.hip is not None, reason="needs a PyTorch not for AMD")
def test_nobody_else_pays_for_it() -> None:
    assert launch._specialization is launch.specialization
