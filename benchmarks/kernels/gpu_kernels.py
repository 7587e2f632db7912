"""Every kernel of the GPU backends at the shapes of a detector: error, time, bandwidth.

    python -m benchmarks.kernels.gpu_kernels --json gpu_kernels.json

Each kernel is first compared with its contract in float64 on the GPU; one that fails is not timed.
Times are of a CUDA graph that calls the kernel on rotating copies of its arguments, together four times
the L2 cache, with every result kept alive: nothing is read or written that a former call left in L2.
Bytes are the compulsory ones, each argument read and each result written once; percent is of the
device-to-device copy bandwidth measured in the same run. ``host`` is the wall time of an eager call
where that, and not the kernel, is the limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# Importing the package loads every backend that this machine can run.
import efpn_kernels  # noqa: F401
from checking.cases import Case, Maker
from checking.comparison import check_results, run_kernel
from checking.real_shapes import FORMATS, real_cases

from ..environment import describe
from ..report import duration
from ..report import table as markdown_table
from .table import Table

CACHES = 4
REPLAYS = 7
TINY_MICROSECONDS = 20


class DeviceMaker(Maker):
    """Makes the arguments on the GPU, from multiples of 1/64.

    At x8 the interpolation of such taps is exact in float32, so that no ReLU of millions falls on the
    other side of zero than the oracle's.
    """

    def __init__(self, dtype: torch.dtype, channels_last: bool, device: str) -> None:
        super().__init__(dtype, channels_last, device)
        self.generator = torch.Generator(device).manual_seed(20260)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(shape, generator=self.generator, device=self.device)
        return values.mul_(64).round_().div_(64).to(dtype or self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(
            high, shape, generator=self.generator, dtype=torch.int32, device=self.device
        )


def kernel_of(namespace: str, name: str) -> Callable | None:
    key = "CUDA"
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{name}", key):
        return getattr(getattr(torch.ops, namespace), name).default
    return None


def tensor_bytes(values: tuple | list) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def graph_microseconds(calls: list[Callable[[], object]]) -> float:
    """Median time of one call, from replays of a graph of all of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which may still be making the arguments
    with torch.cuda.stream(stream):
        for _ in range(2):
            calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    times = []
    for _ in range(REPLAYS + 2):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / len(calls))
    del kept, graph
    return statistics.median(times[2:])


def host_microseconds(call: Callable[[], object], repeats: int = 200) -> float:
    """Wall time of an eager call, many in a row."""
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e6 / repeats)
    return min(times)


