"""Who is slow or not repeatable is called so, and who ran is who was asked for."""

from __future__ import annotations

import time as host_time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import efpn_kernels
from benchmarks import harness as harness_module
from benchmarks.baselines import Candidate, Entrant, build
from benchmarks.goals import goals_of
from benchmarks.harness import Harness
from benchmarks.records import (
    BACKWARD,
    EAGER,
    FORWARD,
    OURS,
    TRAINING,
)
from benchmarks.report import row_cells
from benchmarks.tests import fake_time
from benchmarks.tests.fake_time import FakeTime, Work
from benchmarks.tests.planted import Changed, changed, group, measure, workload
from benchmarks.workload import Group

CPU_LIBRARY = torch._C._dispatch_has_kernel_for_dispatch_key("efpn::low_gate", "CPU")


def test_who_gives_other_bits_the_second_time_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def drift(x: Tensor) -> Tensor:
        calls.append(1)
        out = x.clone()
        out.view(-1)[0] += (len(calls) % 2) * out.view(-1)[0].abs() * 2e-7
        return out

    rows, _ = measure(monkeypatch, {OURS: changed(drift)})
    assert rows[OURS].repeatable is False
    (goal,) = [g for g in goals_of(list(rows.values())) if "repeatable" in g.what]
    assert not goal.met
    rows, _ = measure(monkeypatch, {})
    assert rows[OURS].repeatable is True
    assert rows[EAGER].repeatable is None, "nobody asked"


def test_gradients_count_for_repeatable_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Drifting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            calls.append(1)
            return grad * (1 + (len(calls) % 2) * 1.2e-7)

    rows, _ = measure(monkeypatch, {OURS: changed(Drifting.apply)}, TRAINING)
    assert rows[OURS].repeatable is False


@pytest.mark.skipif(not CPU_LIBRARY, reason="the CPU library is not built")
@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
def test_each_backend_runs_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """A spy in the place of each of ours notes the choice that holds while it runs."""
    seen: dict[str, set[str]] = {}

    def planted(entrant: Entrant, group: Group, device: str, sets: int) -> Candidate:
        candidate = build(entrant, group, device, sets)
        who = entrant.backend or entrant.variant

        def spy(x: Tensor) -> Tensor:
            seen.setdefault(who, set()).add(efpn_kernels.current_backend())
            return x

        candidate.module = Changed(candidate.module, spy)
        return candidate

    monkeypatch.setattr(harness_module, "build", planted)
    harness = Harness("cpu", ("reference", "cpu", "auto"), lambda text: None)
    rows, omissions = harness.measure(group(direction))
    assert not omissions
    assert seen == {
        EAGER: {"auto"},
        "reference": {"reference"},
        "cpu": {"cpu"},
        "auto": {"auto"},
    }
    ran = {row.backend: row.ran_on for row in rows if row.variant == OURS}
    assert ran == {"reference": "reference", "cpu": "cpu", "auto": "cpu"}


@pytest.mark.skipif(not CPU_LIBRARY, reason="the CPU library is not built")
def test_the_kernels_of_the_backend_are_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours on the CPU runs the fused operator in every sample, and neither eager nor the reference does."""

    def counted(entrant: Entrant) -> int:
        names: list[str] = []

        class Names(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                names.append(str(func))
                return func(*args, **(kwargs or {}))

        work = workload()
        candidate = build(entrant, group(), "cpu", 1)
        with candidate.activate(), Names(), torch.no_grad():
            candidate.module(*work.inputs("cpu", "contiguous"))
        return sum(name.startswith("efpn.") for name in names)

    assert counted(Entrant(OURS, "contiguous", "cpu")) > 0
    assert counted(Entrant(OURS, "contiguous", "reference")) == 0
    assert counted(Entrant(EAGER, "contiguous")) == 0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return fake_time.install(monkeypatch)


def test_medians_are_the_lengths_of_the_work(
    monkeypatch: pytest.MonkeyPatch, time: FakeTime
) -> None:
    """Ours takes 2 + 4 ms, eager 3 + 9 ms: so say the rows, together and for backward alone."""
    lengths = {OURS: (0.002, 0.004), EAGER: (0.003, 0.009)}

    def planted(entrant: Entrant, group: Group, device: str, sets: int) -> Candidate:
        return Candidate(entrant, Work(time, *lengths[entrant.variant]))

    monkeypatch.setattr(harness_module, "build", planted)
    monkeypatch.setattr(harness_module.Errors, "compare", lambda *_: (0.0, 0.0))
    harness = Harness("cpu", ("reference",), lambda text: None)
    one = Group(workload(differentiable=(True, False)), TRAINING, "warm", "wall", (EAGER,), 1.0)
    rows, omissions = harness.measure(one)
    assert not omissions
    found = {(row.variant, row.direction): row for row in rows}
    assert found[OURS, TRAINING].median_s == pytest.approx(0.006)
    assert found[OURS, BACKWARD].median_s == pytest.approx(0.004)
    assert found[EAGER, TRAINING].median_s == pytest.approx(0.012)
    assert found[EAGER, BACKWARD].median_s == pytest.approx(0.009)
    ours = found[OURS, TRAINING]
    assert ours.calls_per_round == 4
    assert ours.q25_s == ours.min_s == pytest.approx(ours.median_s)
    # A round is four calls of ours and two of eager's: the budget of a second has 20 of them.
    assert ours.rounds == 20
    assert ours.first_call_s == pytest.approx(0.006)


def test_a_slow_candidate_is_slower_in_the_table() -> None:
    """On the real clock: ours with a nap of ten milliseconds."""

    with pytest.MonkeyPatch.context() as monkeypatch:
        nap = {OURS: changed(lambda x: (host_time.sleep(0.01), x)[1])}
        rows, _ = measure(monkeypatch, nap)
    members = list(rows.values())
    assert rows[OURS].median_s > 0.01
    assert rows[OURS].median_s > rows[EAGER].median_s
    shown = row_cells(rows[EAGER], members)["ours is"]
    assert float(shown.rstrip("x")) < 1


def test_candidates_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def noting(name: str) -> Callable[[nn.Module], nn.Module]:
        return changed(lambda x: (order.append(name), x)[1])

    rows, _ = measure(monkeypatch, {OURS: noting("ours"), EAGER: noting("eager")})
    calls = rows[OURS].calls_per_round, rows[EAGER].calls_per_round
    assert rows[OURS].rounds == rows[EAGER].rounds >= 3
    sampled = order[-sum(calls) * rows[OURS].rounds :]
    turns = [name for i, name in enumerate(sampled) if i == 0 or sampled[i - 1] != name]
    assert turns == ["eager", "ours"] * rows[OURS].rounds


def test_memory_stands_in_rows_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CEM keeps for backward: p_low's sum needs nothing; the context and the pooled values do."""
    rows, _ = measure(monkeypatch, {}, TRAINING)
    assert rows[EAGER].saved_bytes > 0
    assert rows[EAGER].peak_bytes > 0
    rows, _ = measure(monkeypatch, {}, FORWARD)
    assert rows[EAGER].saved_bytes is rows[EAGER].saved_own_bytes is None
