"""Samplers on work of known length, and what is cold."""

from __future__ import annotations

import pytest
import torch

from benchmarks import timers
from benchmarks.baselines import Candidate, Entrant
from benchmarks.records import EAGER, FORWARD, TRAINING
from benchmarks.step import Step
from benchmarks.tests import fake_time
from benchmarks.tests.fake_time import FakeTime, Work


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return fake_time.install(monkeypatch)


def step(work: Work, direction: str, sets: int = 1) -> Step:
    candidate = Candidate(Entrant(EAGER, "contiguous"), work)
    inputs = [(torch.ones(3, requires_grad=True),) for _ in range(sets)]
    return Step(candidate, inputs, direction)


def test_the_hosts_clock_splits_a_training_step(time: FakeTime) -> None:
    """3 ms forward and 5 ms backward; three calls make a sample that is long enough to read."""
    work = Work(time, 0.003, 0.005)
    sampler = timers.make_sampler("wall", step(work, TRAINING), 0.008, 1)
    assert sampler.calls == 3
    sample = sampler()
    assert work.calls == 3
    assert sample.total == pytest.approx(0.008)
    assert sample.forward == pytest.approx(0.003)


def test_a_forward_pass_is_not_split(time: FakeTime) -> None:
    sample = timers.make_sampler("wall", step(Work(time, 0.05), FORWARD), 0.05, 1)()
    assert sample.total == pytest.approx(0.05)
    assert sample.forward is None


def test_events_split_a_step_that_is_long_enough(time: FakeTime) -> None:
    sampler = timers.make_sampler("events", step(Work(time, 0.003, 0.005), TRAINING), 0.008, 1)
    sample = sampler()
    assert (sample.total, sample.forward) == (pytest.approx(0.008), pytest.approx(0.003))
    short = timers.make_sampler("events", step(Work(time, 1e-4, 2e-4), TRAINING), 3e-4, 1)
    assert short.calls == 17
    sample = short()
    assert (sample.total, sample.forward) == (pytest.approx(3e-4), None)


@pytest.mark.parametrize("sets", [1, 4])
def test_a_graphs_sample_is_of_one_call(time: FakeTime, sets: int) -> None:
    work = Work(time, 0.0001, 0.0003)
    sampler = timers.make_sampler("graph", step(work, TRAINING, sets), 0.0004, sets)
    assert sampler.calls == sets
    before = work.calls
    sample = sampler()
    assert work.calls == before, "a replay calls nothing"
    assert sample.total == pytest.approx(0.0004)
    assert sampler.replays * sets * 0.0004 >= timers.MIN_SAMPLE_S["graph"]


def test_every_set_of_inputs_has_its_turn(time: FakeTime) -> None:
    seen = []

    class Noting(Work):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.data_ptr())
            return super().forward(x)

    one = step(Noting(time, 1.0), FORWARD, 3)
    for _ in range(6):
        one(lambda: None)
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]


def test_a_cold_sets_memory_is_kept_until_its_next_turn(time: FakeTime) -> None:
    """Or the next result would be written where this one still is in the cache."""
    one = step(Work(time, 1.0), FORWARD, 3)
    results = [one(lambda: None)[0].data_ptr() for _ in range(3)]
    assert len(set(results)) == 3
    assert len(one.kept) == 3
    assert len(step(Work(time, 1.0), FORWARD).kept) == 0


@pytest.mark.parametrize(("device", "times"), [("cpu", 2), ("cuda", 4)])
def test_cold_sets_are_more_than_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch, device: str, times: int
) -> None:
    monkeypatch.setattr(timers, "cache_bytes", lambda device: 1000)
    for size in (1, 99, 400, 100_000):
        sets = timers.cold_sets(size, device)
        assert sets >= 2
        assert sets * size >= times * 1000
        assert sets == 2 or (sets - 1) * size < times * 1000, "no more than it takes"


def test_an_estimate_is_of_one_call(time: FakeTime) -> None:
    work = Work(time, 0.25, 0.5)
    assert timers.estimate(step(work, TRAINING), "cpu") == pytest.approx(0.75)
    assert work.calls == 1
