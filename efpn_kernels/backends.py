"""Which backend runs given tensors: the choice, and the reason why each other one was passed over."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from . import _libraries, checks

BACKENDS = ("cpu", "cuda", "triton", "reference")
NAMESPACE = {"cpu": "efpn", "cuda": "efpn", "triton": "efpn_triton"}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
OPERATORS = ("cem", "fbsm", "efpn_bs", "dc_loss")
ENVIRONMENT_VARIABLE = "EFPN_KERNELS_BACKEND"

# What ``auto`` tries, fastest first, by device type.
PREFERENCE = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


_warned: set[tuple[str, str]] = set()


class _Block:
    """What a ``with`` block chose, or for no block the process; setters inside of it lie on top."""

    withdrawn = False

    def __init__(self, name: str, outer: _Block | use_backend | None = None) -> None:
        self.name = name
        self.outer = outer
        self.block = self
        self.depth = 0


class _Thread(threading.local):
    def __init__(self) -> None:
        self.top: _Block | use_backend | None = None  # outside of every block


_thread = _Thread()
# A wrong name is refused where it is used, so that `efpn doctor` can say so.
_top: _Block | use_backend = _Block(os.environ.get(ENVIRONMENT_VARIABLE) or "auto")
_lock = threading.Lock()
_DEEPEST = 64


class use_backend:
    """Choose the backend for all following calls, or inside a ``with`` block.

    Calling it is enough: the choice holds at once, for every thread, or inside of a block until the
    block ends. As a context manager it is no such setting any more, but holds inside of the block, for
    this thread alone, and afterwards what held before. The object can be entered again. Threads that
    others start are outside of it, among them autograd's for a GPU, which recomputes checkpoints.

    Args:
        name: ``"auto"`` (the first of ``PREFERENCE`` that can run the tensors), ``"cpu"``, ``"cuda"``,
            ``"triton"`` or ``"reference"`` (plain PyTorch). An explicit choice that cannot run given
            tensors makes the call raise ``RuntimeError`` with the reason.

    Raises:
        ValueError: for any other name.
    """

    def __init__(self, name: str) -> None:
        if name != "auto" and name not in BACKENDS:
            raise ValueError(f"use_backend: expected one of {('auto', *BACKENDS)}, got {name!r}")
        self.name = name
        self.withdrawn = False
        _one_at_a_time(self._set)

    def _set(self) -> None:
        global _top
        below = _top if _thread.top is None else _thread.top
        self.below, self.block, self.depth = below, below.block, below.depth + 1
        if below.depth >= _DEEPEST:  # of settings that nobody will enter
            below.below, below.depth, self.depth = below.block, 1, 2
        if _thread.top is None:
            _top = self
        else:
            _thread.top = self

    def _withdraw(self) -> None:
        global _top
        self.withdrawn = True
        _top = _in_force(_top)

    def __enter__(self) -> use_backend:
        _one_at_a_time(self._withdraw)
        outer = None if _thread.top is None else _in_force(_thread.top)
        _thread.top = _Block(self.name, outer)
        return self

    def __exit__(self, *exception: object) -> None:
        outer = _thread.top.block.outer
        _thread.top = None if outer is None else _in_force(outer)


def _one_at_a_time(change: Callable[[], None]) -> None:
    if torch.compiler.is_compiling():  # a compiler cannot follow a lock, and holds its own
        change()
        return
    with _lock:
        change()


def _in_force(setting: _Block | use_backend) -> _Block | use_backend:
    while setting.withdrawn:
        setting = setting.below
    return setting


def current_backend() -> str:
    """The choice that holds here: a name of :class:`use_backend`."""
    setting = _thread.top
    return _top.name if setting is None else setting.name


def refusal(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why ``backend`` cannot run tensors of this device and dtype; None if it can."""
    if backend == "reference":
        return None
    if dtype not in DTYPES:
        return f"dtype {dtype} is not one of {', '.join(str(d) for d in DTYPES)}"
    library = getattr(_libraries, backend.upper(), None)
    if library is None:  # only the environment can bring another name here
        return f"{ENVIRONMENT_VARIABLE}: expected one of {('auto', *BACKENDS)}, got {backend!r}"
    if backend == "triton":
        if not library.loaded:
            return library.problem
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if device.type != "cuda" and not (interpreted and device.type == "cpu"):
            return f"tensors are on {device.type}, Triton runs on a GPU"
        return None
    if device.type != backend:
        return f"tensors are on {device.type}"
    if not library.loaded:
        return library.problem
    if backend == "cuda":
        return _architecture_refusal(device)
    return None


