"""The backends: what each one is and needs, which runs given tensors, and why the others do not."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from . import _libraries, checks, measured
from ._switch import Switch
from .ops import efpn_bs

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
OPERATORS = ("cem", "fbsm", "efpn_bs", "dc_loss")
ENVIRONMENT_VARIABLE = "EFPN_KERNELS_BACKEND"


# ---- descriptors -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backend:
    """One way to run the operators."""

    name: str
    namespace: str
    """Of the dispatcher, where its operators are."""
    device_type: str
    """Of the tensors that it takes."""
    why_not_on: Callable[[torch.device], str | None] = lambda device: None
    """Why it cannot run on a device of its type; None where it can."""
    fake_hidden: efpn_bs.FakeHidden = efpn_bs.hidden_map
    """What it saves of the hidden map for backward, as a fake."""

    @property
    def library(self) -> _libraries.SharedLibrary:
        """What was loaded of it, or why nothing was."""
        return getattr(_libraries, self.name.upper())


CPU_CAPABILITIES = ("portable", "avx2", "avx512", "avx512_bf16", "amx")
"""What the CPU's kernels can use of a machine, as EFPN_KERNELS_CPU_CAPABILITY names it."""


@lru_cache
def cpu_capability() -> str:
    """The one of ``CPU_CAPABILITIES`` that the CPU's kernels use."""
    return CPU_CAPABILITIES[torch.ops.efpn.cpu_capability()]


