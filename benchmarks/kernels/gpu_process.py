"""Runs one part of the check within its time, in as many processes as it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..environment import ROOT
from ..resume import LOST

GRACE_S = 5  # between the request to stop and the end
LEAST_S = 3  # less time than this is not worth a process
MOST_PROCESSES = 30
TICK_S = 15


@dataclass(frozen=True)
class Part:
    """A command with a time budget.

    Args:
        name: unique.
        command: writes what it finds to ``work / name``.
        budget_s: of a check of nine minutes.
        continues: whether it takes ``--continue``, to go on after a process that lost the device or died.
        needs: a program without which there is no such part.
    """

    name: str
    command: tuple[str, ...]
    budget_s: float
    continues: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    part: str
    status: str
    seconds: float
    log: str

    @property
    def last_line(self) -> str:
        """The last thing that the part said."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return lines[-1][:160] if lines else ""


def run_part(
    part: Part,
    seconds: float,
    environment: Mapping[str, str],
    between: Callable[[Part], None] = lambda part: None,
    command: Sequence[str] | None = None,
) -> Outcome:
    """Run a part for at most ``seconds``, its output kept.

    Args:
        part: what to run.
        seconds: for all of its processes together.
        environment: of the processes, added to this one's.
        between: called now and then while it runs, and between its processes.
        command: in place of the part's own.
    """
    if seconds < LEAST_S:
        return Outcome(part.name, "skipped: no time left", 0.0, "")
    start = time.monotonic()
    command = list(command or part.command)
    logs: list[str] = []
    while True:
        left = seconds - (time.monotonic() - start)
        code, log = _run(command, left, environment, lambda: between(part))
        logs.append(log)
        between(part)
        status = _status(code, seconds)
        again = part.continues and code is not None and (code == LOST or code < 0)
        late = seconds - (time.monotonic() - start) < LEAST_S
        if not again or late or len(logs) == MOST_PROCESSES:
            break
        if "--continue" not in command:
            command.append("--continue")
    if len(logs) > 1:
        status += f" in the last of {len(logs)} processes"
    return Outcome(part.name, status, time.monotonic() - start, "\n".join(logs))


def _status(code: int | None, seconds: float) -> str:
    if code is None:
        return f"stopped after {seconds:.0f} s"
    if code == LOST:
        return "lost the device"
    if code < 0:
        return f"died by {signal.Signals(-code).name}"
    return "ok" if code == 0 else f"failed with exit code {code}"


def _run(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str],
    tick: Callable[[], None],
) -> tuple[int | None, str]:
    """Exit code, None where it had to be stopped, and output."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            while code is None:
                left = end - time.monotonic()
                if left <= 0:
                    break
                try:
                    code = process.wait(timeout=min(left, TICK_S))
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            if code is None:
                _stop(process)
        log.seek(0)
        return code, log.read()


def _stop(process: subprocess.Popen) -> None:
    """Ask, as Ctrl-C does, so that pytest can still sum up; then insist, with all of its children."""
    with suppress(subprocess.TimeoutExpired, ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
