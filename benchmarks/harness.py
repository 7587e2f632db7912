"""Check, warm up, measure interleaved: A B A B ... in one process, so that drift hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles

import torch
from torch import Tensor

import efpn_kernels

from .accuracy import BASELINE_SLACK, SLACK, judge, max_error, oracle, run
from .baselines import Candidate, Entrant, Inputs, build, entrants
from .memory import Memory, keep_freed_memory, measure_memory
from .records import (
    AUTOGRAD,
    BACKWARD,
    COMPILE,
    COMPILE_MAX,
    COPY,
    EAGER,
    FORWARD,
    OURS,
    TRAINING,
    Omission,
    Row,
)
from .step import Step
from .timers import (
    Sample,
    Sampler,
    cold_sets,
    estimate,
    make_sampler,
    synchronize,
    use_capturing_stream,
)
from .workload import Group, Workload

MIN_ROUNDS, MAX_ROUNDS = 3, 40
# A call this long needs no further warm-up for a good estimate.
LONG_CALL_S = 0.25

Progress = Callable[[str], None]


class NotTimed(Exception):
    """The reason why a candidate is left out."""


@dataclass(frozen=True)
class Check:
    """What is known of a candidate before it is timed."""

    first_call_s: float
    warm_call_s: float
    error: float | None
    eager_error: float | None
    repeatable: bool | None = None
    memory: Memory | None = None
    ran_on: str | None = None


@dataclass(eq=False)
class Contestant:
    """A candidate that passed its check, with the samples taken so far."""

    candidate: Candidate
    check: Check
    sampler: Sampler
    samples: list[Sample] = field(default_factory=list)


class Harness:
    """Measures groups; remembers the candidates and checks of the latest workload."""

    def __init__(self, device: str, backends: tuple[str, ...], progress: Progress) -> None:
        self.device = device
        if device == "cuda":
            use_capturing_stream()
        self.backends = backends
        self.progress = progress
        self.rows: list[Row] = []
        self.omissions: list[Omission] = []
        self._enter(None)

    def measure(self, group: Group) -> tuple[list[Row], list[Omission]]:
        """Check every candidate, time those that pass, and return what came of it."""
        if group.workload is not self._workload:
            self._enter(group.workload)
        keep_freed_memory(group.cache == "warm")
        omissions: list[Omission] = []
        contestants = self._contestants(group, omissions)
        self._interleave(group, contestants, omissions)
        rows = [row for one in contestants for row in _rows(group, one)]
        self.rows += rows
        self.omissions += omissions
        self._release()
        return rows, omissions

    def _enter(self, workload: Workload | None) -> None:
        self._workload = workload
        self._candidates: dict[Entrant, Candidate] = {}
        self._oracles: dict[str, Inputs] = {}
        self._checks: dict[tuple[Entrant, str], Check] = {}
        torch.compiler.reset()
        self._release()

    def _release(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _contestants(self, group: Group, omissions: list[Omission]) -> list[Contestant]:
        work = group.workload
        sets = cold_sets(work.input_bytes, self.device) if group.cache == "cold" else 1
        inputs = {name: work.input_sets(self.device, name, sets) for name in work.formats}
        contestants = []
        for entrant in entrants(group, self.backends):
            self.progress(f"checking {entrant}")
            try:
                candidate = self._candidate(entrant, group, sets)
                own_inputs = inputs[entrant.memory_format]
                check = self._checked(candidate, group, own_inputs[0])
                contestants.append(self._ready(candidate, check, group, own_inputs))
            except Exception as error:  # one candidate's failure must not lose the others
                omissions.append(_omission(group, entrant, error))
                self._release()
        return contestants

    def _candidate(self, entrant: Entrant, group: Group, sets: int) -> Candidate:
        if entrant.variant == COPY:  # its size depends on the group
            return build(entrant, group, self.device, sets)
        if entrant not in self._candidates:
            self._candidates[entrant] = build(entrant, group, self.device, sets)
        return self._candidates[entrant]

    def _checked(self, candidate: Candidate, group: Group, inputs: Inputs) -> Check:
        key = (candidate.entrant, group.direction)
        if candidate.entrant.variant == COPY:
            return self._check_copy(candidate, inputs)
        if key not in self._checks:
            with candidate.activate(), torch.set_grad_enabled(group.direction == TRAINING):
                self._checks[key] = self._check(candidate, group, inputs)
        check = self._checks[key]
        if check.error is not None:
            slack = SLACK if candidate.entrant.variant == OURS else BASELINE_SLACK
            verdict = judge(check.error, check.eager_error, group.workload, slack)
            if not verdict.passed:
                raise NotTimed(verdict.reason)
        return check

    def _check_copy(self, candidate: Candidate, inputs: Inputs) -> Check:
        step = Step(candidate, [inputs], FORWARD)
        first, *warm = (estimate(step, self.device) for _ in range(4))
        return Check(first, min(warm), None, None)

    def _check(self, candidate: Candidate, group: Group, inputs: Inputs) -> Check:
        direction, variant = group.direction, candidate.entrant.variant
        error = eager_error = repeatable = memory = ran_on = None
        start = time.perf_counter()
        if candidate.checked:
            results = run(candidate.module, inputs, candidate.parameters, direction)
            synchronize(self.device)
            first_call = time.perf_counter() - start
            error = max_error(results, self._oracle(direction))
            eager_error = self._eager_error(candidate, direction, error)
            if variant == OURS:
                ran_on = efpn_kernels.explain(*inputs).backend
                again = run(candidate.module, inputs, candidate.parameters, direction)
                repeatable = all(map(_same_bits, results, again))
                del again
            del results
        else:
            first_call = estimate(Step(candidate, [inputs], direction), self.device)
        step = Step(candidate, [inputs], direction)
        start = time.perf_counter()
        # Hooks on saved tensors would make torch.compile compile once more.
        if variant not in (COMPILE, COMPILE_MAX):
            backward = step.gradient if step.backward else None
            memory = measure_memory(step.forward, backward, step.sets[0], candidate.parameters)
        warm_call = time.perf_counter() - start
        if memory is None or warm_call < LONG_CALL_S:
            warm_call = min(estimate(step, self.device) for _ in range(3))
        return Check(first_call, warm_call, error, eager_error, repeatable, memory, ran_on)

    def _oracle(self, direction: str) -> Inputs:
        if direction not in self._oracles:
            self._oracles[direction] = oracle(self._workload, self.device, direction)
        return self._oracles[direction]

    def _eager_error(self, candidate: Candidate, direction: str, error: float) -> float:
        eager = Entrant(EAGER, candidate.entrant.memory_format)
        if candidate.entrant == eager:
            return error
        check = self._checks.get((eager, direction))
        if check is None:
            raise NotTimed("not timed: eager, whose error is the measure, was not checked")
        return check.error

    def _ready(
        self, candidate: Candidate, check: Check, group: Group, sets: list[Inputs]
    ) -> Contestant:
        step = Step(candidate, sets, group.direction)
        with candidate.activate(), torch.set_grad_enabled(step.backward):
            sampler = make_sampler(group.clock, step, check.warm_call_s, len(sets))
        return Contestant(candidate, check, sampler)

    def _interleave(
        self, group: Group, contestants: list[Contestant], omissions: list[Omission]
    ) -> None:
        rounds = MIN_ROUNDS
        gc.disable()
        try:
            start = time.perf_counter()
            done = 0
            while done < rounds:
                self._round(group, contestants, omissions, f"round {done + 1}/{rounds}")
                done += 1
                if done == 1:
                    seconds = max(time.perf_counter() - start, 1e-9)
                    rounds = min(max(int(group.budget_s / seconds), MIN_ROUNDS), MAX_ROUNDS)
        finally:
            gc.enable()

    def _round(
        self, group: Group, contestants: list[Contestant], omissions: list[Omission], title: str
    ) -> None:
        training = group.direction == TRAINING
        for one in tuple(contestants):
            candidate = one.candidate
            self.progress(f"{title}, {candidate.entrant}")
            try:
                enabled = training and candidate.differentiable
                with candidate.activate(), torch.set_grad_enabled(enabled):
                    one.samples.append(one.sampler())
            except Exception as error:  # as above
                contestants.remove(one)
                omissions.append(_omission(group, candidate.entrant, error))


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first, second) or bool(((first == second) | (first != first)).all())


def _omission(group: Group, entrant: Entrant, error: Exception) -> Omission:
    reason = str(error) if isinstance(error, NotTimed) else f"{type(error).__name__}: {error}"
    key = group.key
    return Omission(
        key.operator,
        key.shape,
        key.dtype,
        key.direction,
        key.cache,
        key.clock,
        entrant.variant,
        entrant.memory_format,
        entrant.backend,
        reason.strip().splitlines()[0][:200],
    )


def _rows(group: Group, one: Contestant) -> list[Row]:
    rows = [_row(group, one, group.direction, [sample.total for sample in one.samples])]
    if all(sample.forward is not None for sample in one.samples):
        backward = [sample.total - sample.forward for sample in one.samples]
        rows.append(_row(group, one, BACKWARD, backward))
    return rows


def _row(group: Group, one: Contestant, direction: str, seconds: list[float]) -> Row:
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    key, entrant, check = group.key, one.candidate.entrant, one.check
    memory = check.memory
    traffic = group.workload.traffic.get(direction)
    return Row(
        operator=key.operator,
        shape=key.shape,
        dtype=key.dtype,
        direction=direction,
        cache=key.cache,
        clock=key.clock,
        variant=entrant.variant,
        memory_format=entrant.memory_format,
        backend=entrant.backend,
        ran_on=check.ran_on,
        median_s=median,
        q25_s=low,
        q75_s=high,
        min_s=min(seconds),
        samples_s=tuple(seconds),
        calls_per_round=one.sampler.calls,
        first_call_s=check.first_call_s,
        error=check.error,
        eager_error=check.eager_error,
        repeatable=check.repeatable,
        saved_bytes=memory.saved if memory and direction == TRAINING else None,
        saved_own_bytes=memory.saved_own if memory and direction == TRAINING else None,
        peak_bytes=memory.peak if memory and direction != BACKWARD else None,
        traffic_bytes=None if entrant.variant == AUTOGRAD else traffic,
    )
