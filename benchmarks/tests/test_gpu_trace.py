"""The tables of a trace, from events that are known by hand."""

from __future__ import annotations

import pytest

from benchmarks.kernels import gpu_trace


def event(name: str, cat: str, ts: float, dur: float, tid: int, correlation: int = 0) -> dict:
    args = {"correlation": correlation} if correlation else {}
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "args": args}


def step(start: float, first: int, kernels: list[tuple[str, float, float, int]]) -> list[dict]:
    """A step of 100 us on the host; a launch of 2 us each 10 us, by the thread that is named."""
    events = [event(gpu_trace.STEP, "user_annotation", start, 100, 1)]
    for i, (name, ts, dur, thread) in enumerate(kernels):
        launch = start + 10 * i
        events.append(event("aten::op", "cpu_op", launch - 1, 5, thread))
        events.append(event("cudaLaunchKernel", "cuda_runtime", launch, 2, thread, first + i))
        events.append(event(name, "kernel", start + ts, dur, 7, first + i))
    return events


# Two kernels by thread 1, one by autograd's thread 9. The second starts 3 us after the first has ended,
# and the third before the second has; it runs on after the host's step has ended.
KERNELS = [("gate", 20.0, 10.0, 1), ("apply", 33.0, 30.0, 1), ("backward", 60.0, 50.0, 9)]
EVENTS = [
    *step(1000, 1, KERNELS),
    *step(2000, 11, KERNELS),
    *step(3000, 21, KERNELS[:2]),  # a step that is not like most
    {"ph": "i", "name": "an instant", "ts": 0},
    {"ph": "X", "name": "of no category", "ts": 1010, "dur": 3, "tid": 1},
    event("cudaLaunchKernel", "cuda_runtime", 500, 2, 1, 99),  # before the first step
    event("warm up", "kernel", 510, 5, 7, 99),
]


def test_kernels_in_order_with_gaps_and_lags() -> None:
    rows = gpu_trace.summary(EVENTS)["kernels"]
    assert [row["kernel"] for row in rows] == ["gate", "apply", "backward"]
    assert [row["us"] for row in rows] == [10, 30, 50]
    assert [row["gap_us"] for row in rows] == [0, 3, 0]
    # Launched 0, 10 and 20 us into the step.
    assert [row["lag_us"] for row in rows] == [20, 23, 40]
    assert [row["thread"] for row in rows] == [1, 1, 9]


def test_sums_and_lanes_of_a_step() -> None:
    found = gpu_trace.summary(EVENTS)
    assert found["steps"] == 3
    assert (found["launches"], found["kernels_us"], found["gaps_us"]) == (3, 90, 3)
    main, autograd = found["lanes"]
    assert (main["thread"], autograd["thread"]) == (1, 9)
    # Thread 1 launches twice in each of three steps, and once before; operators hide the launches.
    assert main["launches"] == pytest.approx(7 / 3)
    assert main["busy_us"] == pytest.approx((6 * 5 + 2) / 3)
    assert main["launching_us"] == pytest.approx(14 / 3)
    assert autograd["busy_us"] == pytest.approx(10 / 3)


def test_an_operator_s_own_time_is_without_what_it_calls() -> None:
    operator, launch = gpu_trace.summary(EVENTS)["operators"]
    # Eight launches of 2 us, each within an operator of 5 us, and one alone.
    assert (operator["operator"], operator["calls"]) == ("aten::op", pytest.approx(8 / 3))
    assert operator["own_us"] == pytest.approx(8 * 3 / 3)
    assert (launch["operator"], launch["calls"]) == ("cudaLaunchKernel", pytest.approx(9 / 3))
    assert launch["own_us"] == pytest.approx(9 * 2 / 3)


def test_intervals_that_overlap_are_covered_once() -> None:
    assert gpu_trace.covered([(0, 10), (2, 3), (8, 12), (20, 21)]) == 13
    assert gpu_trace.covered([]) == 0


def test_both_tables_are_printed() -> None:
    text = gpu_trace.markdown("ours", gpu_trace.summary(EVENTS))
    assert "3 launches a step, 90 us of kernels, 3 us of gaps" in text
    assert "| apply " in text
    assert "| aten::op " in text
    assert "autograd" not in text
