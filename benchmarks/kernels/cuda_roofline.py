"""A roofline on paper for every launch of the CUDA backend: COUNTED, nothing here is measured.

    python -m benchmarks.kernels.cuda_roofline [--batches 1] [--operators NAMES] [--places 5] [--markdown FILE]

The kernels run on the CPU (``csrc/checking/emulator``), every access is seen, and the 32 lanes of a warp that come
to the same place the same time are one instruction. ``least`` are the distinct sectors of 32 bytes that a
launch reads and writes, ``blocks`` those of each block, which L1 cannot keep, ``L1`` those of each
instruction. The time is what an H200 would need for the least bytes at 4.3 TB/s. ``conflicts`` says how many
times as long as without bank conflicts its shared memory is busy. The figures are of the source as the C++
compiler sees it: nvcc may merge or drop accesses, it does not add any but for spills.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from checking.cases import Maker
from checking.emulator import Emulation, emulation
from checking.real_shapes import FORMATS, real_cases

BYTES_PER_S = 4.3e12
HEADER = ("operator", "case", "format", "kernel", "blocks of threads", "least MB", "blocks MB")
HEADER += ("L1 MB", "warp accesses", "conflicts", "counted us")


def launches(
    emulated: Emulation, batches: list[int], only: set[str]
) -> Iterator[tuple[str, str, str, dict]]:
    """Operator, case, format and what one launch did."""
    for N in batches:
        for dtype, channels_last in FORMATS:
            name = f"{str(dtype).removeprefix('torch.')} "
            name += "channels_last" if channels_last else "contiguous"
            for case in real_cases(N):
                if only and case.kernel not in only:
                    continue
                args = case.build(Maker(dtype, channels_last, "cpu"))
                with emulated.counting() as done:
                    emulated.kernel(case.kernel)(*args)
                for launch in done:
                    yield case.kernel, case.id, name, launch


def total(launch: dict, key: str, shared: bool) -> int:
    return sum(place[key] for place in launch["places"] if place["shared"] == shared)


def cells(operator: str, case: str, form: str, launch: dict) -> tuple[str, ...]:
    """A row of the table, as text."""
    least = launch["read"] + launch["written"]
    wavefronts = total(launch, "wavefronts", True)
    return (
        operator,
        case,
        form,
        launch["kernel"].split("<")[0].removesuffix("_kernel"),
        str(launch["blocks"]),
        f"{least / 1e6:.2f}",
        f"{launch['of_blocks'] / 1e6:.2f}",
        f"{total(launch, 'moved', False) / 1e6:.2f}",
        f"{total(launch, 'instructions', False) / 1e3:.1f}k",
        f"{wavefronts / total(launch, 'least_wavefronts', True):.2f}" if wavefronts else "",
        f"{least / BYTES_PER_S * 1e6:.2f}",
    )


def hottest(emulated: Emulation, launch: dict, count: int) -> Iterator[str]:
    """The places in the source that move most, with what they move."""
    by_cost = sorted(launch["places"], key=lambda p: p["moved"] // 32 + p["wavefronts"])
    for place in by_cost[: -count - 1 : -1]:
        where = " <- ".join(emulated.place(place["code"])[:4])
        what = "writes" if place["write"] else "reads"
        memory = "shared" if place["shared"] else "global"
        yield (
            f"    {what} {memory}: {place['instructions']} warp accesses, "
            f"{place['requested'] / 1e6:.2f} MB requested, {place['moved'] / 1e6:.2f} MB through L1, "
            f"{place['wavefronts']} wavefronts ({place['least_wavefronts']} at least) at {where}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", default="1")
    parser.add_argument("--operators", default="", help="only these, separated by commas")
    parser.add_argument(
        "--places", type=int, default=0, help="show so many lines of the source each"
    )
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    emulated = emulation()
    only = set(filter(None, options.operators.split(",")))
    batches = [int(N) for N in options.batches.split(",")]
    rows = []
    for operator, case, form, launch in launches(emulated, batches, only):
        rows.append(cells(operator, case, form, launch))
        print("  ".join(rows[-1]), flush=True)
        for line in hottest(emulated, launch, options.places):
            print(line, flush=True)
    if options.markdown:
        title = "# CUDA kernels on paper\n\n**Counted, not measured.** "
        title += " ".join(__doc__.split("\n\n")[2].split()) + "\n\n"
        lines = [HEADER, ("---",) * 4 + ("---:",) * 7, *rows]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        options.markdown.write_text(title + table)


if __name__ == "__main__":
    main()
