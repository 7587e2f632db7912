"""The folder of a check: at most seven files, each below 16 MiB, written again after every part.

``parts.json``      every part with its status: what ``--resume`` goes by
``report.json``     rows of the benchmarks, with the environment of the process that measured them
``report.md``       all of it for people
``kernels.json``    the single kernels
``tables.json``     convolutions, side stream and traces, by part
``tests.json``      the outcome of every test, messages of those that failed
``gpu_check.log``   what the parts said
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import report
from ..goals import goals_of
from ..records import Omission, Row
from . import gpu_kernels, gpu_trace, outcomes
from .gpu_process import Outcome, Part

PARTS, KERNELS, TABLES, TESTS, LOG = (
    "parts.json",
    "kernels.json",
    "tables.json",
    "tests.json",
    "gpu_check.log",
)
LARGEST = 16 * 2**20 - 2**16
LOG_BYTES = 1_000_000
RESUMED = "resumed"
TABLE = "table.json"
"""What a part that measures a table leaves in its folder."""


class Results:
    """Gathers what the parts leave in ``work`` into ``folder``."""

    def __init__(self, folder: Path, work: Path, parts: Sequence[Part]) -> None:
        self.folder, self.work, self.parts = folder, work, parts
        folder.mkdir(parents=True, exist_ok=True)
        self.outcomes: dict[str, Outcome] = {}

    def resume(self) -> list[str]:
        """Take up an earlier run in the folder; the names of the parts that have come to their end."""
        known = _read(self.folder / PARTS) or {"parts": []}
        logs = _split_log(self.folder / LOG)
        for one in known["parts"]:
            log = logs.get(one["part"], "")
            self.outcomes[one["part"]] = Outcome(one["part"], one["status"], one["seconds"], log)
        tables = _read(self.folder / TABLES) or {}
        kernels = _read(self.folder / KERNELS)
        tests = (_read(self.folder / TESTS) or {}).get("tests", {})
        for name, table in (tables | {"kernels": kernels}).items():
            if table is not None:
                self.kept(name).joinpath(TABLE).write_text(json.dumps(table))
        lines = [
            json.dumps([name, one["outcome"], one["message"]])
            for name, one in tests.items()
            if one["outcome"] != "died"
        ]
        if lines:
            self.kept("tests").joinpath("resumed.jsonl").write_text("\n".join(lines) + "\n")
        self.seed_into(self.kept(RESUMED))
        ended = ("ok", "failed", "absent")
        return [name for name, one in self.outcomes.items() if one.status.startswith(ended)]

    def kept(self, name: str) -> Path:
        """A part's folder, which is there."""
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed(self, part: Part) -> None:
        """Before a part goes on: the rows of all parts so far, so that it measures only the others."""
        self.seed_into(self.kept(part.name))

    def seed_into(self, folder: Path) -> None:
        """A copy of the report."""
        if (self.folder / report.JSON).exists():
            shutil.copyfile(self.folder / report.JSON, folder / report.JSON)

    def add(self, outcome: Outcome) -> None:
        """A part has ended: all files anew."""
        self.outcomes[outcome.part] = outcome
        self.write()

    def write(self) -> None:
        """Every file on its own: one that cannot be written costs no other."""
        for step in (
            self.write_parts,
            self.write_log,
            self.write_tables,
            self.write_tests,
            self.write_report,
        ):
            self.safely(step)

    def safely(self, step: Callable[[], None]) -> None:
        """A fault in the writing is told, and the rest is written."""
        try:
            step()
        except Exception:
            print(traceback.format_exc(), flush=True)

    def write_parts(self) -> None:
        """Statuses."""
        parts = [
            {"part": one.part, "status": one.status, "seconds": round(one.seconds, 1),
             "last line": one.last_line}
            for one in self.outcomes.values()
        ]  # fmt: skip
        _write(self.folder / PARTS, json.dumps({"parts": parts}, indent=1))

    def write_log(self) -> None:
        """The ends of what the parts said."""
        most = min(LOG_BYTES, LARGEST // max(len(self.outcomes), 1))
        parts = [f"==== {o.part}: {o.status}\n{o.log[-most:]}" for o in self.outcomes.values()]
        _write(self.folder / LOG, "\n".join(parts))

    def write_tables(self) -> None:
        """Kernels in a file of their own; the others by part."""
        tables = self.tables()
        kernels = tables.pop("kernels", None)
        if kernels is not None:
            _write_rows(self.folder / KERNELS, kernels)
        if tables:
            _write(self.folder / TABLES, json.dumps(tables, indent=1))

    def write_tests(self) -> None:
        """Names, outcomes, messages."""
        tests = self.tests()
        if tests:
            counts = {
                kind: sum(one["outcome"] == kind for one in tests.values())
                for kind in ("passed", "skipped", "failed", "died")
            }
            bad = [name for name, one in tests.items() if one["outcome"] in ("failed", "died")]
            found = {"counts": counts, "failed": bad, "tests": tests}
            _write(self.folder / TESTS, json.dumps(found, indent=1))

    def tables(self) -> dict[str, dict]:
        """What the parts have measured, by part."""
        found = {part.name: _read(self.work / part.name / TABLE) for part in self.parts}
        return {name: table for name, table in found.items() if table is not None}

    def tests(self) -> dict[str, dict[str, str]]:
        """The outcomes of all parts that test."""
        found: dict[str, dict[str, str]] = {}
        for part in self.parts:
            found |= outcomes.read(self.work / part.name)
        return found

    def rows(self) -> tuple[dict[str, Any] | None, list[Row], list[Omission]]:
        """The benchmarks' environment, rows and omissions."""
        names = (RESUMED, *(part.name for part in self.parts))
        return merged([self.work / name for name in names])

    def write_report(self) -> None:
        """Data first, then the text."""
        environment, rows, omissions = self.rows()
        tables = self.tables()
        for table in tables.values():
            environment = environment or table.get("environment")
        if environment is None:
            return
        environment |= {
            f"part {o.part}": f"{o.status}, {o.seconds:.0f} s" for o in self.outcomes.values()
        }
        report.write_json(self.folder, environment, rows, omissions)
        if (self.folder / report.JSON).stat().st_size > LARGEST:
            short = [replace(row, samples_s=()) for row in rows]
            report.write_json(self.folder, environment, short, omissions)
        sections = [
            report.markdown(environment, rows, omissions, []),
            tests_section(self.tests()),
            *(section(name, table) for name, table in tables.items()),
        ]
        _write(self.folder / report.MARKDOWN, "\n".join(filter(None, sections)))

    def goals(self) -> str:
        """The goals' table for the terminal."""
        return report.goals_table(goals_of(self.rows()[1]))


def merged(folders: Sequence[Path]) -> tuple[dict[str, Any] | None, list[Row], list[Omission]]:
    """The rows of several reports, and the environment of the latest.

    Rows of one group and memory format have to come from one process. Where a later report has
    measured them again, with more candidates, the earlier ones go.
    """
    environment: dict[str, Any] | None = None
    rows: list[Row] = []
    omissions: list[Omission] = []
    for folder in folders:
        if not (folder / report.JSON).exists():
            continue
        environment, later, left_out = report.read_json(folder)
        again = {(row.group, row.memory_format) for row in later}
        rows = [row for row in rows if (row.group, row.memory_format) not in again] + later
        known = {(one.group, one.memory_format, one.variant, one.backend) for one in left_out}
        omissions = [
            one
            for one in omissions
            if (one.group, one.memory_format) not in again
            and (one.group, one.memory_format, one.variant, one.backend) not in known
        ] + left_out
    return environment, rows, omissions


def tests_section(tests: dict[str, dict[str, str]]) -> str:
    """How many passed, and the names of those that did not."""
    if not tests:
        return ""
    bad = {n: e for n, e in tests.items() if e["outcome"] in ("failed", "died")}
    passed = sum(one["outcome"] == "passed" for one in tests.values())
    cells = [
        (name.replace("|", "/"), one["outcome"], _one_line(one["message"]))
        for name, one in bad.items()
    ]
    text = f"## Tests\n\n{passed} passed, {len(bad)} did not.\n"
    return text + ("\n" + report.table(("test", "outcome", "last words"), cells) if cells else "")


def section(name: str, table: dict[str, Any]) -> str:
    """A Markdown section of one part's table."""
    if "traces" in table:
        traces = [gpu_trace.markdown(one, found) for one, found in table["traces"].items()]
        return f"## Trace of {gpu_trace.STEPS} training steps\n\n" + "\n".join(traces)
    if not table.get("rows"):
        return ""
    if "copy_bytes_per_s" in table:
        return gpu_kernels.markdown(table)
    names = list(dict.fromkeys(key for row in table["rows"] for key in row))
    cells = [[_cell(row.get(key, "")) for key in names] for row in table["rows"]]
    return f"## {name.replace('_', ' ').capitalize()}\n\n{report.table(names, cells)}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _one_line(str(value))


def _one_line(text: str) -> str:
    return " ".join(text.split())[-160:].replace("|", "/")


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and never too large to be brought home."""
    data = text.encode()
    if len(data) > LARGEST:
        data = data[:LARGEST] + b"\n... cut: larger than what is brought home\n"
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _write_rows(path: Path, table: dict[str, Any]) -> None:
    """JSON that is too large loses rows from its end, and says so, but stays JSON."""
    rows = table["rows"]
    while len(text := json.dumps(table, indent=1)) > LARGEST:
        rows = rows[: len(rows) * 3 // 4]
        table = table | {"rows": rows, "rows_left_out": len(table["rows"]) - len(rows)}
    _write(path, text)


def _split_log(path: Path) -> dict[str, str]:
    """The log of each part, from the file that holds all of them."""
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    for chunk in ("\n" + path.read_text()).split("\n==== ")[1:]:
        title, _, log = chunk.partition("\n")
        found[title.split(":")[0]] = log
    return found
