"""Whether a run is slower than an earlier one, case by case.

    python -m benchmarks.compare OLD NEW [--limit 5] [--partial]

OLD and NEW are reports (``report.json`` or its folder) of the same device. For every row of ours: the new
time over the old one, and the same corrected by how the machine itself has changed, which the library floor
of the same group tells, or eager where there is none. A case is slower if the corrected ratio exceeds 1 by
more than the limit and the spread of the times that it was made of (half the distance of the quartiles
each, in quadrature). The exit code is 1 if a case is slower or missing, 2 if the runs cannot be compared.
``--partial`` allows NEW to have measured less.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import report
from .records import EAGER, FLOOR, OURS, REDUCED, GroupKey, Row

LIMIT = 5.0  # percent
# What has to be the same, or the ratios speak of something else.
SAME = ("device", "cpu_capability", "limits", "threads")

Case = tuple[GroupKey, str, str | None]
"""A group, a memory format and the backend that ran."""


@dataclass(frozen=True)
class Change:
    """A case in both runs."""

    case: Case
    old: Row
    new: Row
    drift: float
    """New over old of what we have no part in."""
    noise: float
    """Relative spread of the corrected ratio."""

    @property
    def ratio(self) -> float:
        """New time over old time."""
        return self.new.median_s / self.old.median_s

    @property
    def corrected(self) -> float:
        """The ratio without the machine's part in it."""
        return self.ratio / self.drift

    def verdict(self, limit: float) -> str:
        """``"slower"``, ``"faster"`` or nothing; ``limit`` as a fraction."""
        margin = 1 + limit + self.noise
        if self.corrected > margin:
            return "slower"
        return "faster" if 1 / self.corrected > margin else ""


def cases(rows: Sequence[Row]) -> dict[Case, Row]:
    """Ours by case; reduced precision is a case of its own."""
    return {
        (row.group, row.memory_format, row.ran_on if row.variant == OURS else row.label): row
        for row in rows
        if row.variant in (OURS, REDUCED)
    }


def anchors(rows: Sequence[Row]) -> dict[tuple[GroupKey, str], dict[str, Row]]:
    """The rows that tell how fast the machine was, by group and memory format."""
    found: dict[tuple[GroupKey, str], dict[str, Row]] = {}
    for row in rows:
        if row.variant in (FLOOR, EAGER):
            found.setdefault((row.group, row.memory_format), {})[row.variant] = row
    return found


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Every case that both runs have measured."""
    before, after = cases(old), cases(new)
    old_anchors, new_anchors = anchors(old), anchors(new)
    found = []
    for case in (case for case in before if case in after):
        first, second = before[case], after[case]
        drift, involved = 1.0, [first, second]
        was, now = old_anchors.get(case[:2], {}), new_anchors.get(case[:2], {})
        for variant in (FLOOR, EAGER):
            if variant in was and variant in now:
                drift = now[variant].median_s / was[variant].median_s
                involved += [was[variant], now[variant]]
                break
        noise = math.hypot(*(row.spread / 2 for row in involved))
        found.append(Change(case, first, second, drift, noise))
    return found


def table(found: Sequence[Change], limit: float) -> str:
    """Markdown, one line for each case."""
    names = ("operator", "shape", "direction", "dtype", "format", "backend", "clock", "old", "new",
             "new / old", "corrected", "spread", "verdict")  # fmt: skip
    cells = []
    for change in found:
        key, memory_format, backend = change.case
        what = (key.operator, key.shape, key.direction, key.dtype, memory_format, backend or "")
        times = (report.duration(row.median_s) for row in (change.old, change.new))
        ratios = f"{change.ratio:.3f}", f"{change.corrected:.3f}", f"{change.noise:.1%}"
        clock = f"{key.clock}, {key.cache}"
        cells.append((*what, clock, *times, *ratios, change.verdict(limit)))
    return report.table(names, cells)


def differences(old: dict, new: dict) -> list[str]:
    """Why the runs cannot be compared."""
    return [
        f"{name}: expected {old.get(name)!r} as in OLD, got {new.get(name)!r}"
        for name in SAME
        if old.get(name) != new.get(name)
    ]


def _folder(path: str) -> Path:
    folder = Path(path)
    folder = folder.parent if folder.name == report.JSON else folder
    if not (folder / report.JSON).exists():
        raise argparse.ArgumentTypeError(f"expected a {report.JSON} or its folder, got {path}")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two runs."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("old", type=_folder, help="report.json or its folder")
    parser.add_argument("new", type=_folder, help="report.json or its folder")
    parser.add_argument("--limit", type=float, default=LIMIT, help="percent that may be lost")
    parser.add_argument("--partial", action="store_true", help="NEW may have measured less")
    options = parser.parse_args(arguments)
    before, old, _ = report.read_json(options.old)
    after, new, _ = report.read_json(options.new)
    for name, run in (("old", before), ("new", after)):
        print(f"{name}: {report.headline(run)}")
    if reasons := differences(before, after):
        print("\n".join(("these runs cannot be compared:", *reasons)))
        return 2
    found = changes(old, new)
    if not found:
        print("these runs cannot be compared: they have no case of ours in common")
        return 2
    limit = options.limit / 100
    print(f"\n{table(found, limit)}")
    slower = [change for change in found if change.verdict(limit) == "slower"]
    missing = [case for case in cases(old) if case not in cases(new)]
    mean = statistics.geometric_mean(change.corrected for change in found)
    print(f"{len(found)} cases, {mean:.3f} in the geometric mean, {len(slower)} slower by more than "
          f"{options.limit:g} % and the spread, {len(missing)} missing")  # fmt: skip
    for change in slower:
        print(f"slower: {change.case[0]}, {change.case[1]}: {change.corrected:.3f}")
    for case in missing:
        print(f"missing: {case[0]}, {case[1]}, {case[2]}")
    return int(bool(slower) or bool(missing and not options.partial))


if __name__ == "__main__":
    sys.exit(main())
