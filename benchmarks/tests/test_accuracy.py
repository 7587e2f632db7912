"""Who is wrong is not timed, and the oracle is what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.accuracy import BASELINE_SLACK, SLACK, judge, max_error, oracle, output_gradient
from benchmarks.records import (
    COMPILE,
    EAGER,
    FORWARD,
    OURS,
    TRAINING,
)
from benchmarks.tests.planted import changed, measure, workload


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * 1.001


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
