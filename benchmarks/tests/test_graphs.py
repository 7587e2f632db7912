"""A captured graph reads addresses: whoever replays it has to own what lives there."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch

from benchmarks.baselines import Entrant, build, convolution_floor
from benchmarks.contestant import Check
from benchmarks.harness import Harness
from benchmarks.records import COPY, EAGER, FLOOR, FORWARD, OURS, TRAINING
from benchmarks.step import Step
from benchmarks.tests.capture import Capture, stub
from benchmarks.timers import GraphSampler
from benchmarks.workload import Group, Workload


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Capture]:
    return stub(monkeypatch)


def workload(**changes: object) -> Workload:
    settings = dict(
        operator="FBSM",
        shape="small",
        arguments={"high_channels": 4, "low_channels": 4},
        input_shapes=((1, 4, 8, 8), (1, 4, 2, 2)),
        differentiable=(True, True),
        dtype=torch.float32,
        formats=("contiguous",),
        floor=convolution_floor,
        traffic={FORWARD: 4096, TRAINING: 8192},
    )
    return Workload(**settings | changes)


def test_the_stand_in_sees_what_dies(captures: list[Capture]) -> None:
    """A sampler that lets go of what it captured is found out, or no test here means anything."""
    kept, gone = torch.ones(3), torch.ones(3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _ = (kept + gone) * 2
    assert len(graph.reads) == 2
    graph.replay()
    del gone
    assert graph.dead == 1
    with pytest.raises(AssertionError, match="1 of 2"):
        graph.replay()


@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
@pytest.mark.parametrize("sets", [1, 3])
def test_the_samplers_of_a_group_keep_what_their_graphs_read(
    captures: list[Capture], direction: str, sets: int
) -> None:
    """Every candidate's, while the graphs of the next ones are captured and memory is given back."""
    harness = Harness("cpu", ("reference",), lambda text: None)
    work = workload()
    group = Group(work, direction, "cold", "graph", (EAGER, FLOOR, COPY), 1.0)
    contestants = []
    for entrant in (
        Entrant(EAGER, "contiguous"),
        Entrant(OURS, "contiguous", "reference"),
        Entrant(FLOOR, "contiguous"),
        Entrant(COPY, "contiguous"),
    ):
        inputs = work.input_sets("cpu", "contiguous", sets)
        candidate = build(entrant, group, "cpu", sets)
        contestants.append(harness._ready(candidate, Check(1e-3, 1e-3, None, None), group, inputs))
        del inputs, candidate
        harness._release()
    gc.collect()
    assert len(captures) == len(contestants)
    assert [len(capture.reads) > sets for capture in captures[:3]] == [True] * 3
    assert [capture.dead for capture in captures] == [0] * len(captures)
    for one in contestants:
        one.sampler()
    assert all(capture.replays for capture in captures)


def test_a_sampler_alone_keeps_the_gradient_that_its_graph_reads(captures: list[Capture]) -> None:
    """Nobody but the step knows the gradient of the outputs: the clock must not rely on its caller."""
    work = workload()
    group = Group(work, TRAINING, "warm", "graph", (EAGER,), 1.0)
    candidate = build(Entrant(EAGER, "contiguous"), group, "cpu", 1)
    step = Step(candidate, work.input_sets("cpu", "contiguous", 1), TRAINING)
    sampler = GraphSampler(step, 1e-3, 1)
    del step, candidate
    gc.collect()
    assert sampler().total == pytest.approx(1e-3 / sampler.replays)


def test_the_table_of_kernels_keeps_what_its_graphs_read(captures: list[Capture]) -> None:
    """Its calls are closures that nobody else holds."""
    gpu_kernels = pytest.importorskip("benchmarks.kernels.gpu_kernels")
    calls = [partial(torch.mul, torch.ones(2), torch.ones(2)) for _ in range(3)]
    gpu_kernels.graph_microseconds(calls)
    assert captures[0].replays == gpu_kernels.REPLAYS + 2