def cpu_fuses_convolutions(x: Tensor) -> bool:
    """Whether the CPU's convolutions of a map are its own, not the library's.

    Those of halves are, unless the machine has a matrix unit, or none of AVX2 and AVX-512.
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        return cpu_capability() not in ("portable", "amx")
    return x.dtype == torch.float32


def _winograd_bits(p_low: Tensor, hidden: int, gates: int, channels_last: bool) -> Tensor:
    """The CPU's own convolution, where it has one gate, saves a bit an element."""
    if gates != 1 or not cpu_fuses_convolutions(p_low):
        return efpn_bs.hidden_map(p_low, hidden, gates, channels_last)
    n, _, height, width = p_low.shape
    return p_low.new_empty(n * height * width * ((hidden + 15) // 16) * 4, dtype=torch.uint8)


@lru_cache
def _no_machine_code(device: torch.device) -> str | None:
    return _libraries.architecture_problem(torch.cuda.get_device_capability(device))


DESCRIPTORS = {
    backend.name: backend
    for backend in (
        Backend("cpu", "efpn", "cpu", fake_hidden=_winograd_bits),
        Backend("cuda", "efpn", "cuda", why_not_on=_no_machine_code),
        Backend("triton", "efpn_triton", "cuda"),
    )
}
BACKENDS = (*DESCRIPTORS, "reference")
for _backend in DESCRIPTORS.values():
    efpn_bs.FAKE_HIDDEN[_backend.namespace, _backend.device_type] = _backend.fake_hidden


@dataclass(frozen=True)
class Order:
    """What ``auto`` tries first for some operators on a type of device."""

    device_type: str
    backends: tuple[str, ...]
    source: str
    """The results that it comes from."""
    operators: tuple[str, ...] = OPERATORS
    below: int | None = None
    """Elements of the first tensor below which it holds; None: for every size."""


# The first that fits counts.
AUTO_ORDER = (
    Order("cpu", ("cpu",), "benchmarks/results/cpu-amd-epyc-avx512-2c"),
    # By ordinary calls. Captured in a CUDA graph, Triton's kernels of that commit were the faster ones.
    Order("cuda", ("cuda", "triton"), "benchmarks/results/nvidia-h200"),
)


# ---- the choice ------------------------------------------------------------------------------------


class use_backend(Switch):
    """Choose the backend of all following calls, or of those inside a ``with`` block.

    Like ``torch.set_grad_enabled``: calling it is enough, and as a context manager (or decorator) it restores on
    exit what was chosen before. The choice is of the process, as that of ``torch.backends``: threads see it too,
    among them autograd's, which recompute checkpoints.

    Args:
        name: ``"auto"`` (the first of ``AUTO_ORDER`` that can run the tensors), ``"cpu"``, ``"cuda"``,
            ``"triton"`` or ``"reference"`` (plain PyTorch). An explicit choice that cannot run given
            tensors makes the call raise ``RuntimeError`` with the reason.

    Raises:
        ValueError: for any other name.
    """

    names = ("auto", *BACKENDS)
    # A wrong name is refused where it is used, so that `efpn doctor` can say so.
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"


def current_backend() -> str:
    """The choice that holds: a name of :class:`use_backend`."""
    return use_backend.choice


def why_unsupported(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the backend ``name`` cannot run tensors of this device and dtype; None if it can."""
    if name == "reference":
        return None
    if dtype not in DTYPES:
        return f"dtype {dtype} is not one of {', '.join(str(d) for d in DTYPES)}"
    backend = DESCRIPTORS.get(name)
    if backend is None:  # only the environment can bring another name here
        return f"{ENVIRONMENT_VARIABLE}: expected one of {('auto', *BACKENDS)}, got {name!r}"
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != backend.device_type and not (interpreted and device.type == "cpu"):
        return f"tensors are on {device.type}, it runs on {backend.device_type}"
    return backend.library.problem or backend.why_not_on(device)


def _order(operator: str, x: Tensor) -> tuple[str, ...]:
    """What ``auto`` tries for an operator of ``x``, its first tensor."""
    device_type = x.device.type
    for order in AUTO_ORDER:
        if order.device_type != device_type or operator not in order.operators:
            continue
        if order.below is None or x.numel() < order.below:
            return (*order.backends, "reference")
    return ("reference",)


@lru_cache
def _find_able(names: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> str:
    return next(name for name in names if why_unsupported(name, device, dtype) is None)


def _first_able(names: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> str:
    return _find_able(names, device, dtype)


# What torch.compiler.assume_constant_result sets, without importing the compiler.
_first_able._dynamo_marked_constant = True
why_unsupported._dynamo_marked_constant = True


def select(operator: str, x: Tensor) -> str:
    """The backend that runs ``operator`` of ``x``, its first tensor, by the current choice.

    Raises:
        RuntimeError: if an explicitly chosen backend cannot run, with the reason.
    """
    choice = use_backend.choice
    if choice != "auto":
        reason = why_unsupported(choice, x.device, x.dtype)
        if reason is not None:
            raise RuntimeError(
                f"backend {choice!r} cannot run here: {reason}; "
                'efpn_kernels.use_backend("auto") takes one that can'
            )
        return choice
    name = _first_able(_order(operator, x), x.device, x.dtype)
    if name == "reference" and not torch.compiler.is_compiling():
        _warn_reference(x)
    return name


_warned: set[tuple[str, str]] = set()


def _warn_reference(x: Tensor) -> None:
    key = (x.device.type, str(x.dtype))
    if key in _warned:
        return
    _warned.add(key)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in explain(x).refused.items())
    warnings.warn(
        f"efpn_kernels runs plain PyTorch for {x.dtype} tensors on {x.device.type} ({reasons}). "
        "`efpn doctor` says how to fix it; use_backend('reference') silences this.",
        stacklevel=_level_of_caller(),
    )


_INSIDE = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))


def _level_of_caller() -> int:
    """The ``stacklevel``, from the caller of this function, of the first line outside of this package and PyTorch."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    return level


# ---- the explanation -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explanation:
    """The answer of :func:`explain`."""

    operator: str | None
    tensors: str
    choice: str
    backend: str | None
    refused: dict[str, str] = field(default_factory=dict)
    call: measured.Call | None = None

    @property
    def cost(self) -> str | None:
        """What such a call took on a machine of this kind; None if that has not been measured."""
        if self.backend is None or self.call is None:
            return None
        return measured.cost(self.call, self.backend)

    def __str__(self) -> str:
        what = f"{self.operator} of {self.tensors}" if self.operator else self.tensors
        runs = f"runs on: {self.backend}" if self.backend else "no backend can run this call"
        lines = [f"{what} (backend {self.choice!r}) {runs}"]
        lines += (
            [f"  measured on this kind of machine: {self.cost}"] if self.cost is not None else []
        )
        lines += [f"  not {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def explain(*arguments: str | Tensor) -> Explanation:
    """Say which backend runs given tensors and why each other one is rejected.

    Args:
        arguments: the tensors of a call, after the operator's name if wanted:
            ``explain(p_low, p_high)`` or ``explain("efpn_bs", p_low, p_high)``.

    Returns:
        An :class:`Explanation` with ``backend``, ``refused`` (backend -> reason), ``cost`` (of such a call,
        where the clone holds a report of a machine of this kind) and a readable str.
        ``backend`` is None if no backend accepts this combination of tensors.
    """
    operator = arguments[0] if arguments and isinstance(arguments[0], str) else None
    if operator is not None and operator not in OPERATORS:
        raise ValueError(f"explain: expected an operator of {OPERATORS}, got {operator!r}")
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if not tensors or len(tensors) + (operator is not None) != len(arguments):
        kinds = [type(a).__name__ for a in arguments]
        raise TypeError(f"explain: expected tensors after an optional operator name, got {kinds}")
    choice, first = use_backend.choice, tensors[0]
    described = ", ".join(f"{list(t.shape)} {t.dtype} on {t.device}" for t in tensors)
    mixed = _mixture(operator, tensors)
    if mixed is not None:
        return Explanation(operator, described, choice, None, dict.fromkeys(BACKENDS, mixed))
    candidates = _order(operator or "efpn_bs", first) if choice == "auto" else (choice,)
    refused: dict[str, str] = {}
    chosen = None
    for name in (*candidates, *(b for b in BACKENDS if b not in candidates)):
        reason = why_unsupported(name, first.device, first.dtype)
        if reason is None and name not in candidates:
            reason = f"{choice!r} was chosen"
        elif reason is None and chosen is not None:
            reason = f"{chosen} is preferred"
        if reason is None:
            chosen = name
        else:
            refused[name] = reason
    dtype = str(first.dtype).removeprefix("torch.")
    call = measured.Call(operator or "efpn_bs", first.device.type, dtype, tuple(first.shape))
    return Explanation(operator, described, choice, chosen, refused, call)


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
