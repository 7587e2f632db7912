"""Ours where reduced precision is asked for: a row of its own beside ours, with its own error and goals."""

from __future__ import annotations

import pytest
import torch

from benchmarks.accuracy import REDUCED_SLACK
from benchmarks.bench_efpn_bs import plan
from benchmarks.goals import goals_of
from benchmarks.plan import Options
from benchmarks.records import EAGER, FLOOR, FORWARD, OURS, REDUCED, TRAINING, speedup_over
from benchmarks.tests.planted import changed, measure
from benchmarks.tests.rows import row

BLOCK = {
    "operator": "EFPNBS",
    "arguments": {"high_channels": 4, "low_channels": 4},
    "input_shapes": ((3, 4, 12, 12), (3, 4, 3, 3)),
}


@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
def test_it_is_measured_with_its_own_error(monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    seen = {}

    def note(variant: str):
        return changed(lambda x: (seen.setdefault(variant, x.detach().clone()), x)[1])

    planted = {variant: note(variant) for variant in (OURS, REDUCED)}
    rows, omissions = measure(monkeypatch, planted, direction, (EAGER, REDUCED), ("cpu",), **BLOCK)
    assert not omissions
    assert rows[REDUCED].repeatable and rows[REDUCED].ran_on == "cpu"
    assert not seen[OURS].equal(seen[REDUCED])
    assert speedup_over(rows[REDUCED], list(rows.values())) is None


def test_a_larger_error_than_promised_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {REDUCED: changed(lambda x: x * (1 + 1e-5))}
    rows, omissions = measure(monkeypatch, wrong, FORWARD, (EAGER, REDUCED), ("cpu",), **BLOCK)
    assert OURS in rows and REDUCED not in rows
    assert "exceeds" in omissions[REDUCED].reason


def test_only_blocks_of_float32_take_part() -> None:
    dtypes = (torch.float32, torch.bfloat16)
    for one in plan(Options("quick", "cpu", ("auto",), dtypes, ("contiguous",), "none")):
        work = one.workload
        expected = work.dtype == torch.float32 and work.floor is not None
        assert (REDUCED in one.variants) == expected


def test_its_goals() -> None:
    rows = [row(OURS, 0.5), row(FLOOR, 1.0), row(EAGER, 1.5)]
    rows.append(row(REDUCED, 0.4, ran_on="cpu", error=6e-7, eager_error=2e-7))
    goals = {g.what: g for g in goals_of(rows) if "reduced precision" in g.what}
    times, errors = goals.values()
    assert (times.required, times.measured, times.met) == ("<= 0.38", pytest.approx(0.4), False)
    assert errors.measured == pytest.approx(3) and errors.met
    assert errors.required == f"<= {REDUCED_SLACK:.2f}"
