"""``efpn doctor --test``: right results pass, wrong ones and exceptions are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from efpn_kernels import CEM, backends, doctor, reference, selftest


class Wrong(CEM):
    """One hundredth too large."""

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        return super().forward(p_low, p_high) * 1.01


class Failing(CEM):
    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        raise RuntimeError("no kernel\nfor this")


def test_every_backend_at_hand_is_right() -> None:
    before = backends.current_backend()
    outcomes = selftest.run()
    able = [
        name
        for name in backends.DESCRIPTORS
        for device in ("cpu", "cuda")
        if device == "cpu" or torch.cuda.is_available()
        if backends.why_unsupported(name, torch.device(device), torch.float32) is None
    ]
    assert len(outcomes) == len(able) * len(selftest.CASES) * len(selftest.DTYPES)
    assert {one.backend for one in outcomes} == set(able)
    for one in outcomes:
        assert one.ok, one
        assert one.allowed < 0.3, "a limit that large would find nothing"
    assert backends.current_backend() == before


@pytest.mark.parametrize(
    ("kind", "verdict"), [(Wrong, "WRONG"), (Failing, "failed")], ids=["wrong", "failing"]
)
def test_what_is_not_right_is_found(
    kind: type[CEM], verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    case = replace(selftest.CASES[0], ours=lambda: kind(48, 32))
    monkeypatch.setattr(selftest, "CASES", (case, *selftest.CASES[1:2]))
    monkeypatch.setattr(selftest, "DTYPES", (torch.float32,))
    assert doctor.main(["--test"]) == 1
    text = capsys.readouterr().out
    assert text.count(verdict) == text.count(" CEM ") >= 1
    assert ("RuntimeError: no kernel" in text) == (kind is Failing)
    assert "for this" not in text


def test_not_a_number_is_wrong() -> None:
    class Empty(reference.CEM):
        def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
            return super().forward(p_low, p_high) * float("nan")

    case = replace(selftest.CASES[0], ours=lambda: Empty(48, 32))
    outcome = selftest._run(case, "reference", torch.device("cpu"), torch.float32)
    assert not outcome.ok


def test_without_the_option_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(selftest, "run", lambda: pytest.fail("the self-test ran"))
    doctor.main([])
    assert "Self-test" not in capsys.readouterr().out