# What torch.compiler.assume_constant_result sets, without importing the compiler.
refusal._dynamo_marked_constant = True


@lru_cache
def _architecture_refusal(device: torch.device) -> str | None:
    return _libraries.architecture_problem(torch.cuda.get_device_capability(device))


@dataclass(frozen=True)
class Explanation:
    """The answer of :func:`explain`."""

    operator: str | None
    tensors: str
    choice: str
    backend: str | None
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = f"{self.operator} of {self.tensors}" if self.operator else self.tensors
        runs = self.backend or "nothing, a call raises"
        lines = [f"{what} (backend {self.choice!r}) runs on: {runs}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def explain(*arguments: str | Tensor) -> Explanation:
    """Say which backend runs given tensors and why each other one is passed over.

    Args:
        arguments: the tensors of a call, after the operator's name if wanted:
            ``explain(p_low, p_high)`` or ``explain("efpn_bs", p_low, p_high)``.

    Returns:
        An :class:`Explanation` with ``backend``, ``refused`` (backend -> reason) and a readable str.
        Tensors that no backend can take together, of two dtypes for instance, have None for a backend.
    """
    operator = arguments[0] if arguments and isinstance(arguments[0], str) else None
    if operator is not None and operator not in OPERATORS:
        raise ValueError(f"explain: expected an operator of {OPERATORS}, got {operator!r}")
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if not tensors or len(tensors) + (operator is not None) != len(arguments):
        kinds = [type(a).__name__ for a in arguments]
        raise TypeError(f"explain: expected tensors after an optional operator name, got {kinds}")
    device, dtype = tensors[0].device, tensors[0].dtype
    described = ", ".join(f"{list(t.shape)} {t.dtype} on {t.device}" for t in tensors)
    refused: dict[str, str] = {}
    chosen = None
    choice = current_backend()
    mixed = _mixture(operator, tensors)
    if mixed is not None:
        return Explanation(operator, described, choice, None, dict.fromkeys(BACKENDS, mixed))
    candidates = _candidates(device) if choice == "auto" else (choice,)
    for backend in (*candidates, *(b for b in BACKENDS if b not in candidates)):
        reason = refusal(backend, device, dtype)
        if reason is not None:
            refused[backend] = reason
        elif backend not in candidates:
            refused[backend] = f"{choice!r} was chosen"
        elif chosen is None:
            chosen = backend
        else:
            refused[backend] = f"{chosen} is preferred"
    return Explanation(operator, described, choice, chosen, refused)


def _mixture(operator: str | None, tensors: list[Tensor]) -> str | None:
    """Why the tensors of a call do not go together; None if they do."""
    try:
        for i, x in enumerate(tensors, 1):
            name = f"tensor {i}"
            checks.tensor(name, x)
            # k and delta of the loss have a dtype of their own.
            checks.same_kind(
                name, x, "tensor 1", tensors[0], operator != "dc_loss" or x.numel() > 1
            )
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _candidates(device: torch.device) -> tuple[str, ...]:
    return (*PREFERENCE.get(device.type, ()), "reference")


def choose(x: Tensor) -> str:
    """The backend that runs operators of ``x``, by the current choice.

    Raises:
        RuntimeError: if an explicitly chosen backend cannot run, with the reason.
    """
    choice = current_backend()
    if choice != "auto":
        reason = refusal(choice, x.device, x.dtype)
        if reason is not None:
            raise RuntimeError(f"backend {choice!r} cannot run here: {reason}")
        return choice
    for backend in PREFERENCE.get(x.device.type, ()):
        if refusal(backend, x.device, x.dtype) is None:
            return backend
    if not torch.compiler.is_compiling():
        _warn_reference(x)
    return "reference"


def _warn_reference(x: Tensor) -> None:
    key = (x.device.type, str(x.dtype))
    if key in _warned:
        return
    _warned.add(key)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in explain(x).refused.items())
    warnings.warn(
        f"efpn_kernels runs plain PyTorch for {x.dtype} tensors on {x.device.type} ({reasons}). "
        "`efpn doctor` says how to mend it; use_backend('reference') silences this.",
        stacklevel=4,
    )


def namespace(backend: str) -> torch._ops._OpNamespace:
    """The dispatcher namespace that holds the operators of ``backend``."""
    return getattr(torch.ops, NAMESPACE[backend])
