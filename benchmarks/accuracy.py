"""The float64 oracle, and the rule that a candidate has to meet before it is timed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .baselines import Inputs
from .records import TRAINING
from .workload import Workload

SLACK = 1.25
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


def run(module: nn.Module, inputs: Inputs, parameters: Sequence[Tensor], direction: str) -> Inputs:
    """The output, and in training the gradients of the inputs and of the parameters."""
    if direction != TRAINING:
        with torch.no_grad():
            return (module(*inputs),)
    output = module(*inputs)
    leaves = leaves_of(inputs, parameters)
    return (output.detach(), *torch.autograd.grad(output, leaves, output_gradient(output)))


def leaves_of(inputs: Inputs, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that get a gradient."""
    return [tensor for tensor in (*inputs, *parameters) if tensor.requires_grad]


def output_gradient(output: Tensor) -> Tensor | None:
    """A fixed random gradient in the output's dtype and format; None for a scalar."""
    if output.dim() == 0:
        return None
    generator = torch.Generator(output.device).manual_seed(2)
    values = torch.randn(output.shape, generator=generator, device=output.device)
    return torch.empty_like(output).copy_(values)


def oracle(workload: Workload, device: str, direction: str) -> Inputs:
    """The reference in float64 on the same rounded inputs and weights."""
    module = copy.deepcopy(workload.master).to(device)
    if workload.cast_parameters:
        module = module.to(workload.dtype)
    module = module.double()
    inputs = tuple(
        tensor.detach().double().requires_grad_(tensor.requires_grad)
        for tensor in workload.inputs(device, "contiguous")
    )
    # Searching for the fastest float64 convolution takes longer than running any of them.
    with torch.backends.cudnn.flags(benchmark=False):
        if direction != TRAINING:
            return run(module, inputs, (), direction)
        output = module(*inputs)
        gradient = output_gradient(output.detach().to(workload.dtype))
        gradient = None if gradient is None else gradient.double()
        leaves = leaves_of(inputs, tuple(module.parameters()))
        return (output.detach(), *torch.autograd.grad(output, leaves, gradient))


def max_error(results: Inputs, expected: Inputs) -> float:
    """``max_i |results_i - expected_i| / |expected_i|``; NaN wins."""
    errors = [_relative(result, truth) for result, truth in zip(results, expected, strict=True)]
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _relative(result: Tensor, truth: Tensor) -> float:
    scale = torch.linalg.vector_norm(truth)
    return float(torch.linalg.vector_norm(result.double() - truth) / scale.clamp_min(1e-300))
