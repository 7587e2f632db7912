"""Random calls with fixed seeds, and that the search finds what it is to find."""

from __future__ import annotations

import pytest
import torch
from conftest import Backend
from fuzz import complaints, difference, draw
from torch import Tensor

from efpn_kernels import functional

CALLS = 1500
BLOCK = 250


@pytest.mark.parametrize("first", range(0, CALLS, BLOCK))
def test_random_calls(backend: Backend, first: int) -> None:
    """A failing one is printed as a script."""
    count = BLOCK // 50 if backend.interpreted else BLOCK
    found = complaints(range(first, first + count), backend.name)
    assert not found, f"{len(found)} calls are wrong\n\n" + "\n\n".join(found[:3])


def test_a_mistake_is_found_and_its_script_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that is read in the other memory format, in some calls only."""
    right = functional.cem

    def wrong(p_low: Tensor, *rest: Tensor) -> Tensor:
        n, c, h, w = p_low.shape
        if p_low.is_contiguous(memory_format=torch.channels_last) and not p_low.is_contiguous():
            p_low = p_low.permute(0, 2, 3, 1).reshape(n, c, h, w)
        return right(p_low, *rest)

    monkeypatch.setattr(functional, "cem", wrong)
    found = [text for text in complaints(range(150), "cpu") if "operator='cem'" in text]
    assert found
    assert len(found) < 40
    *_, last = found[0].splitlines()
    assert last == "print(difference(draw, 'cpu'))"
    scope: dict[str, object] = {}
    exec(found[0].rsplit("\n", 1)[0], scope)
    ours, eager = difference(scope["draw"], "cpu")
    assert ours > 1e3 * max(eager, 1)
    monkeypatch.undo()
    ours, eager = difference(scope["draw"], "cpu")
    assert ours < 1e3


def test_a_call_follows_from_its_seed() -> None:
    assert [draw(i) for i in range(20)] == [draw(i) for i in range(20)]
    assert len({repr(draw(i)) for i in range(200)}) == 200
