"""Who is wrong, slow or not repeatable is called so, and who ran is who was asked for."""

from __future__ import annotations

import time as host_time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import efpn_kernels
from benchmarks import harness as harness_module
from benchmarks.baselines import Candidate, Entrant, build, convolution_floor
from benchmarks.goals import goals_of
from benchmarks.harness import Harness
from benchmarks.records import (
    BACKWARD,
    COMPILE,
    EAGER,
    FLOOR,
    FORWARD,
    OURS,
    TRAINING,
    Omission,
    Row,
)
from benchmarks.tests import fake_time
from benchmarks.tests.fake_time import FakeTime, Work
from benchmarks.workload import Group, Workload

CPU_LIBRARY = torch._C._dispatch_has_kernel_for_dispatch_key("efpn::low_gate", "CPU")


def workload(**changes: object) -> Workload:
    settings = dict(
        operator="CEM",
        shape="small",
        arguments={"high_channels": 4, "low_channels": 4},
        input_shapes=((1, 4, 6, 5), (1, 4, 2, 2)),
        differentiable=(True, True),
        dtype=torch.float32,
        formats=("contiguous",),
    )
    return Workload(**settings | changes)


def group(
    direction: str = FORWARD, variants: tuple[str, ...] = (EAGER,), **changes: object
) -> Group:
    return Group(workload(**changes), direction, "warm", "wall", variants, 0.0)


def measure(
    monkeypatch: pytest.MonkeyPatch,
    modules: dict[str, Callable[[nn.Module], nn.Module]],
    direction: str = FORWARD,
    variants: tuple[str, ...] = (EAGER,),
    backends: tuple[str, ...] = ("reference",),
    **changes: object,
) -> tuple[dict[str, Row], dict[str, Omission]]:
    """Rows and omissions by variant, with some variants' modules replaced."""

    def planted(entrant: Entrant, group: Group, device: str, sets: int) -> Candidate:
        if entrant.variant == COMPILE:  # without its compiler, which takes its time
            candidate = build(Entrant(EAGER, entrant.memory_format), group, device, sets)
            candidate.entrant = entrant
        else:
            candidate = build(entrant, group, device, sets)
        if entrant.variant in modules:
            candidate.module = modules[entrant.variant](candidate.module)
        return candidate

    monkeypatch.setattr(harness_module, "build", planted)
    harness = Harness("cpu", backends, lambda text: None)
    rows, omissions = harness.measure(group(direction, variants, **changes))
    found = {row.variant: row for row in rows if row.direction == direction}
    return found, {one.variant: one for one in omissions}


class Changed(nn.Module):
    """A module whose result is changed by a function."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.change(self.module(*inputs))


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda module: Changed(module, change)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 1.001


# ---- accuracy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [lambda x: x * 1.001, lambda x: x + torch.nan, lambda x: x.roll(1, -1), torch.zeros_like],
    ids=["a thousandth", "nan", "shifted", "zero"],
)
@pytest.mark.parametrize("variant", [OURS, COMPILE])
def test_who_is_wrong_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, change: Callable, variant: str
) -> None:
    rows, omissions = measure(monkeypatch, {variant: changed(change)}, variants=(EAGER, COMPILE))
    assert variant not in rows
    assert "exceeds" in omissions[variant].reason
    assert rows.keys() == {EAGER, OURS, COMPILE} - {variant}


def test_ours_is_held_closer_than_a_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two percent in bfloat16 are five times eager's error: too much for ours, not for a compiler."""
    scaled = changed(lambda x: x * 1.02)
    rows, omissions = measure(
        monkeypatch,
        {OURS: scaled, COMPILE: scaled},
        variants=(EAGER, COMPILE),
        dtype=torch.bfloat16,
    )
    assert rows.keys() == {EAGER, COMPILE}
    assert "exceeds" in omissions[OURS].reason


def test_who_is_wrong_in_a_gradient_is_not_timed_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {OURS: changed(WrongGradient.apply)}
    rows, omissions = measure(monkeypatch, wrong, TRAINING)
    assert OURS not in rows
    assert "exceeds" in omissions[OURS].reason
    rows, _ = measure(monkeypatch, wrong, FORWARD)
    assert OURS in rows, "its forward pass is right"


