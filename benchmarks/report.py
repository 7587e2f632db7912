"""Rows to JSON and Markdown. A report is written from the JSON alone, so it can be redone later."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import headline
from .goals import Goal, copy_share, goals_of
from .records import (
    FLOOR,
    PICTURES,
    GroupKey,
    Omission,
    Row,
    by_group,
    speedup_over,
)

JSON = "report.json"
MARKDOWN = "report.md"
SCHEMA = 1
# A number with its unit: right-aligned in tables.
NUMERIC = re.compile(r"[≤≥]? ?[\d.e+-]+ ?(x|%|s|ms|us|MiB)?")

READING = """\
Every group of rows was measured interleaved (A B A B ...) in one process, after each candidate had
passed its check against the float64 oracle. Times are medians, the spread is the distance of the
quartiles relative to the median. "Ours is" says how many times faster ours is than the row: above 1
we are faster, below 1 slower. The error is the largest relative error (Frobenius norm) of the
output, and in training of every gradient. Biases keep every ReLU's input off zero: where rounding
decides a sign, an error says nothing. The library floor is the full-resolution convolutions
alone, without bias. OpenVINO and ONNX Runtime run the exported eager module, for contiguous maps, with as
many threads. "Autograd alone" is an empty autograd Function of the same leaves, called in the
same way: what a small loss takes that computes nothing. "Kept" is what autograd saves for backward, parameters excluded: all of it, and
without the operator's own inputs and outputs. GB/s count the bytes that have to move, once; the
copy moves the same number of bytes. "Warm" repeats the same tensors; "cold" rotates through more
than the cache holds, and on a CPU results are written to newly allocated memory, page faults included, as
large ones are with the C library's defaults (when warm, freed memory is kept). Clock "wall" is the
host's, "events" times calls on the device, launches included, "graph" the kernels alone in a replayed
CUDA graph. The first call has all one-time costs.
The fused DCLoss computes its gradients in the forward pass: compare forward + backward there.
"""


def write_json(
    folder: Path,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    omissions: Sequence[Omission],
) -> None:
    """Write the data; an interrupted write leaves the previous file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "schema": SCHEMA,
        "environment": dict(environment),
        "rows": [row.to_json() for row in rows],
        "omissions": [omission.to_json() for omission in omissions],
    }
    partial = folder / (JSON + ".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, folder / JSON)


def read_json(folder: Path) -> tuple[dict[str, Any], list[Row], list[Omission]]:
    """The environment, the rows and the omissions of a report."""
    data = json.loads((folder / JSON).read_text())
    if data["schema"] != SCHEMA:
        raise ValueError(f"{folder / JSON}: expected schema {SCHEMA}, got {data['schema']}")
    rows = [Row(**row | {"samples_s": tuple(row["samples_s"])}) for row in data["rows"]]
    omissions = [Omission(**omission) for omission in data["omissions"]]
    return data["environment"], rows, omissions


def write_report(folder: Path, appendix: str = "") -> None:
    """Markdown and pictures from the folder's JSON; without matplotlib there are no pictures."""
    environment, rows, omissions = read_json(folder)
    pictures: list[str] = []
    try:
        from .plots import draw
    except ModuleNotFoundError as missing:
        appendix += f"\nNo pictures: the Python package {missing.name} is missing.\n"
    else:
        pictures = draw(folder, environment, rows)
    (folder / MARKDOWN).write_text(markdown(environment, rows, omissions, pictures) + appendix)


def redone(folder: Path) -> str:
    """The Markdown that the folder's JSON gives today, with the pictures that are there."""
    pictures = [name for name in PICTURES if (folder / name).exists()]
    return markdown(*read_json(folder), pictures)


def markdown(
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    omissions: Sequence[Omission],
    pictures: Sequence[str],
) -> str:
    """The whole report, goals first."""
    parts = [f"# Benchmarks on {environment['device']}\n", headline(environment) + "\n"]
    parts += ["## Goals\n", goals_table(goals_of(rows))]
    parts += [f"![{Path(name).stem}]({name})\n" for name in pictures]
    parts += ["## How to read the tables\n", READING]
    operator = None
    for key, members in by_group(list(rows)).items():
        if key.operator != operator:
            operator = key.operator
            parts.append(f"## {operator}\n")
        parts += [f"### {group_title(key)}\n", group_table(members)]
    if omissions:
        parts += ["## Left out\n", omissions_table(omissions)]
    parts += ["## Environment\n", environment_table(environment)]
    return "\n".join(parts)


def goals_table(goals: Sequence[Goal]) -> str:
    """Goal, bound, measured ratio, and whether it is met or by how much it is missed."""
    if not goals:
        return "None of the goals' shapes was measured in this run.\n"
    cells = [
        (goal.what, goal.required.replace("<=", "≤").replace(">=", "≥"), f"{goal.measured:.2f}",
         goal.distance)
        for goal in goals
    ]  # fmt: skip
    return table(("goal", "required", "measured", "result"), cells)


def group_title(key: GroupKey) -> str:
    """What one table is about."""
    return f"{key.shape}: {key.direction}, {key.dtype}, {key.cache}, {key.clock}"


def group_table(rows: Sequence[Row]) -> str:
    """The rows of one group beside each other; columns that no row fills are left out."""
    cells = [row_cells(row, rows) for row in rows]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    return table(names, [[row[name] for name in names] for row in cells])


def row_cells(row: Row, rows: Sequence[Row]) -> dict[str, str]:
    """One row for people."""
    share = copy_share(row, rows)
    throughput = row.traffic_bytes / row.median_s / 1e9 if row.traffic_bytes else None
    return {
        "candidate": row.label,
        "format": row.memory_format,
        "time": duration(row.median_s),
        "spread": f"{row.spread:.1%}",
        "ours is": ratio(speedup_over(row, rows)),
        "/ floor": ratio(over_floor(row, rows)),
        "error": "" if row.error is None else f"{row.error:.1e}",
        "GB/s": "" if throughput is None else f"{throughput:.1f}",
        "of copy": "" if share is None else f"{share:.0%}",
        "kept": mebibytes(row.saved_bytes),
        "kept, own": mebibytes(row.saved_own_bytes),
        "peak": mebibytes(row.peak_bytes),
        "first call": "" if row.first_call_s is None else duration(row.first_call_s),
    }


def over_floor(row: Row, rows: Sequence[Row]) -> float | None:
    """The row's time as a multiple of the library floor's in the same format."""
    if row.variant == FLOOR:
        return None
    for other in rows:
        if other.variant == FLOOR and other.memory_format == row.memory_format:
            return row.median_s / other.median_s
    return None


def omissions_table(omissions: Sequence[Omission]) -> str:
    """Who was not timed, and why."""
    cells = []
    for one in omissions:
        where = f"{one.operator}, {one.shape}, {one.dtype}, {one.direction}, {one.cache}"
        backend = f" ({one.backend})" if one.backend else ""
        who = f"{one.variant}{backend}, {one.memory_format}"
        cells.append((who, f"{where}, {one.clock}", one.reason.replace("|", "/")))
    return table(("candidate", "case", "reason"), cells)


def environment_table(environment: Mapping[str, Any]) -> str:
    """Every entry of the environment block."""
    return table(("", ""), [(name, str(value)) for name, value in environment.items()])


def table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned source."""
    lines = [list(names), *[list(row) for row in cells]]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(names))]
    numeric = [
        all(NUMERIC.fullmatch(line[column]) for line in lines[1:] if line[column])
        for column in range(len(names))
    ]
    rule = ["-" * (width - 1) + ":" if right else "-" * width
            for width, right in zip(widths, numeric, strict=True)]  # fmt: skip
    lines.insert(1, rule)
    return "".join(
        "| " + " | ".join(_pad(*cell) for cell in zip(line, widths, numeric, strict=True)) + " |\n"
        for line in lines
    )


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.2f} us"


def ratio(value: float | None) -> str:
    """``1.85x``, or nothing."""
    return "" if value is None else f"{value:.2f}x"


def mebibytes(size: int | None) -> str:
    """``41.0 MiB``, or nothing."""
    return "" if size is None else f"{size / 2**20:.1f} MiB"
