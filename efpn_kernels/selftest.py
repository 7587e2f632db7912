"""``efpn doctor --test``: every backend at hand against plain PyTorch in float64, in a few seconds."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import backends, modules, reference

DTYPES = (torch.float32, torch.bfloat16)
FACTOR = 4.0
"""Our error may be so many times plain PyTorch's, on a single draw of numbers; a mistake is off by far more."""


@dataclass(frozen=True)
class Case:
    """An operator with the shapes of its inputs."""

    name: str
    ours: Callable[[], nn.Module]
    twin: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]


_MAPS = ((2, 32, 37, 50), (2, 48, 5, 7))
CASES = (
    Case("CEM", lambda: modules.CEM(48, 32), lambda: reference.CEM(48, 32), _MAPS),
    Case("EFPNBS", lambda: modules.EFPNBS(48, 32), lambda: reference.EFPNBS(48, 32), _MAPS),
    Case(
        "EFPNBS, a gate per channel",
        lambda: modules.EFPNBS(48, 32, gate_channels=32),
        lambda: reference.EFPNBS(48, 32, gate_channels=32),
        _MAPS,
    ),
    Case("DCLoss", modules.DCLoss, reference.DCLoss, ((10_000, 4), (10_000, 4))),
)


@dataclass(frozen=True)
class Outcome:
    """What one backend made of one case."""

    backend: str
    device: str
    case: str
    dtype: torch.dtype
    error: float
    """Relative, in the l2 norm: the worst of the result and all gradients."""
    plain: float
    """The same of plain PyTorch in this dtype."""
    seconds: float
    """Of a second call, forward and backward."""
    failure: str | None = None

    @property
    def allowed(self) -> float:
        """How large the error may be."""
        return FACTOR * (self.plain + torch.finfo(self.dtype).eps)

    @property
    def ok(self) -> bool:
        """Whether it ran and is right."""
        return self.failure is None and self.error <= self.allowed


def _solve(module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The result and all gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    module.zero_grad()
    out = module(*leaves)
    # Not the same everywhere, and of one sign: what sums to next to nothing has no relative error.
    out.backward(torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape).to(out))
    return [out.detach(), *(x.grad for x in leaves), *(p.grad for p in module.parameters())]


def _error(results: list[Tensor], oracle: list[Tensor]) -> float:
    errors = [
        ((a.double() - b).norm() / b.norm().clamp(min=1e-30)).item()
        for a, b in zip(results, oracle, strict=True)
    ]
    return max(errors) if all(e == e for e in errors) else float("inf")


def _run(case: Case, backend: str, device: torch.device, dtype: torch.dtype) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator).to(device, dtype) for s in case.shapes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = case.twin().to(device, dtype)
    exact = copy.deepcopy(twin).double()
    ours = case.ours().to(device, dtype)
    ours.load_state_dict(twin.state_dict())
    oracle = _solve(exact, [x.double() for x in inputs])
    plain = _error(_solve(twin, inputs), oracle)
    try:
        with backends.use_backend(backend):
            results = _solve(ours, inputs)
            _wait(device)
            start = time.perf_counter()
            _solve(ours, inputs)
            _wait(device)
            seconds = time.perf_counter() - start
    except Exception as error:  # whatever it is, the table says so and the other rows follow
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome(backend, device.type, case.name, dtype, 0.0, plain, 0.0, message)
    error = _error(results, oracle)
    return Outcome(backend, device.type, case.name, dtype, error, plain, seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run() -> list[Outcome]:
    """All cases on every backend that can run here, on the CPU and on the first GPU."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for device in map(torch.device, devices):
            for name in backends.DESCRIPTORS:
                for dtype in DTYPES:
                    if backends.why_unsupported(name, device, dtype) is None:
                        outcomes += [_run(case, name, device, dtype) for case in CASES]
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in columns, a line below for each failure."""
    header = ("backend", "on", "operator", "dtype", "error", "plain's", "a call", "result")
    rows = [header]
    for one in outcomes:
        figures = (f"{one.error:.1e}", f"{one.plain:.1e}", f"{one.seconds * 1e3:.2f} ms")
        if one.failure is not None:
            figures = ("", "", "")
        verdict = "ok" if one.ok else "failed" if one.failure is not None else "WRONG"
        dtype = str(one.dtype).removeprefix("torch.")
        rows.append((one.backend, one.device, one.case, dtype, *figures, verdict))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
    lines += [f"{o.backend}, {o.case}: {o.failure}" for o in outcomes if o.failure is not None]
    return "\n".join(lines)
