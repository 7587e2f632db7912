"""Writes the README's measured tables and the reports' texts from the data under ``benchmarks/results``.

``python -m benchmarks.readme_table`` replaces what stands between ``<!-- benchmarks:cpu -->`` and
``<!-- /benchmarks:cpu -->``, and the same for ``gpu``, and renews every ``report.md``. With ``--check`` it
changes nothing and fails if one of them is not what it would write.

The figures are those of the backend that ``auto`` takes; what another one of ours takes stands in a
column of its own. A GPU has two tables: calls as a program makes them, and the kernels alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from efpn_kernels.backends import AUTO_ORDER

from . import report
from .environment import ROOT
from .goals import copy_share
from .records import (
    COMPILE,
    COMPILE_MAX,
    EAGER,
    FLOOR,
    FORWARD,
    OURS,
    TRAINING,
    GroupKey,
    Row,
    by_group,
)
from .shapes import CALL

RESULTS = ROOT / "benchmarks" / "results"
DEVICE_TYPES = {"cpu": "cpu", "gpu": "cuda"}
SHAPES = ("AI-TOD", "2 048", "10 000 000", CALL.name)  # of the goals, and a call's own cost
NOT_MEASURED = "No measurement on such a device has been committed yet.\n"


def tables(section: str) -> str:
    """One table per measured device of a section (``"cpu"`` or ``"gpu"``)."""
    parts = []
    for path in sorted(RESULTS.glob(f"*/{report.JSON}")):
        environment, rows, _ = report.read_json(path.parent)
        if environment["device_type"] == DEVICE_TYPES[section]:
            parts.append(device_table(path.parent, environment, rows))
    return "\n".join(parts) or NOT_MEASURED


def device_table(folder: Path, environment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The headline cases of one device, a table for each way to call them."""
    link = (folder / report.MARKDOWN).relative_to(ROOT).as_posix()
    parts = [f"{report.headline(environment)} ([whole report]({link}))\n"]
    preference = next(
        order.backends for order in AUTO_ORDER if order.device_type == environment["device_type"]
    )
    for title, wanted in WAYS[environment["device_type"]]:
        lines = []
        for key, members in by_group(list(rows)).items():
            if wanted(key) and key.direction in (FORWARD, TRAINING):
                for memory_format in dict.fromkeys(row.memory_format for row in members):
                    line = table_line(key, memory_format, members, preference)
                    if line is not None:
                        lines.append(line)
        if lines:
            lines.sort(key=lambda line: line["operator"])
            names = [name for name in lines[0] if any(line[name] for line in lines)]
            cells = [[line[name] for name in names] for line in lines]
            parts += [f"{title}\n"] * bool(title) + [report.table(names, cells)]
    return "\n".join(parts)


def cpu_call(key: GroupKey) -> bool:
    """Warm calls, of one image."""
    several = "N=" in key.shape and "N=1," not in key.shape
    return (
        key.shape.startswith(SHAPES) and (key.clock, key.cache) == ("wall", "warm") and not several
    )


def gpu_call(key: GroupKey) -> bool:
    """What a program sees that calls the operator: launches and Python included."""
    return key.shape.startswith(SHAPES) and (key.clock, key.cache) == ("events", "warm")


def gpu_graph(key: GroupKey) -> bool:
    """Kernels alone on cold tensors; those of a small loss stay in the cache whatever one does."""
    cache = "warm" if key.shape.startswith("2 048") else "cold"
    return key.shape.startswith(SHAPES) and (key.clock, key.cache) == ("graph", cache)


# By device type: the title of a table, and the cases that stand in it.
WAYS: dict[str, tuple[tuple[str, Callable[[GroupKey], bool]], ...]] = {
    "cpu": (("", cpu_call),),
    "cuda": (
        (
            "**Ordinary calls**, the host's work and launches included, on the same tensors in every "
            "call (clock `events`):",
            gpu_call,
        ),
        (
            "**The kernels alone**, replayed in a CUDA graph, on tensors that have left the cache "
            "(clock `graph`); the host's work does not count here:",
            gpu_graph,
        ),
    ),
}


def table_line(
    key: GroupKey, memory_format: str, rows: Sequence[Row], preference: Sequence[str]
) -> dict[str, str] | None:
    """Ours by the first of the preferred backends, how many times faster it is, and the other."""
    mine = {
        row.ran_on: row
        for row in rows
        if row.variant == OURS and row.memory_format == memory_format
    }
    chosen = [name for name in preference if name in mine]
    if not chosen:
        return None
    ours, others = mine[chosen[0]], chosen[1:]
    same = {row.variant: row for row in rows if row.memory_format == memory_format}
    eager = same.get(EAGER)
    kept = ""
    if eager is not None and eager.saved_own_bytes and ours.saved_own_bytes is not None:
        kept = f"{ours.saved_own_bytes / eager.saved_own_bytes:.0%}"
    share = copy_share(ours, rows)
    return {
        "operator": key.operator,
        "shape": key.shape,
        "direction": key.direction,
        "dtype": key.dtype,
        "format": memory_format,
        OURS: report.duration(ours.median_s),
        "backend": chosen[0],
        f"vs {EAGER}": _faster(ours, eager),
        f"vs {COMPILE}": _faster(ours, same.get(COMPILE)),
        f"vs {COMPILE_MAX}": _faster(ours, same.get(COMPILE_MAX)),
        f"/ {FLOOR}": report.ratio(report.over_floor(ours, rows)),
        "of copy": "" if share is None else f"{share:.0%}",
        "kept / eager's": kept,
        "other backend": ", ".join(f"{n} {report.duration(mine[n].median_s)}" for n in others),
    }


def _faster(ours: Row, other: Row | None) -> str:
    return "" if other is None else f"{other.median_s / ours.median_s:.2f}x"


def updated(readme: str) -> str:
    """The README with its tables renewed.

    Raises:
        ValueError: if a section's markers are missing.
    """
    for section in DEVICE_TYPES:
        start, end = f"<!-- benchmarks:{section} -->", f"<!-- /benchmarks:{section} -->"
        pattern = re.escape(start) + r".*?" + re.escape(end)
        text = f"{start}\n{tables(section)}{end}"
        readme, count = re.subn(pattern, lambda _, t=text: t, readme, count=1, flags=re.DOTALL)
        if not count:
            raise ValueError(f"README.md: expected {start} and, after it, {end}")
    return readme


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the README, or check it."""
    parser = argparse.ArgumentParser(prog="readme_table", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    options = parser.parse_args(arguments)
    readme = ROOT / "README.md"
    texts = {readme: updated(readme.read_text())}
    for path in sorted(RESULTS.glob(f"*/{report.JSON}")):
        texts[path.with_name(report.MARKDOWN)] = report.redone(path.parent)
    stale = [path for path, text in texts.items() if path.read_text() != text]
    for path in stale:
        if options.check:
            print(f"{path.relative_to(ROOT)}: out of date; run this without --check")
        else:
            path.write_text(texts[path])
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
