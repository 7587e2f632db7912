"""Every kernel once, and the block and the loss forward and backward, on small shapes: for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.kernels.gpu_memcheck

With ``PYTORCH_NO_CUDA_MEMORY_CACHING=1`` every tensor is an allocation of its own, so that an access beyond
its end is seen and does not fall into a neighbour's memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch

import efpn_kernels
from checking import cases
from checking.cases import Case, Maker
from checking.comparison import check_results, run_kernel

DTYPES = (torch.bfloat16, torch.float32)
NAMESPACES = {"cuda": "efpn", "triton": "efpn_triton", "cpu": "efpn"}


def small_cases() -> Iterator[Case]:
    """Whole vectors and tails, borders that meet, more than one tile: one of each for every kernel."""
    yield from cases.pooled_cases([((2, 40, 5, 5), 33)])
    yield from cases.product_cases([((2, 40, 5, 5), 33)])
    yield from cases.level_cases([(1, 36, 3, 3, 11, 10)])
    yield from cases.border_cases([(2, 40, 36, 3, 9)])
    yield from cases.map_cases([(2, 20, 17, 19), (1, 64, 6, 9)])
    yield from cases.loss_cases([(1000,)])


def kernels(backend: str, device: str) -> Iterator[str]:
    """Run every kernel of a backend; yields what it ran, and whether its contract was broken."""
    namespace = getattr(torch.ops, NAMESPACES[backend])
    left_out = cases.NOT_NEEDED.get((NAMESPACES[backend], device), ())
    for case in small_cases():
        if case.kernel in left_out:
            continue
        for dtype in DTYPES:
            for channels_last in case.formats:
                maker = Maker(dtype, channels_last, device)
                args = case.build(maker)
                results = run_kernel(getattr(namespace, case.kernel).default, args)
                said = f"{backend} {case.kernel} {case.id} {dtype} {channels_last}"
                try:
                    check_results(case.kernel, args, results, maker)
                except AssertionError as error:
                    said = f"FAILED {said}: {' '.join(str(error).split())[:300]}"
                yield said


def operators(backend: str, device: str) -> Iterator[str]:
    """Run the block with one mask and a mask per channel, and the loss, forward and backward."""
    with efpn_kernels.use_backend(backend):
        for dtype in DTYPES:
            for gates in (1, 64):
                block = efpn_kernels.EFPNBS(64, 64, gate_channels=gates).to(device, dtype)
                low, high = (
                    torch.randn(2, 64, *size, device=device, dtype=dtype)
                    .contiguous(memory_format=torch.channels_last)
                    .requires_grad_()
                    for size in ((24, 40), (3, 5))
                )
                out = block(low, high)
                out.backward(torch.ones_like(out))
                yield f"{backend} EFPNBS {gates} {dtype}"
            pred = torch.randn(999, device=device, dtype=dtype, requires_grad=True)
            efpn_kernels.DCLoss().to(device)(pred, torch.zeros_like(pred)).backward()
            yield f"{backend} DCLoss {dtype}"


def main(arguments: list[str] | None = None) -> int:
    """Run all of it; the exit code says whether every contract was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="cuda,triton", help="comma-separated")
    options = parser.parse_args(arguments)
    failed = count = 0
    for backend in options.backends.split(","):
        device = "cpu" if backend == "cpu" else "cuda"
        for runs in (kernels, operators):
            try:
                for what in runs(backend, device):
                    count += 1
                    failed += what.startswith("FAILED")
                    print(what, flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED after the line above: {type(error).__name__}: {error}", flush=True)
    print(f"{count} calls, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