def test_the_limit_is_ours_times_eagers_error_and_wider_for_a_baseline() -> None:
    from benchmarks.accuracy import BASELINE_SLACK, SLACK, judge

    work = workload()
    eps = torch.finfo(torch.float32).eps
    assert SLACK == 1.25
    assert BASELINE_SLACK == 16
    assert judge(1.25e-3 + eps / 2, 1e-3, work).passed
    assert not judge(1.25e-3 + 2 * eps, 1e-3, work).passed
    assert judge(1.5e-2, 1e-3, work, BASELINE_SLACK).passed
    assert not judge(float("nan"), 1e-3, work).passed
    assert judge(eps, 0.0, work).passed
    assert not judge(2 * eps, 0.0, work).passed


def test_the_oracle_is_the_reference_in_float64_and_errors_are_relative() -> None:
    from benchmarks.accuracy import max_error, oracle, output_gradient

    work = workload(dtype=torch.bfloat16)
    found = oracle(work, "cpu", TRAINING)
    assert {tensor.dtype for tensor in found} == {torch.float64}
    p_low, p_high = (x.double() for x in work.inputs("cpu", "contiguous"))
    project = work.master.project
    weight, bias = (p.detach().bfloat16().double() for p in (project.weight, project.bias))
    pooled = p_high.detach().amax((2, 3))
    context = (pooled @ weight[:, :, 0, 0].T + bias).relu()
    torch.testing.assert_close(found[0], p_low.detach() + context[:, :, None, None])
    # That of p_low is the gradient of the output itself, and ours is the same, rounded.
    like = output_gradient(found[0].bfloat16())
    assert torch.equal(found[1], like.double())
    # |(0, 0.5)| / |(3, 4)|, and the largest of several; NaN is larger than all.
    truth = torch.tensor([3.0, 4.0])
    assert max_error((truth, truth + torch.tensor([0, 0.5])), (truth, truth)) == pytest.approx(0.1)
    assert max_error((truth * torch.nan, truth), (truth, truth)) != max_error((truth,), (truth,))


# ---- repeatable, backends -----------------------------------------------------------------------------


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
    from torch.utils._python_dispatch import TorchDispatchMode

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


# ---- times --------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(harness_module, "oracle", lambda *_: None)
    monkeypatch.setattr(harness_module, "max_error", lambda *_: 0.0)
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
    from benchmarks.report import row_cells

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


# ---- the floor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gates", [1, 8])
@pytest.mark.parametrize("operator", ["EFPNBS", "FBSM"])
def test_the_floors_convolutions_counted(operator: str, gates: int) -> None:
    """Two of the full resolution, a third with a mask per channel; in training each has two gradients."""
    from torch.utils._python_dispatch import TorchDispatchMode

    N, C, H, W, D = 1, 8, 12, 10, 6
    work = workload(
        operator=operator,
        arguments={
            "high_channels": C,
            "low_channels": C,
            "hidden_channels": D,
            "gate_channels": gates,
        },
        input_shapes=((N, C, H, W), (N, C, 3, 2)),
        floor=convolution_floor,
    )
    one = Group(work, TRAINING, "warm", "wall", (EAGER, FLOOR), 0.0)
    candidate = build(Entrant(FLOOR, "contiguous"), one, "cpu", 1)
    calls: list[tuple[str, tuple, tuple, object]] = []
    masks = []

    class Convolutions(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = str(func)
            if name == "aten.convolution.default":
                calls.append((name, tuple(args[0].shape), tuple(args[1].shape), args[2]))
            elif name == "aten.convolution_backward.default":
                masks.append(list(args[-1]))
            return func(*args, **(kwargs or {}))

    inputs = candidate.adapt(work.inputs("cpu", "contiguous"))
    with Convolutions():
        outputs = candidate.module(*inputs)
        leaves = [*inputs, *candidate.parameters]
        torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])
    maps = (N, C, H, W)
    expected = [((D, C, 3, 3), maps), ((C, C, 3, 3), maps)]
    if gates > 1:
        expected.append(((C, C, 3, 3), maps))
    assert [(weight, x) for _, x, weight, _ in calls] == expected
    assert {bias for *_, bias in calls} == {None}
    assert masks == [[True, True, False]] * len(expected)
    # The weights are the block's own, padded to the same size.
    block = work.master
    fbsm = getattr(block, "fbsm", block)
    x = inputs[0].detach()
    convolutions = [fbsm.low_conv, fbsm.refine_conv, fbsm.fuse_conv][: len(expected)]
    for out, conv in zip(outputs, convolutions, strict=True):
        torch.testing.assert_close(out, nn.functional.conv2d(x, conv.weight, padding=1))
