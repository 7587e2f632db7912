"""Build, test and benchmark on one CUDA machine, within nine minutes and without any download.

``python -m benchmarks.kernels.gpu_check [FOLDER]`` runs its stages one after the other, each within its
own time budget, and merges what they left into one report: a stage that fails or runs out of time
costs nobody else's results. At most eight files are written to the folder, which is
``build/gpu-check`` unless another is named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from .. import report
from ..environment import ROOT, describe
from ..goals import goals_of
from ..records import Omission, Row

LIMIT_S = 525
RESERVE_S = 15  # for the report
GRACE_S = 5  # between the request to stop and the end
# Operators in processes of their own, with their time budgets.
MEASURED = {"efpn_bs": 90, "cem": 35, "dc_loss": 40}
COMPILED = "compiled"
KERNELS = "kernels.json"
LOG = "gpu_check.log"
LOG_BYTES = 400_000


@dataclass(frozen=True)
class Stage:
    """A command with a time budget; benchmarks and kernel tables write to a folder of their own."""

    name: str
    command: tuple[str, ...]
    budget_s: float


@dataclass(frozen=True)
class Outcome:
    """What came of a stage."""

    stage: Stage
    status: str
    seconds: float
    log: str

    @property
    def last_line(self) -> str:
        """The last thing that the stage said."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return lines[-1][:120] if lines else ""


def stages(work: Path) -> list[Stage]:
    """What is run, the most telling first."""
    python = sys.executable
    pytest = (python, "-m", "pytest", "-p", "no:cacheprovider")
    workers = ("-n", "4") if find_spec("xdist") else ()
    ours = ("--backend", "cuda,triton")
    found = [
        Stage("build", (python, "setup.py", "build_libraries", "--inplace"), 120),
        Stage(
            "tests",
            (*pytest, "tests", "-q", "-k", "cuda", "--ignore=tests/mmdet",
             "--ignore=tests/test_cuda_values.py", "--tb=short", "--maxfail=40", *workers),
            110,
        ),
        *(
            Stage(
                operator,
                (*pytest, f"benchmarks/bench_{operator}.py", *ours, "--dtype", "bfloat16,float32",
                 "--compiled", "none", "--output", str(work / operator)),
                budget,
            )
            for operator, budget in MEASURED.items()
        ),
        Stage(
            "kernels",
            (python, "-m", "benchmarks.kernels.gpu_kernels", "--check-batches", "1",
             "--json", str(work / KERNELS)),
            40,
        ),
        Stage(
            COMPILED,
            (*pytest, "benchmarks/bench_efpn_bs.py", *ours, "--dtype", "bfloat16",
             "--format", "channels_last", "--compiled", "all", "-k", "forward and graph",
             "--output", str(work / COMPILED)),
            110,
        ),
    ]  # fmt: skip
    if shutil.which("compute-sanitizer"):
        small = ("tests/test_kernels.py", "-q", "-k", "efpn-cuda and float32 and contract")
        found += [
            Stage(tool, ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1",
                         *pytest, *small), 30)
            for tool in ("memcheck", "racecheck")
        ]  # fmt: skip
    return found


def run_stage(stage: Stage, seconds: float) -> Outcome:
    """Run a stage for at most ``seconds``, its output kept."""
    if seconds < 1:
        return Outcome(stage, "skipped: no time left", 0.0, "")
    major, minor = torch.cuda.get_device_capability()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}"),
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count())),
    }
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
            status = "ok" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            _stop(process)
            status = f"stopped after {seconds:.0f} s"
        log.seek(0)
        return Outcome(stage, status, time.monotonic() - start, log.read())


