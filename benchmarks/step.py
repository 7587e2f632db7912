"""One call of a candidate, forward or forward and backward, as the clocks time it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from .accuracy import leaves_of, output_gradient
from .baselines import Candidate, Inputs
from .records import TRAINING


class Step:
    """One call of a candidate in a direction, on the next of its sets of inputs."""

    def __init__(self, candidate: Candidate, sets: list[Inputs], direction: str) -> None:
        self.module = candidate.module
        self.backward = direction == TRAINING and candidate.differentiable
        self.sets = [candidate.adapt(inputs) for inputs in sets]
        self.leaves = [leaves_of(inputs, candidate.parameters) for inputs in self.sets]
        # Results live while their set of inputs rests, or their memory would stay in the cache.
        self.kept: deque[object] = deque(maxlen=len(sets) if len(sets) > 1 else 0)
        self.turn = 0
        self.gradients: list[Tensor | None] | None = None

    def forward(self) -> tuple[Tensor, ...]:
        """The outputs for the next set."""
        self.turn = (self.turn + 1) % len(self.sets)
        outputs = self.module(*self.sets[self.turn])
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def gradient(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients of the set in turn."""
        if self.gradients is None:
            self.gradients = [output_gradient(output.detach()) for output in outputs]
        return torch.autograd.grad(outputs, self.leaves[self.turn], self.gradients)

    def __call__(self, split: Callable[[], None]) -> tuple[Tensor, ...]:
        """Forward, and backward in training."""
        results = self.forward()
        if self.backward:
            split()
            results = self.gradient(results)
        self.kept.append(results)
        return results
