"""Options of ``pytest benchmarks/``, the progress line, and the report at the session's end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report
from benchmarks.baselines import Entrant, entrants
from benchmarks.environment import ROOT, describe, slug
from benchmarks.goals import goals_of
from benchmarks.harness import Harness
from benchmarks.plan import Options
from benchmarks.records import OURS, Omission, Row
from benchmarks.replay import clock, replay
from benchmarks.shapes import SIZES
from benchmarks.workload import FORMATS, Group

BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")
DTYPES = ("float32", "bfloat16", "float16")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the benchmarks."""
    group = parser.getgroup("efpn_kernels benchmarks")
    group.addoption("--backend", default="auto", help=f"ours, comma-separated, of {BACKENDS}")
    group.addoption("--dtype", default="float32", help=f"comma-separated, of {DTYPES}")
    group.addoption("--size", default="quick", choices=SIZES, help="how much to measure")
    group.addoption("--format", default=",".join(FORMATS), help="memory formats, comma-separated")
    group.addoption(
        "--compiled",
        default="auto",
        choices=("auto", "none", "default", "all"),
        help="which forms of torch.compile to compare with (auto: what fits the size)",
    )
    group.addoption(
        "--output",
        type=Path,
        help="folder of the report (of a full run: benchmarks/results/, else build/)",
    )
    group.addoption(
        "--detector", action="store_true", help="the whole detector too, which a full run has"
    )


def pytest_configure(config: pytest.Config) -> None:
    """One :class:`Session` for all benchmarks."""
    config.stash[SESSION] = Session(config, options_of(config))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An entry is one candidate of one group of the module's plan."""
    if "entry" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    groups = metafunc.module.plan(session.options)
    session.total_groups += len(groups)
    entries = [
        (group, entrant)
        for group in groups
        for entrant in entrants(group, session.options.backends)
    ]
    metafunc.parametrize("entry", entries, ids=[_entry_id(*entry) for entry in entries])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One table of pytest-benchmark per group, on the clock that replays our samples."""
    for item in items:
        if "entry" in getattr(item, "fixturenames", ()):
            group, _ = item.callspec.params["entry"]
            item.add_marker(pytest.mark.benchmark(group=str(group.key), timer=clock))


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark):
    """Measures an entry's group, once for all of its entries, and records the entry's samples."""
    session = request.config.stash[SESSION]

    def measured(entry: tuple[Group, Entrant]) -> None:
        group, entrant = entry
        rows, omissions = session.results_of(group)
        found = [row for row in rows if _names(row, entrant) and row.group == group.key]
        if found:
            benchmark.extra_info.update(found[0].to_json())
            replay(benchmark, found[0].samples_s)
            return
        benchmark.skipped = True
        reason = next(one.reason for one in omissions if _names(one, entrant))
        if entrant.variant == OURS:
            pytest.fail(f"{entrant}: {reason}", pytrace=False)
        pytest.skip(reason)

    return measured


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """The goals, and where the report is."""
    session = config.stash[SESSION]
    if session.harness is None or not session.harness.rows:
        return
    session.write(complete=True)
    terminalreporter.write_sep("=", "goals")
    terminalreporter.write(report.goals_table(goals_of(session.harness.rows)))
    terminalreporter.write_line(f"\nreport: {session.output / report.MARKDOWN}")


class Session:
    """What the benchmarks of one pytest session share."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.output = output_of(config, options)
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
                torch.backends.cudnn.benchmark = True
                self.environment = describe(self.options.device) | {"size": self.options.size}
                self.harness = Harness(self.options.device, self.options.backends, self.progress)
            self.title = f"[{len(self.measured) + 1}/{self.total_groups}] {group.key}"
            self.progress("")
            self.measured[id(group)] = self.harness.measure(group)
            self.write(complete=False)
        return self.measured[id(group)]

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


def _names(found: Row | Omission, entrant: Entrant) -> bool:
    return Entrant(found.variant, found.memory_format, found.backend) == entrant


def _entry_id(group: Group, entrant: Entrant) -> str:
    key = group.key
    direction = "training" if "+" in key.direction else key.direction
    parts = (key.shape, key.dtype, direction, key.cache, key.clock, entrant)
    return "-".join(str(part).replace(", ", "-").replace(" ", "_") for part in parts)
