"""The ledger of saved tensors, on graphs whose kept tensors are known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.memory import StorageLedger, measure_memory

MAP = 16 * 4  # bytes of the small maps below


def test_what_is_kept_on_a_graph_known_by_hand() -> None:
    """``relu(x * w) * gain``: x and w for the product, the ReLU's result for it and for the scale."""
    x, w = (torch.randn(16, requires_grad=True) for _ in range(2))
    gain = torch.randn(16, requires_grad=True)

    def forward() -> tuple[Tensor]:
        return (torch.relu(x * w) * gain,)

    memory = measure_memory(forward, None, (x,), (w, gain))
    # x and the ReLU's result; of those two only the latter is the operator's own.
    assert memory.saved == 2 * MAP
    assert memory.saved_own == MAP
    # Without parameters to leave out, both of them count as well.
    assert measure_memory(forward, None, (x,), ()).saved == 4 * MAP


def test_an_output_that_is_kept_is_not_the_operators_own() -> None:
    x = torch.randn(16, requires_grad=True)
    memory = measure_memory(lambda: (torch.sigmoid(x),), None, (x,), ())
    assert (memory.saved, memory.saved_own) == (MAP, 0)


def test_two_views_of_one_storage_count_once_and_whole() -> None:
    whole = torch.randn(4, 16)
    x = torch.randn(16, requires_grad=True)
    memory = measure_memory(lambda: (x * whole[0] + x * whole[1],), None, (x,), ())
    assert memory.saved == 4 * MAP  # no gradient of `whole` is wanted, so x is not kept


def test_nothing_is_kept_without_gradients() -> None:
    x = torch.randn(16, requires_grad=True)
    with torch.no_grad():
        memory = measure_memory(lambda: (torch.sigmoid(x),), None, (x,), ())
    assert (memory.saved, memory.saved_own) == (0, 0)


def test_what_autograd_lets_go_of_is_not_counted() -> None:
    """A branch that ends in no output dies before the backward pass, and its memory with it."""
    x = torch.randn(16, requires_grad=True)
    ledger = StorageLedger()
    with saved_tensors_hooks(ledger.pack, lambda tensor: tensor):
        gate = torch.sigmoid(x).detach()
        out = x * gate
    assert ledger.total((x,)) == MAP
    del gate
    assert ledger.total((x,)) == MAP, "the product keeps it"
    del out
    assert ledger.total((x,)) == 0


def test_memory_that_changes_hands_is_counted_for_its_owner() -> None:
    """The address of a dead storage is soon another one's, here with a quarter of the size in use."""
    x = torch.randn(16, requires_grad=True)
    ledger = StorageLedger()
    with saved_tensors_hooks(ledger.pack, lambda tensor: tensor):
        for _ in range(8):
            torch.sigmoid(x * 2)  # no reference is kept
        out = torch.sigmoid(x * 2)
    assert ledger.total((x,)) == MAP
    assert out.requires_grad


def test_what_is_freed_before_the_end_counts_for_the_peak() -> None:
    x = torch.randn(2**18)

    def forward() -> tuple[Tensor, ...]:
        large = torch.cat([x, x, x])
        return (large[:1].clone(),)

    assert 3 * 2**20 <= measure_memory(forward, None, (x,), ()).peak < 3 * 2**20 + 2**16


@pytest.mark.parametrize("maps", [1, 3])
def test_the_peak_of_a_step_counts_what_is_alive_at_once(maps: int) -> None:
    """``maps`` copies of 1 MiB at once; each is larger than whatever else the step allocates."""
    x = torch.randn(2**18)

    def forward() -> tuple[Tensor, ...]:
        return tuple(x.clone() for _ in range(maps))

    peak = measure_memory(forward, None, (x,), ()).peak
    assert maps * 2**20 <= peak < maps * 2**20 + 2**16
