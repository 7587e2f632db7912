"""What the host does for one call of the block."""

from __future__ import annotations

import pytest

from benchmarks.kernels.step_counts import block_calls, counts
from efpn_kernels import EFPNBS, reference, use_backend


@pytest.mark.parametrize("gates", [1, 8])
def test_a_call_is_one_operator_from_python(gates: int) -> None:
    """And one more in backward; the rest of a step is autograd's, of inputs and of the loss."""
    ours, plain = (
        {
            direction: counts(call)
            for direction, call in block_calls(kind(8, 8, gate_channels=gates)).items()
        }
        for kind in (EFPNBS, reference.EFPNBS)
    )
    assert ours["forward"].from_python == 1
    assert ours["training"].from_python <= plain["training"].from_python / 3
    if gates == 1:
        assert ours["forward"].dispatcher == 1, "the block calls no library"
    with use_backend("reference"):
        again = block_calls(EFPNBS(8, 8, gate_channels=gates))
        assert counts(again["forward"]).from_python == plain["forward"].from_python
