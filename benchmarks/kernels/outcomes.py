"""A plugin of pytest: every outcome on disk as soon as it is known, and no test on a lost device.

    pytest -p benchmarks.kernels.outcomes --outcomes FOLDER tests

Names and messages of failures survive a run that is stopped. After an error that the device does not
recover from, the process leaves with ``LOST``: pytest-xdist then starts another worker for the rest, and
without it the caller starts pytest again with ``--continue``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..resume import LOST, poisoned

MESSAGE = 2000
DONE = "done.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where outcomes go."""
    parser.addoption("--outcomes", type=Path, required=True, help="folder of the outcomes")
    parser.addoption("--continue", action="store_true", help="leave out what has an outcome there")


def pytest_configure(config: pytest.Config) -> None:
    """One log for each process."""
    if config.getoption("--continue") and not os.environ.get("PYTEST_XDIST_WORKER"):
        remember(config.getoption("--outcomes"))
    config.pluginmanager.register(Outcomes(config), "outcomes of this process")


class Outcomes:
    """Writes the outcomes of one process, a controller or a worker."""

    def __init__(self, config: pytest.Config) -> None:
        folder: Path = config.getoption("--outcomes")
        folder.mkdir(parents=True, exist_ok=True)
        self.worker = os.environ.get("PYTEST_XDIST_WORKER")
        self.log = folder / f"{self.worker or 'main'}-{os.getpid()}.jsonl"
        done = folder / DONE
        self.done = set(json.loads(done.read_text())) if done.exists() else set()
        self.lost = False

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what an earlier process has done."""
        left = [item for item in items if item.nodeid not in self.done]
        if len(left) < len(items):
            config.hook.pytest_deselected(items=[i for i in items if i.nodeid in self.done])
            items[:] = left

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Noted, so that a test that kills the process has a name."""
        self.note(nodeid, "started", "")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Iterator[Any]:
        """After a failure, ask the device whether it still answers."""
        report = yield
        if report.failed and poisoned("cuda" if _has_gpu() else "cpu"):
            self.lost = True
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Failures of setup and teardown count; of what passes only the call."""
        if report.failed:
            self.note(report.nodeid, "failed", str(report.longrepr)[-MESSAGE:])
        elif report.when == "call" or report.skipped:
            self.note(report.nodeid, report.outcome, "")

    def pytest_runtest_logfinish(self) -> None:
        """Leave at once: nothing more can be learnt in this process."""
        if self.lost:
            os._exit(LOST)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Nothing left to do is no failure."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.done:
            session.exitstatus = pytest.ExitCode.OK

    def note(self, nodeid: str, outcome: str, message: str) -> None:
        """A line of the log."""
        with self.log.open("a") as log:
            log.write(json.dumps([nodeid, outcome, message]) + "\n")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def read(folder: Path) -> dict[str, dict[str, str]]:
    """``{name: {"outcome", "message"}}`` of all processes so far; a failure outlives a pass.

    A test that was started and has no end killed its process, or was stopped.
    """
    found: dict[str, dict[str, str]] = {}
    rank = ("started", "skipped", "passed", "failed")
    for log in sorted(folder.glob("*.jsonl")):
        for line in log.read_text().splitlines():
            try:
                nodeid, outcome, message = json.loads(line)
            except ValueError:  # cut off in the middle
                continue
            known = found.get(nodeid)
            if known is None or rank.index(outcome) > rank.index(known["outcome"]):
                found[nodeid] = {"outcome": outcome, "message": message}
    for entry in found.values():
        if entry["outcome"] == "started":
            entry.update(outcome="died", message="the process died or was stopped while it ran")
    return found


def remember(folder: Path) -> int:
    """Let the next process leave out what has been done; how many tests that is."""
    folder.mkdir(parents=True, exist_ok=True)
    done = sorted(read(folder))
    (folder / DONE).write_text(json.dumps(done))
    return len(done)
