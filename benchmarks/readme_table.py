"""Writes the README's headline table and the reports' texts from the data under ``benchmarks/results``.

``python -m benchmarks.readme_table`` replaces what stands between ``<!-- benchmarks -->`` and
``<!-- /benchmarks -->``, and renews every ``report.md``. With ``--check`` it changes nothing and fails if one of
them is not what it would write.

A row's figures are those of the backend that ``auto`` takes. The rows are picked by hand: the cases that people
ask about, those included in which we are slower.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from efpn_kernels.backends import AUTO_ORDER

from . import report
from .environment import ROOT
from .records import COMPILE, EAGER, FORWARD, OURS, RIVALS, TRAINING, Row

RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
MOST_ROWS = 8


@dataclass(frozen=True)
class Headline:
    """A case of the headline table: which rows of which results."""

    title: str
    folder: str
    operator: str
    shape: str
    direction: str
    dtype: str = "float32"
    memory_format: str = "contiguous"
    clock: str = "wall"
    cache: str = "warm"


_CPU, _GPU = "cpu-amd-epyc-avx512-2c", "nvidia-h200"
_BLOCK = "AI-TOD 800x800, N=1, P2 200x200, hidden 256"
_HALF = {"dtype": "bfloat16", "memory_format": "channels_last"}
HEADLINES = (
    Headline("block, 200x200 map", _CPU, "EFPNBS", _BLOCK, FORWARD),
    Headline("block, 200x200 map", _CPU, "EFPNBS", _BLOCK, TRAINING),
    Headline("block, a gate per channel", _CPU, "EFPNBS", f"{_BLOCK}, gate 256", TRAINING),
    Headline("block, 8x8 map", _CPU, "EFPNBS", "one call, N=1, P2 8x8, hidden 8", FORWARD),
    Headline("DCLoss, 10 million elements", _CPU, "DCLoss", "10 000 000 elements", FORWARD),
    Headline("block, 200x200 map", _GPU, "EFPNBS", _BLOCK, FORWARD, **_HALF, clock="events"),
    Headline("block, 200x200 map", _GPU, "EFPNBS", _BLOCK, TRAINING, **_HALF, clock="events"),
    Headline(
        "the same in a CUDA graph", _GPU, "EFPNBS", _BLOCK, TRAINING, **_HALF, clock="graph", cache="cold"
    ),
)  # fmt: skip


def section() -> str:
    """The table, and below it a line for each file that its figures come from."""
    lines, sources = [], []
    for one in HEADLINES:
        environment, rows, _ = report.read_json(RESULTS / one.folder)
        order = next(o for o in AUTO_ORDER if o.device_type == environment["device_type"])
        lines.append(table_line(one, environment["device"], rows, order.backends))
        link = (RESULTS / one.folder / report.MARKDOWN).relative_to(ROOT).as_posix()
        source = f"- {report.headline(environment)}: [whole report]({link})"
        sources += [source] * (source not in sources)
    names = [name for name in lines[0] if any(line[name] for line in lines)]
    cells = [[line[name] for name in names] for line in lines]
    return report.table(names, cells) + "\n" + "\n".join(sources) + "\n"


def table_line(
    one: Headline, device: str, rows: Sequence[Row], preference: Sequence[str]
) -> dict[str, str]:
    """One case on the first of the preferred backends that was measured.

    Raises:
        ValueError: if none was.
    """
    wanted = (one.operator, one.shape, one.direction, one.dtype, one.memory_format, one.clock)
    same = [row for row in rows if _of(row) == wanted and row.cache == one.cache]
    mine = {row.ran_on: row for row in same if row.variant == OURS}
    backend = next((name for name in preference if name in mine), None)
    if backend is None:
        raise ValueError(f"{one.folder}: expected rows of {', '.join(wanted)}, found none")
    ours, others = mine[backend], {row.variant: row for row in same if row.variant != OURS}
    eager = others.get(EAGER)
    saved = ""
    if eager is not None and eager.saved_own_bytes and ours.saved_own_bytes is not None:
        saved = f"{ours.saved_own_bytes / eager.saved_own_bytes:.0%}"
    return {
        "device": "H200" if "H200" in device else "CPU, 2 cores",
        "what": f"{one.title}, {one.direction.replace('forward + backward', 'training')}",
        "dtype": one.dtype,
        "backend": backend,
        "time": report.duration(ours.median_s),
        f"vs {EAGER}": _faster(ours, eager),
        **{f"vs {name}": _faster(ours, others.get(name)) for name in (COMPILE, *RIVALS)},
        "saved": saved,
    }


def _of(row: Row) -> tuple[str, ...]:
    return row.operator, row.shape, row.direction, row.dtype, row.memory_format, row.clock


def _faster(ours: Row, other: Row | None) -> str:
    return "" if other is None else f"{other.median_s / ours.median_s:.2f}x"


def updated(readme: str) -> str:
    """The README with its table renewed.

    Raises:
        ValueError: if the markers are missing.
    """
    pattern = re.escape(START) + r".*?" + re.escape(END)
    text = f"{START}\n{section()}{END}"
    readme, count = re.subn(pattern, lambda _: text, readme, count=1, flags=re.DOTALL)
    if not count:
        raise ValueError(f"README.md: expected {START} and, after it, {END}")
    return readme


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the README and the reports, or check them."""
    parser = argparse.ArgumentParser(prog="readme_table", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    options = parser.parse_args(arguments)
    readme = ROOT / "README.md"
    texts: dict[Path, str] = {readme: updated(readme.read_text())}
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
