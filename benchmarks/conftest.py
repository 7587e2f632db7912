"""Options of ``pytest benchmarks/``, the progress line, and the report at the session's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report, rivals
from benchmarks.baselines import Entrant, entrants
from benchmarks.goals import goals_of
from benchmarks.records import OURS
from benchmarks.replay import clock, replay
from benchmarks.session import BACKENDS, DTYPES, SESSION, Session, names, options_of
from benchmarks.shapes import SIZES
from benchmarks.workload import FORMATS, Group


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
        "--rivals",
        action="store_true",
        help="compare with OpenVINO and ONNX Runtime too, where they are installed: .[rivals]",
    )
    group.addoption(
        "--output",
        type=Path,
        help="folder of the report (of a full run: benchmarks/results/, else build/)",
    )
    group.addoption(
        "--case",
        action="append",
        default=[],
        help='only groups with this in their name, such as "N=1," or "graph"; all of several',
    )
    group.addoption(
        "--continue",
        action="store_true",
        help="go on with the report in the output folder: keep its rows, leave out who failed",
    )
    group.addoption(
        "--detector", action="store_true", help="the whole detector too, which a full run has"
    )


def pytest_configure(config: pytest.Config) -> None:
    """One :class:`Session` for all benchmarks."""
    config.stash[SESSION] = Session(config, options_of(config))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Which rivals take part, and why another one does not."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if session.config.getoption("--rivals") and reporter is not None:
        for name, version in rivals.versions().items():
            reporter.write_line(f"{name}: {version}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An entry is one candidate of one group of the module's plan."""
    if "entry" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    groups = [group for group in metafunc.module.plan(session.options) if session.wants(group)]
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
        entry = item.callspec.params.get("entry") if hasattr(item, "callspec") else None
        if isinstance(entry, tuple):  # without any entry there is an item that will be skipped
            group, _ = entry
            item.add_marker(pytest.mark.benchmark(group=str(group.key), timer=clock))


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark):
    """Measures an entry's group, once for all of its entries, and records the entry's samples."""
    session = request.config.stash[SESSION]

    def measured(entry: tuple[Group, Entrant]) -> None:
        group, entrant = entry
        rows, omissions = session.results_of(group)
        found = [row for row in rows if names(row, entrant) and row.group == group.key]
        if found:
            benchmark.extra_info.update(found[0].to_json())
            replay(benchmark, found[0].samples_s)
            return
        benchmark.skipped = True
        reason = next(one.reason for one in omissions if names(one, entrant))
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


def _entry_id(group: Group, entrant: Entrant) -> str:
    key = group.key
    direction = "training" if "+" in key.direction else key.direction
    parts = (key.shape, key.dtype, direction, key.cache, key.clock, entrant)
    return "-".join(str(part).replace(", ", "-").replace(" ", "_") for part in parts)
