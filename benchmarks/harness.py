"""Check, warm up, measure interleaved: A B A B ... in one process, so that drift hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import efpn_kernels

from .accuracy import BASELINE_SLACK, REDUCED_SLACK, SLACK, Errors, judge, run
from .baselines import Candidate, Entrant, Inputs, build, entrants
from .contestant import Check, Contestant, NotTimed, omission, reason_of, rows_of
from .memory import keep_freed_memory, measure_memory
from .records import (
    COMPILE,
    COMPILE_MAX,
    COPY,
    EAGER,
    FORWARD,
    OURS,
    REDUCED,
    RIVALS,
    TRAINING,
    Omission,
    Row,
)
from .resume import DeviceLost, poisoned
from .rivals import settle
from .step import Step
from .timers import (
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
SLACKS = {OURS: SLACK, REDUCED: REDUCED_SLACK}

Progress = Callable[[str], None]
Notice = Callable[[Group, Entrant], None]


class Harness:
    """Measures groups; remembers the candidates and checks of the latest workload."""

    def __init__(
        self,
        device: str,
        backends: tuple[str, ...],
        progress: Progress,
        notice: Notice = lambda group, entrant: None,
    ) -> None:
        self.device = device
        self.notice = notice
        if device == "cuda":
            use_capturing_stream()
        self.backends = backends
        self.progress = progress
        self.rows: list[Row] = []
        self.omissions: list[Omission] = []
        self._enter(None)

    def measure(
        self, group: Group, without: Sequence[Entrant] = ()
    ) -> tuple[list[Row], list[Omission]]:
        """Check every candidate, time those that pass, and return what came of it.

        Args:
            group: what to measure.
            without: who has been left out before.

        Raises:
            DeviceLost: nothing of the group can be measured in this process any more; who lost it has
                been added to :attr:`omissions`.
        """
        if group.workload is not self._workload:
            self._enter(group.workload)
        keep_freed_memory(group.cache == "warm")
        omissions: list[Omission] = []
        contestants = self._contestants(group, without, omissions)
        self._interleave(group, contestants, omissions)
        rows = [row for one in contestants for row in rows_of(group, one)]
        self.rows += rows
        self.omissions += omissions
        self._release()
        return rows, omissions

    def _enter(self, workload: Workload | None) -> None:
        self._workload = workload
        self._candidates: dict[Entrant, Candidate] = {}
        self._errors = Errors(workload, self.device) if workload else None
        self._checks: dict[tuple[Entrant, str], Check] = {}
        torch.compiler.reset()
        self._release()

    def _release(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _contestants(
        self, group: Group, without: Sequence[Entrant], omissions: list[Omission]
    ) -> list[Contestant]:
        work = group.workload
        sets = cold_sets(work.input_bytes, self.device) if group.cache == "cold" else 1
        inputs = {name: work.input_sets(self.device, name, sets) for name in work.formats}
        contestants = []
        for entrant in entrants(group, self.backends):
            if entrant in without:
                continue
            self.progress(f"checking {entrant}")
            self.notice(group, entrant)
            try:
                candidate = self._candidate(entrant, group, sets)
                own_inputs = inputs[entrant.memory_format]
                check = self._checked(candidate, group, own_inputs[0])
                contestants.append(self._ready(candidate, check, group, own_inputs))
            except Exception as error:  # one candidate's failure must not lose the others
                self._leave_out(group, entrant, error, omissions)
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
            slack = slack_of(candidate)
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
            error, eager_error = self._errors.compare(
                candidate, self._eager(candidate, direction), direction, slack_of(candidate)
            )
            if variant in SLACKS:
                ran_on = efpn_kernels.explain(*inputs).backend
                again = run(candidate.module, inputs, candidate.parameters, direction)
                repeatable = all(map(_same_bits, results, again))
                del again
            del results
        else:
            first_call = estimate(Step(candidate, [inputs], direction), self.device)
        step = Step(candidate, [inputs], direction)
        start = time.perf_counter()
        # Hooks on saved tensors would make torch.compile compile once more; an engine's memory is its own.
        if variant not in (COMPILE, COMPILE_MAX, *RIVALS):
            backward = step.gradient if step.backward else None
            memory = measure_memory(step.forward, backward, step.sets[0], candidate.parameters)
        warm_call = time.perf_counter() - start
        if memory is None or warm_call < LONG_CALL_S:
            warm_call = min(estimate(step, self.device) for _ in range(3))
        return Check(first_call, warm_call, error, eager_error, repeatable, memory, ran_on)

    def _eager(self, candidate: Candidate, direction: str) -> Candidate:
        eager = Entrant(EAGER, candidate.entrant.memory_format)
        if candidate.entrant == eager:
            return candidate
        if (eager, direction) not in self._checks:
            raise NotTimed("not timed: eager, whose error is the measure, was not checked")
        return self._candidates[eager]

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
            self.notice(group, candidate.entrant)
            try:
                enabled = training and candidate.differentiable
                settle(candidate.entrant.variant)
                with candidate.activate(), torch.set_grad_enabled(enabled):
                    one.samples.append(one.sampler())
                settle(candidate.entrant.variant)
            except Exception as error:  # as above
                contestants.remove(one)
                self._leave_out(group, candidate.entrant, error, omissions)

    def _leave_out(
        self, group: Group, entrant: Entrant, error: Exception, omissions: list[Omission]
    ) -> None:
        omissions.append(omission(group, entrant, reason_of(error)))
        if poisoned(self.device):
            self.omissions += omissions
            raise DeviceLost(f"{entrant}: {omissions[-1].reason}") from error


def slack_of(candidate: Candidate) -> float:
    """How many times eager's error a candidate may have."""
    return SLACKS.get(candidate.entrant.variant, BASELINE_SLACK)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first, second) or bool(((first == second) | (first != first)).all())