def _stop(process: subprocess.Popen) -> None:
    """Ask, as Ctrl-C does, so that pytest can still sum up; then insist."""
    for request in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, request)
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def merged(folders: Sequence[Path]) -> tuple[list[Row], list[Omission]]:
    """The rows of several reports.

    Rows of one group and memory format have to come from one process. Where a later report has
    measured them again, with more candidates, the earlier ones go.
    """
    rows: list[Row] = []
    omissions: list[Omission] = []
    for folder in folders:
        if not (folder / report.JSON).exists():
            continue
        _, later, left_out = report.read_json(folder)
        again = {(row.group, row.memory_format) for row in later}
        rows = [row for row in rows if (row.group, row.memory_format) not in again] + later
        omissions = [
            one for one in omissions if (one.group, one.memory_format) not in again
        ] + left_out
    return rows, omissions


def kernel_table(path: Path) -> str:
    """A Markdown section with the single kernels' times, from the JSON of ``gpu_kernels``."""
    if not path.exists():
        return ""
    data = json.loads(path.read_text())
    copy = data["copy_bytes_per_s"]
    names = ("kernel", "case", "format", "namespace", "time", "GB/s", "of copy", "call", "result")
    cells = []
    for row in data["rows"]:
        cell = [row["kernel"], row["case"], row["format"], row["namespace"], "", "", "", "", "ok"]
        if "error" in row:
            cell[-1] = " ".join(row["error"].split())[:120].replace("|", "/")
        else:
            rate = row["bytes"] / row["us"] * 1e6
            cell[4:7] = report.duration(row["us"] / 1e6), f"{rate / 1e9:.0f}", f"{rate / copy:.0%}"
            cell[7] = report.duration(row["host_us"] / 1e6) if "host_us" in row else ""
        cells.append(cell)
    note = f"Copy bandwidth in the same run: {copy / 1e9:.0f} GB/s. Cold tensors, graph replay.\n"
    return f"\n## Single kernels\n\n{note}\n{report.table(names, cells)}" if cells else ""


def write(folder: Path, work: Path, outcomes: Sequence[Outcome]) -> list[Row]:
    """The report, the log, and what the kernels' measurement left as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, omissions = merged([work / name for name in (*MEASURED, COMPILED)])
    summary = {f"stage {one.stage.name}": stage_summary(one) for one in outcomes}
    report.write_json(folder, describe("cuda") | {"size": "quick"} | summary, rows, omissions)
    report.write_report(folder, kernel_table(work / KERNELS))
    if (work / KERNELS).exists():
        shutil.copyfile(work / KERNELS, folder / KERNELS)
    parts = [f"==== {one.stage.name}: {one.status}\n{one.log[-LOG_BYTES:]}" for one in outcomes]
    (folder / LOG).write_text("\n".join(parts))
    return rows


def stage_summary(outcome: Outcome) -> str:
    """One line per stage for the environment block."""
    line = f"{outcome.status}, {outcome.seconds:.0f} s"
    counted = "passed" in outcome.last_line or "failed" in outcome.last_line
    return f"{line}: {outcome.last_line.strip('= ')}" if counted else line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every stage; the exit code says whether all of them succeeded."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the report goes")
    parser.add_argument("--stages", help="comma-separated names of the stages to run")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("no CUDA device was found: torch.cuda.is_available() is False")
    folder = options.folder or ROOT / "build" / "gpu-check"
    start = time.monotonic()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        chosen = [
            stage
            for stage in stages(work)
            if options.stages is None or stage.name in options.stages.split(",")
        ]
        for stage in chosen:
            left = LIMIT_S - RESERVE_S - (time.monotonic() - start)
            print(f"{stage.name} (at most {min(stage.budget_s, left):.0f} s) ...", flush=True)
            outcomes.append(run_stage(stage, min(stage.budget_s, left)))
            print(f"  {stage_summary(outcomes[-1])}", flush=True)
        rows = write(folder, work, outcomes)
    for outcome in outcomes:
        if outcome.status != "ok":
            print(f"---- {outcome.stage.name}: {outcome.status}\n{outcome.log[-2000:]}")
    print(report.goals_table(goals_of(rows)))
    print(f"report: {folder / report.MARKDOWN}, {time.monotonic() - start:.0f} s in all")
    return int(any(outcome.status != "ok" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
