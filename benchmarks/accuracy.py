"""The float64 oracle, and the rule that a candidate has to meet before it is timed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .baselines import Candidate, Entrant, Inputs
from .records import TRAINING
from .workload import DRAWS, Workload

SLACK = 1.25
# Of ours where reduced precision is asked for.
REDUCED_SLACK = 6.0
# A baseline may be less exact than eager; it is left out where it is wrong.
BASELINE_SLACK = 16.0


@dataclass(frozen=True)
class Verdict:
    """The error of a candidate beside eager's, and whether it may be timed."""

    error: float
    eager_error: float
    limit: float

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return self.error <= self.limit

    @property
    def reason(self) -> str:
        """For the report."""
        return (
            f"not timed: error {self.error:.2e} against the float64 oracle exceeds "
            f"{self.limit:.2e} (eager: {self.eager_error:.2e})"
        )


def judge(error: float, eager_error: float, workload: Workload, slack: float = SLACK) -> Verdict:
    """The numerics rule: at most eager's error in the same dtype times the slack, plus one ulp."""
    limit = slack * eager_error + torch.finfo(workload.dtype).eps
    return Verdict(error, eager_error, limit)


class Errors:
    """The errors of a workload's candidates, over several draws of its inputs.

    A sum whose terms cancel is right to the last bit in one draw and off by a hundred units in the next,
    in eager as in ours: on the map of the smoke run one draw in ten breaks the rule by luck, of sixteen taken
    together none in a hundred. Of large inputs a draw is enough, unless it breaks the rule.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload = workload
        self.device = device
        self._squares: dict[tuple[Entrant, str], list[Tensor]] = {}
        self._first_oracles: dict[str, Inputs] = {}

    def compare(
        self, candidate: Candidate, eager: Candidate, direction: str, slack: float
    ) -> tuple[float, float]:
        """The error of a candidate, and eager's in the same draws."""
        both = candidate, eager
        for draws in (self.workload.draws, DRAWS):
            self._take(both, direction, draws)
            found = tuple(pooled(self._squares[one.entrant, direction][:draws]) for one in both)
            if judge(*found, self.workload, slack).passed:
                break
        return found

    def _take(self, candidates: Sequence[Candidate], direction: str, draws: int) -> None:
        for draw in range(draws):
            truth = None
            for one in candidates:
                squares = self._squares.setdefault((one.entrant, direction), [])
                if len(squares) > draw:
                    continue
                if truth is None:
                    truth = self._oracle(direction, draw)
                inputs = self.workload.inputs(self.device, one.entrant.memory_format, draw)
                with one.activate(), torch.set_grad_enabled(direction == TRAINING):
                    results = run(one.module, inputs, one.parameters, direction, draw)
                squares.append(squared_norms(results, truth))

    def _oracle(self, direction: str, draw: int) -> Inputs:
        if draw:  # those of large inputs would fill the memory
            return oracle(self.workload, self.device, direction, draw)
        if direction not in self._first_oracles:
            self._first_oracles[direction] = oracle(self.workload, self.device, direction)
        return self._first_oracles[direction]


def squared_norms(results: Inputs, expected: Inputs) -> Tensor:
    """``[results, 2]``: ``|result - expected|^2`` and ``|expected|^2``."""
    pairs = zip(results, expected, strict=True)
    norms = [[_norm(result.double() - truth), _norm(truth)] for result, truth in pairs]
    return torch.tensor(norms, dtype=torch.float64).square()


def pooled(draws: Sequence[Tensor]) -> float:
    """``max_i |results_i - expected_i| / |expected_i|``, the draws of a result taken as one; NaN wins."""
    difference, truth = torch.stack(list(draws)).sum(0).unbind(1)
    return float((difference / truth.clamp_min(1e-300)).sqrt().max())


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def run(
    module: nn.Module,
    inputs: Inputs,
    parameters: Sequence[Tensor],
    direction: str,
    draw: int = 0,
) -> Inputs:
    """The output, and in training the gradients of the inputs and of the parameters."""
    if direction != TRAINING:
        with torch.no_grad():
            return (module(*inputs),)
    output = module(*inputs)
    leaves = leaves_of(inputs, parameters)
    return (output.detach(), *torch.autograd.grad(output, leaves, output_gradient(output, draw)))


def leaves_of(inputs: Inputs, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that get a gradient."""
    return [tensor for tensor in (*inputs, *parameters) if tensor.requires_grad]


def output_gradient(output: Tensor, draw: int = 0) -> Tensor | None:
    """A fixed random gradient in the output's dtype and format; None for a scalar."""
    if output.dim() == 0:
        return None
    generator = torch.Generator(output.device).manual_seed(2 + 2 * draw)
    values = torch.randn(output.shape, generator=generator, device=output.device)
    return torch.empty_like(output).copy_(values)


def oracle(workload: Workload, device: str, direction: str, draw: int = 0) -> Inputs:
    """The reference in float64 on the same rounded inputs and weights."""
    module = copy.deepcopy(workload.master).to(device)
    if workload.cast_parameters:
        module = module.to(workload.dtype)
    module = module.double()
    inputs = tuple(
        tensor.detach().double().requires_grad_(tensor.requires_grad)
        for tensor in workload.inputs(device, "contiguous", draw)
    )
    # Searching for the fastest float64 convolution takes longer than running any of them.
    with torch.backends.cudnn.flags(benchmark=False):
        if direction != TRAINING:
            return run(module, inputs, (), direction)
        output = module(*inputs)
        gradient = output_gradient(output.detach().to(workload.dtype), draw)
        gradient = None if gradient is None else gradient.double()
        leaves = leaves_of(inputs, tuple(module.parameters()))
        return (output.detach(), *torch.autograd.grad(output, leaves, gradient))
