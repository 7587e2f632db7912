"""A roofline on paper for every launch of the Triton backend: COMPUTED, nothing here is measured.

    python -m benchmarks.kernels.triton_roofline [--batches 1,2,8] [--json FILE] [--markdown FILE]

Bytes and operations are counted from the launches at the shapes of a detector (``csrc/checking/counting.py``), with no
GPU. The time is what an H200 would need if one of these were all of it: every tensor through memory once
at 4.3 TB/s; floating-point operations at 60 TFLOP/s, the rate of float32 outside of the tensor cores; matrix
products at 790 TFLOP/s, bfloat16 in the tensor cores. ``requested`` are the bytes that the programs load and
store, of which caches may serve many; launches shorter than a few microseconds are bound by latency.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import triton

from checking.counting import EmptyMaker, Launch, counting
from checking.real_shapes import FORMATS, LOW, real_cases

BYTES_PER_S = 4.3e12
OPERATIONS_PER_S = 60e12
DOT_OPERATIONS_PER_S = 790e12
LABEL = "computed from the launches, not measured"


def times(launch: Launch) -> dict[str, float]:
    """Microseconds by what could bound a launch."""
    return {
        "memory": launch.bytes / BYTES_PER_S * 1e6,
        "operations": launch.operations / OPERATIONS_PER_S * 1e6,
        "tensor cores": launch.dot_operations / DOT_OPERATIONS_PER_S * 1e6,
    }


def calls(
    N: int, maker: EmptyMaker, only: set[str]
) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Every operator, and the convolutions where they can run: name, case and a call."""
    from efpn_kernels.triton import KERNELS, convolution

    launchers = {kernel.__name__: kernel for kernel in KERNELS}
    for case in real_cases(N):
        if not only or case.kernel in only:
            args = case.build(maker)
            yield case.kernel, case.id, lambda k=case.kernel, a=args: launchers[k](*a)
    x = maker.map(N, 256, *LOW)
    if not convolution.can_run(x) or (only and "conv3x3" not in only):
        return
    weight, bias = maker.map(256, 256, 3, 3), maker.normal(256)
    border, context = maker.accumulated(N, 3, 3, 256), maker.accumulated(N, 256)
    gate = (border, maker.normal(256), maker.normal(1))
    mask = maker.gate(N, *LOW)
    name = f"{N}x256x{LOW[0]}x{LOW[1]}"
    yield "low_gate_conv", f"{name}", lambda: convolution.low_gate_conv(x, weight, *gate, False)
    yield "low_gate_conv", f"keep-{name}", lambda: convolution.low_gate_conv(x, weight, *gate, True)
    yield "refine_conv", name, lambda: convolution.refine_conv(x, context, mask, weight, bias)


def rows(batches: list[int], only: set[str]) -> Iterator[dict]:
    """One row for each launch."""
    for N in batches:
        for dtype, channels_last in FORMATS:
            maker = EmptyMaker(dtype, channels_last, "cpu")
            for operator, case, call in calls(N, maker, only):
                with counting() as launches:
                    call()
                for launch in launches:
                    by = times(launch)
                    bound = max(by, key=by.__getitem__)
                    yield {
                        "operator": operator,
                        "case": case,
                        "N": N,
                        "dtype": str(dtype).removeprefix("torch."),
                        "layout": "channels_last" if channels_last else "contiguous",
                        "kernel": launch.kernel,
                        "programs": launch.programs,
                        "bytes": launch.bytes,
                        "requested_bytes": launch.requested,
                        "operations": launch.operations,
                        "tensor_core_operations": launch.dot_operations,
                        "computed_us": by[bound],
                        "bound": bound,
                    }


HEADER = (
    "operator",
    "case",
    "format",
    "kernel",
    "MB",
    "MB requested",
    "M operations",
    "M in tensor cores",
    "computed us",
    "bound by",
)


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    return (
        row["operator"],
        row["case"],
        f"{row['dtype']} {row['layout']}",
        row["kernel"].removesuffix("_kernel"),
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['requested_bytes'] / 1e6:.2f}",
        f"{row['operations'] / 1e6:.2f}",
        f"{row['tensor_core_operations'] / 1e6:.0f}",
        f"{row['computed_us']:.2f}",
        row["bound"],
    )


def markdown(table: list[dict]) -> str:
    """The table, and above it what it is."""
    title = "# Triton kernels on paper: what an H200 would need\n\n"
    title += f"**{LABEL.capitalize()}**: " + " ".join(__doc__.split("\n\n")[2].split()) + "\n\n"
    lines = [HEADER, ("---",) * 4 + ("---:",) * 5 + ("---",), *map(cells, table)]
    return title + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", default="1,2,8")
    parser.add_argument("--operators", default="", help="only these, separated by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    only = set(filter(None, options.operators.split(",")))
    table = []
    for row in rows([int(N) for N in options.batches.split(",")], only):
        table.append(row)
        print("  ".join(cells(row)), flush=True)
    rates = {"bytes_per_s": BYTES_PER_S, "operations_per_s": OPERATIONS_PER_S}
    rates["tensor_core_operations_per_s"] = DOT_OPERATIONS_PER_S
    report = {"what": LABEL, "rates": rates, "triton": triton.__version__, "rows": table}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    if options.markdown:
        options.markdown.write_text(markdown(table))


if __name__ == "__main__":
    main()
