"""What the benchmarks of one pytest session share: options, harness, the report as it grows."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from . import report, rivals
from .baselines import Entrant, entrants
from .contestant import omission
from .environment import ROOT, describe, slug
from .harness import Harness
from .plan import Options
from .records import BACKWARD, Omission, Row
from .resume import DIED, LOST, DeviceLost, Marker
from .workload import FORMATS, Group

BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")
DTYPES = ("float32", "bfloat16", "float16")


class Session:
    """What the benchmarks of one pytest session share."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.output = output_of(config, options)
        self.continues = config.getoption("--continue")
        self.marker = Marker(self.output / "running.json" if self.continues else None)
        self.harness: Harness | None = None
        self.environment: dict[str, Any] = {}
        self.total_groups = 0
        self.measured: dict[int, tuple[list[Row], list[Omission]]] = {}
        self.started = time.monotonic()
        self.title = ""

    def results_of(self, group: Group) -> tuple[list[Row], list[Omission]]:
        """The rows of a group, measured when they are first asked for."""
        if id(group) not in self.measured:
            if self.harness is None:
                self.start()
            self.title = f"[{len(self.measured) + 1}/{self.total_groups}] {group.key}"
            self.progress("")
            self.measured[id(group)] = self.kept(group) or self.measure(group)
        return self.measured[id(group)]

    def wants(self, group: Group) -> bool:
        """Whether ``--case`` asks for the group."""
        return all(text in str(group.key) for text in self.config.getoption("--case"))

    def start(self) -> None:
        """A harness, with the rows of the run that this one continues."""
        torch.backends.cudnn.benchmark = True
        self.environment = describe(self.options.device) | {"size": self.options.size}
        if self.config.getoption("--rivals"):
            self.environment |= rivals.versions()
        self.harness = Harness(self.options.device, self.options.backends, self.progress, self.note)
        if not self.continues or not (self.output / report.JSON).exists():
            return
        before, self.harness.rows, self.harness.omissions = report.read_json(self.output)
        for name in ("device", "commit", "torch"):
            if before.get(name) != self.environment[name]:
                raise pytest.UsageError(
                    f"--continue: expected {name} {before.get(name)!r} as in {self.output}, "
                    f"got {self.environment[name]!r}; name another --output"
                )

    def note(self, group: Group, entrant: Entrant) -> None:
        """Who runs now, on disk, for the process that continues if this one dies."""
        self.marker.set(omission(group, entrant, DIED).to_json())

    def kept(self, group: Group) -> tuple[list[Row], list[Omission]] | None:
        """What the run before has measured, if it has done with all of the group's entrants."""
        dead = self.marker.left_behind()
        if dead is not None:
            self.harness.omissions.append(Omission(**dead))
        rows, omissions = (
            [one for one in found if one.group == group.key and one.memory_format in formats]
            for formats in [group.workload.formats]
            for found in (self.harness.rows, self.harness.omissions)
        )
        done = all(
            any(names(one, entrant) for one in (*rows, *omissions))
            for entrant in entrants(group, self.options.backends)
        )
        return (rows, omissions) if done else None

    def measure(self, group: Group) -> tuple[list[Row], list[Omission]]:
        """The group's rows, those of a run before replaced: one process has to measure all of them."""
        harness = self.harness
        everyone = entrants(group, self.options.backends)
        keys = group.key, replace(group.key, direction=BACKWARD)
        failed = [
            one
            for one in harness.omissions
            if one.group == group.key and any(names(one, entrant) for entrant in everyone)
        ]
        harness.rows = [
            row
            for row in harness.rows
            if row.group not in keys or not any(names(row, entrant) for entrant in everyone)
        ]
        without = [one for one in everyone if any(names(left, one) for left in failed)]
        try:
            rows, omissions = harness.measure(group, without)
        except DeviceLost as lost:
            self.marker.clear()
            self.write(complete=False)
            pytest.exit(f"the device is lost to this process: {lost}", returncode=LOST)
        self.marker.clear()
        self.write(complete=False)
        return rows, [*failed, *omissions]

    def write(self, complete: bool) -> None:
        """The report; until the session is complete its data alone, so that nothing is lost."""
        report.write_json(self.output, self.environment, self.harness.rows, self.harness.omissions)
        if complete:
            report.write_report(self.output)

    def progress(self, text: str) -> None:
        """One line that rewrites itself on a terminal; one line per group elsewhere."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        line = f"{minutes:02d}:{seconds:02d} {self.title}"
        with self.visible():
            if sys.stderr.isatty():
                line = f"{line}: {text}" if text else line
                sys.stderr.write(f"\r\033[K{line[:160]}")
            elif not text:
                sys.stderr.write(f"\n{line}")
            sys.stderr.flush()

    def visible(self):
        """A context in which pytest lets output through."""
        return self.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled()


SESSION = pytest.StashKey[Session]()


def options_of(config: pytest.Config) -> Options:
    """The command line, checked."""
    backends = _chosen(config, "--backend", BACKENDS)
    dtypes = tuple(getattr(torch, name) for name in _chosen(config, "--dtype", DTYPES))
    on_gpu = torch.cuda.is_available() and backends != ("cpu",)
    return Options(
        size=config.getoption("--size"),
        device="cuda" if on_gpu else "cpu",
        backends=backends,
        dtypes=dtypes,
        formats=_chosen(config, "--format", tuple(FORMATS)),
        compiled=config.getoption("--compiled"),
        rivals=rivals.installed() if config.getoption("--rivals") else (),
    )


def output_of(config: pytest.Config, options: Options) -> Path:
    """``--output``, else the device's folder; only a full run replaces what is committed there."""
    chosen = config.getoption("--output")
    if chosen is not None:
        return chosen.resolve()
    if options.size != "full":
        return ROOT / "build" / f"benchmarks-{options.size}"
    return ROOT / "benchmarks" / "results" / slug(options.device)


def _chosen(config: pytest.Config, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(config.getoption(option).split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise pytest.UsageError(f"{option}: expected some of {known}, got {unknown[0]!r}")
    return names


def names(found: Row | Omission, entrant: Entrant) -> bool:
    return Entrant(found.variant, found.memory_format, found.backend) == entrant