def rotations(bytes_of_call: int) -> int:
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(max(CACHES * cache // max(bytes_of_call, 1) + 1, 2), 100)


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a device-to-device copy."""
    sources = [torch.randn(2**26, device="cuda") for _ in range(3)]
    targets = [torch.empty_like(s) for s in sources]
    calls = [lambda s=s, t=t: t.copy_(s) for s, t in zip(sources, targets, strict=True)]
    return 2 * sources[0].nbytes / graph_microseconds(calls) * 1e6


def clone_arguments(args: list) -> list:
    return [a.clone() if isinstance(a, Tensor) else a for a in args]


class Trial(NamedTuple):
    """A kernel with its arguments, to be checked and timed."""

    case: Case
    kernel: Callable
    args: list
    maker: Maker
    checked: bool

    def __call__(self, failed_before: str | None) -> dict:
        """The row, unless the same kernel has failed before."""
        if failed_before is not None:
            return {"error": failed_before}
        if self.checked:
            self.check()
        return self.measure()

    def check(self) -> None:
        """Raises unless the kernel keeps its contract and its bits."""
        first = run_kernel(self.kernel, self.args)
        check_results(self.case.kernel, self.args, first, self.maker)
        again = run_kernel(self.kernel, self.args)
        torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)

    def measure(self) -> dict:
        """Bytes and times."""
        kernel = self.kernel
        results = run_kernel(kernel, self.args)
        row: dict = {"bytes": tensor_bytes(self.args) + tensor_bytes(results)}
        del results
        copies = [clone_arguments(self.args) for _ in range(rotations(row["bytes"]))]
        row["us"] = graph_microseconds([partial(kernel, *c) for c in copies])
        if row["us"] < TINY_MICROSECONDS:
            row["host_us"] = host_microseconds(partial(kernel, *copies[0]))
        return row


def identities(batches: list[int], only: set[str], namespaces: list[str]) -> Iterator[tuple]:
    """What is measured, in order: the identity of a row, its case and the format."""
    for N in batches:
        for dtype, channels_last in FORMATS:
            for case in real_cases(N):
                if only and case.kernel not in only:
                    continue
                for namespace in namespaces:
                    name = str(dtype).removeprefix("torch.")
                    identity = {
                        "kernel": case.kernel,
                        "case": case.id,
                        "namespace": namespace,
                        "N": N,
                        "layout": "channels_last" if channels_last else "contiguous",
                        "dtype": name,
                        "format": f"{name[:4]} {'nhwc' if channels_last else 'nchw'}",
                    }
                    yield identity, case, dtype, channels_last


def failed_before(table: Table, identity: dict) -> str | None:
    """The error of the same kernel and variant at another batch size."""
    for row in table.rows:
        same = all(row[k] == identity[k] for k in ("kernel", "namespace", "dtype", "layout"))
        if same and "error" in row and row["N"] != identity["N"]:
            variants = (r["case"].replace(f"{r['N']}x", "", 1) for r in (row, identity))
            if len(set(variants)) == 1:
                return row["error"]
    return None


def report_lines(row: dict, copy_bytes: float) -> str:
    name = f"{row['kernel']:24} {row['case']:34} {row['format']:12} {row['namespace']:12}"
    if "error" in row:
        return f"{name} FAILED {' '.join(row['error'].split())[:200]}"
    rate = row["bytes"] / row["us"] * 1e6
    host = f"{row['host_us']:8.1f}" if "host_us" in row else " " * 8
    return (
        f"{name} {row['us']:9.2f} us {rate / 1e9:7.0f} GB/s {100 * rate / copy_bytes:5.0f} % {host}"
    )


def markdown(data: dict) -> str:
    """A Markdown section with the kernels' times and bandwidths, from what was written to JSON."""
    copy = data["copy_bytes_per_s"]
    names = ("kernel", "case", "format", "namespace", "time", "GB/s", "of copy", "call", "result")
    cells = []
    for row in data["rows"]:
        cell = [row["kernel"], row["case"], row["format"], row["namespace"], "", "", "", "", "ok"]
        if "error" in row:
            cell[-1] = " ".join(row["error"].split())[:160].replace("|", "/")
        else:
            rate = row["bytes"] / row["us"] * 1e6
            cell[4:7] = duration(row["us"] / 1e6), f"{rate / 1e9:.0f}", f"{rate / copy:.0%}"
            cell[7] = duration(row["host_us"] / 1e6) if "host_us" in row else ""
        cells.append(cell)
    note = f"Copy bandwidth in the same run: {copy / 1e9:.0f} GB/s. Cold tensors, graph replay.\n"
    return f"## Single kernels\n\n{note}\n{markdown_table(names, cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--namespaces", default="efpn,efpn_triton")
    parser.add_argument("--batches", default="1,2,8")
    parser.add_argument("--kernels", default="", help="only these, separated by commas")
    parser.add_argument("--check-batches", default="1,2", help="batch sizes that are checked")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--markdown", type=Path, help="write the table of --json and measure nothing"
    )
    parser.add_argument("--continue", dest="continues", action="store_true", help="keep its rows")
    options = parser.parse_args()
    if options.markdown is not None:
        options.markdown.write_text(markdown(json.loads(options.json.read_text())))
        return
    checked = set(map(int, options.check_batches.split(",")))
    table = Table(options.json, describe("cuda"), options.continues)
    if "copy_bytes_per_s" not in table.facts:
        table.facts["copy_bytes_per_s"] = copy_bandwidth()
    copy_bytes = table.facts["copy_bytes_per_s"]
    print(f"{torch.cuda.get_device_name()}: copy {copy_bytes / 1e9:.0f} GB/s", flush=True)
    batches = [int(N) for N in options.batches.split(",")]
    only = set(filter(None, options.kernels.split(",")))
    made: tuple = ()
    args: list = []
    for identity, case, *form in identities(batches, only, options.namespaces.split(",")):
        kernel = kernel_of(identity["namespace"], case.kernel)
        if kernel is None or table.find(identity):
            continue
        maker = DeviceMaker(*form, "cuda")
        if made != (case, *form):  # the same arguments for all namespaces
            args = []
            torch.cuda.empty_cache()
            args, made = case.build(maker), (case, *form)

        one = Trial(case, kernel, args, maker, identity["N"] in checked)
        row = table.measure(identity, partial(one, failed_before(table, identity)))
        print(report_lines(row, copy_bytes), flush=True)
    sys.exit(any("error" in row for row in table.rows))


if __name__ == "__main__":
    main()
