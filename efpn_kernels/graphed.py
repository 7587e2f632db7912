"""CUDA graphs for shapes that stay: a call costs a replay instead of its Python and its launches."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Hashable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .backends import current_backend

__all__ = ["Graphed", "graphed"]

MOST_CAPTURES = 8


class _Shell(nn.Module):
    """The module behind another ``forward``, which the capture may replace."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)


class _Backward:
    """Runs before the backward replay of one call; while it lives unused, that call's memory is needed."""

    def __init__(self, capture: _Capture, results: list[Tensor]) -> None:
        self.addresses, self.parameters = capture.addresses, capture.parameters
        # Detached, or they would keep their node and it would keep this.
        self.results = [(t.detach(), t._version) for t in results]
        self.began = False

    def __call__(self, grads: tuple[Tensor | None, ...]) -> None:
        self.began = True
        if any(t._version != version for t, version in self.results):
            raise RuntimeError(
                "graphed: expected a result as it was for its backward pass, got one that was changed "
                "in place; clone it first"
            )
        # Autograd may have made the graph's own memory the gradient of a parameter. The replay writes
        # there, and what was accumulated so far would be lost.
        for parameter in self.parameters:
            grad = parameter.grad
            if grad is not None and grad.data_ptr() in self.addresses:
                parameter.grad = grad.clone()


class _Capture:
    """The graphs of one kind of call."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> None:
        autocast = _uncached_autocast(inputs[0].device.type)
        with torch.inference_mode(False), torch.set_grad_enabled(training), autocast:
            examples = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)
            self.parameters = tuple(module.parameters())
            self.run = torch.cuda.make_graphed_callables(
                _Shell(module), examples, allow_unused_input=True
            )
            leaves = [t for t in (*examples, *self.parameters) if t.requires_grad]
            self.addresses: frozenset[int] = frozenset()
            if training and leaves:
                out = [t for t in tree_leaves(self.run(*examples)) if t.requires_grad]
                zeros = [torch.zeros_like(t) for t in out]
                grads = torch.autograd.grad(out, leaves, zeros, allow_unused=True)
                self.addresses = frozenset(g.data_ptr() for g in grads if g is not None)
        self.pending: weakref.ref[_Backward] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call's backward pass is still to come, which reads what the next call overwrites."""
        backward = self.pending() if self.pending is not None else None
        return backward is not None and not backward.began

    def __call__(self, *inputs: Tensor) -> Any:
        out = self.run(*inputs)
        results = [t for t in tree_leaves(out) if t.grad_fn is not None]
        if results:
            backward = _Backward(self, results)
            results[0].grad_fn.register_prehook(backward)
            self.pending = weakref.ref(backward)
        return out


class Graphed:
    """What :func:`graphed` returns: called like the module, which it does not change."""

    def __init__(self, module: nn.Module, *example_inputs: Tensor) -> None:
        _check(module, example_inputs)
        self.module = module
        self._form = tuple(map(_form, example_inputs))
        self._parts = tuple(module.modules())
        self._captures: dict[Hashable, _Capture] = {}
        self._warned: set[str] = set()
        self._capture(example_inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        """The module's result, in memory that the next call overwrites."""
        reason = self._reason_against(inputs)
        capture = None if reason else self._capture(inputs)
        if reason is None and capture is None:
            reason = f"more than {MOST_CAPTURES} kinds of calls have been captured"
        if reason is None and capture.busy:
            reason = "it is called again before the backward pass of its last call"
        if reason is not None:
            self._warn(reason)
            return self.module(*inputs)
        return capture(*inputs)

    def _reason_against(self, inputs: tuple[Tensor, ...]) -> str | None:
        if tuple(map(_form, inputs)) != self._form:
            return f"expected the captured inputs, {_text(self._form)}, got {_text(map(_form, inputs))}"
        if any(map(_has_hooks, self._parts)):
            return "a module inside has a hook, which no replay would call"
        if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
            return "it is being compiled or captured itself"
        return None

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Capture | None:
        """The graphs for calls of this kind, captured when the first one comes; None if too many came."""
        parameters = [p for part in self._parts for p in part._parameters.values() if p is not None]
        flags = tuple(t.requires_grad for t in (*inputs, *parameters))
        training = torch.is_grad_enabled() and any(flags)
        device = inputs[0].device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        addresses = tuple(p.data_ptr() for p in parameters)
        modes = tuple(part.training for part in self._parts)
        key = (flags if training else None, modes, autocast, current_backend(), addresses)
        if key not in self._captures:
            if len(self._captures) == MOST_CAPTURES:
                return None
            self._captures[key] = _Capture(self.module, inputs, training)
        return self._captures[key]

    def _warn(self, reason: str) -> None:
        kind = reason.split(",")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            text = f"graphed: {reason}: an ordinary call, now and whenever this happens again"
            warnings.warn(text, stacklevel=3)


def graphed(module: nn.Module, *example_inputs: Tensor) -> Graphed:
    """Capture ``module`` in CUDA graphs for inputs of one shape, dtype and memory format.

    What comes back is called like ``module``, which stays as it is: same parameters, same ``state_dict``.
    Forward and, where gradients are wanted, backward are captured when they are first needed, for training
    and for inference apart. A call with other shapes, with hooks inside of the module, or before the
    backward pass of the last call is an ordinary one, with a warning once. A result, and the gradient of
    an input, lives until the next call overwrites it: clone what is to be kept. Gradients of parameters
    add up over several calls as usual. The backend that is chosen at the first call is the one captured;
    ``requires_grad``, a parameter's memory or ``train()`` may change: that is another capture. A result
    that is to be differentiated must not be changed in place: its backward pass raises.

    Args:
        module: takes tensors, returns tensors; its results must depend on those and its parameters alone.
        example_inputs: on a CUDA device; their values do not matter.

    Returns:
        A callable, whose attribute ``module`` is the module.

    Raises:
        TypeError: for what is no module or no tensor.
        ValueError: for inputs that are not on a CUDA device, or a ``module`` without any.
    """
    return Graphed(module, *example_inputs)


def _check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if not inputs:
        raise ValueError("example_inputs: expected the tensors of a call, got none")
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"example_inputs[{i}]: expected a tensor, got {type(x).__name__}")
        if not _on_gpu(x):
            raise ValueError(
                f"example_inputs[{i}]: expected a CUDA device, where there are graphs, got {x.device}; "
                "call the module itself elsewhere"
            )


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _form(x: Any) -> tuple[Any, ...]:
    if not isinstance(x, Tensor):
        return (type(x).__name__,)
    return x.shape, x.dtype, x.device, x.stride()


def _text(forms: Any) -> str:
    return " and ".join(
        f"{form[1]} {tuple(form[0])} with strides {form[3]}" if len(form) > 1 else form[0]
        for form in forms
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _uncached_autocast(device: str) -> Any:
    """Autocast as it is, without its cache, which would outlive the capture."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False)
