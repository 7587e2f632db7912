"""What one call of the block costs the host: dispatcher calls, allocations, launches.

    python -m benchmarks.kernels.step_counts

Counted, not timed, on maps so small that nothing else matters; the same numbers at every size. Launches on a GPU
are counted in the emulation of the CUDA sources, where nvcc's headers are at hand; those of the library's
convolutions and products are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import build_cuda
from efpn_kernels import EFPNBS, reference, use_backend

from ..report import table


class Counts(NamedTuple):
    """Of one forward pass, or of a training step."""

    from_python: int
    """Calls of the dispatcher that Python makes."""
    dispatcher: int
    """All calls of the dispatcher that the profiler sees, nested ones too."""
    allocations: int


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def counts(call: Callable[[], object]) -> Counts:
    """What ``call`` costs, once it is warm."""
    call()
    with _Calls() as calls:
        call()
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]" and e.nbytes() > 0]
    named = [e for e in events if "::" in e.name()]
    return Counts(calls.count, len(named), len(memory))


def block_calls(block: nn.Module) -> dict[str, Callable[[], object]]:
    """Forward without gradients, and a training step."""
    low, high = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 1, 1)

    @torch.no_grad()
    def forward() -> Tensor:
        return block(low, high)

    def train() -> None:
        block.zero_grad(set_to_none=True)
        inputs = [x.detach().requires_grad_() for x in (low, high)]
        block(*inputs).sum().backward()

    return {"forward": forward, "training": train}


def launches_of_cuda(gates: int) -> dict[str, int]:
    """Of our kernels in the operator and in its backward."""
    from checking.emulator import emulation

    emulated = emulation()
    block = EFPNBS(8, 8, gate_channels=gates)
    parameters = [p.detach() for p in block.parameters()]
    low, high = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 1, 1)
    with emulated.counting() as forward:
        out, state = emulated.kernel("efpn_bs")(low, high, *parameters, False, True)
    with emulated.counting() as backward:
        emulated.kernel("efpn_bs_backward")(
            torch.ones_like(out), out, low, high, *parameters, state, False
        )
    return {"forward": len(forward), "training": len(forward) + len(backward)}


def main() -> None:
    lines = []
    for gates, what in ((1, "one mask"), (8, "a mask per channel")):
        launches = launches_of_cuda(gates) if build_cuda.find_nvcc() else {}
        for kind in (EFPNBS, reference.EFPNBS):
            ours = kind is EFPNBS
            with use_backend("cpu" if ours else "reference"):
                for direction, call in block_calls(kind(8, 8, gate_channels=gates)).items():
                    found = counts(call)
                    launched = launches.get(direction, "") if ours else ""
                    lines.append(
                        [
                            what,
                            "ours" if ours else "eager",
                            direction,
                            *map(str, found),
                            str(launched),
                        ]
                    )
    names = ["block", "", "", "from Python", "dispatcher", "allocations", "our launches (CUDA)"]
    print(table(names, lines))


if __name__ == "__main__":
    main()
