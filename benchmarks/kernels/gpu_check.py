"""Build, test, trace and benchmark on one NVIDIA GPU, within nine minutes and without any download.

    python -m benchmarks.kernels.gpu_check [FOLDER] [--minutes 9] [--parts NAMES]
    python -m benchmarks.kernels.gpu_check --resume FOLDER

Every part runs in a process of its own with its own time, the most telling first; what it found is in
FOLDER (``build/gpu-check`` unless another is named) when it ends. An error that the device does not recover
from ends its process alone: the rest of the part runs in a fresh one. ``--resume`` goes on where a run was
cut off; what has been measured is kept, if this is the same device, commit and PyTorch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .. import report
from ..environment import ROOT
from .gpu_parts import parts
from .gpu_process import Outcome, Part, run_part
from .gpu_results import Results

MINUTES = 9.0
RESERVE_S = 10  # for the last report
RUNNING = "running"


def check(
    folder: Path,
    make_parts: Callable[[Path], list[Part]] = parts,
    minutes: float = MINUTES,
    wanted: Sequence[str] | None = None,
    resume: bool = False,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run the parts; 0 if all of them succeeded.

    Args:
        folder: for the results.
        make_parts: makes the parts from the folder in which they leave what they find.
        minutes: of the whole check; the parts' budgets grow with it.
        wanted: names of parts; None runs all.
        resume: go on with what is in the folder.
        environment: of the parts' processes, added to this one's.
    """
    start = time.monotonic()
    limit = 60 * minutes - RESERVE_S
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        everything = make_parts(work)
        results = Results(folder, work, everything)
        ended = results.resume() if resume else []
        for part in everything:
            if part.name in ended or (wanted is not None and part.name not in wanted):
                continue
            if part.needs is not None and shutil.which(part.needs) is None:
                results.add(Outcome(part.name, f"absent: no {part.needs}", 0.0, ""))
                continue
            left = limit - (time.monotonic() - start)
            seconds = min(part.budget_s * max(minutes / MINUTES, 1.0), left)
            print(f"{part.name} (at most {max(seconds, 0):.0f} s) ...", flush=True)
            results.kept(part.name)
            if resume:
                results.seed(part)
            results.add(Outcome(part.name, RUNNING, 0.0, ""))
            command = (*part.command, "--continue") if resume and part.continues else None
            outcome = run_part(part, seconds, environment or {}, lambda _: results.write(), command)
            results.add(outcome)
            print(f"  {outcome.status}, {outcome.seconds:.0f} s: {outcome.last_line}", flush=True)
        print(results.goals())
        bad = [one for one in results.outcomes.values() if not _good(one.status)]
    for one in bad:
        print(f"---- {one.part}: {one.status}\n{one.log[-2000:]}")
    print(f"{folder / report.MARKDOWN}, {time.monotonic() - start:.0f} s in all")
    return int(bool(bad))


def _good(status: str) -> bool:
    return status == "ok" or status.startswith("absent")


def build_environment() -> dict[str, str]:
    """What the build should know: the GPU's architecture and how many jobs to run."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    capability = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    chosen = {"TORCH_CUDA_ARCH_LIST": capability, "MAX_JOBS": str(os.cpu_count())}
    always = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {name: os.environ.get(name, value) for name, value in chosen.items()} | always


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check on the GPU at hand."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the results go")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with the run there")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--parts", help="comma-separated names of the parts to run")
    options = parser.parse_args(arguments)
    if options.folder is not None and options.resume is not None:
        parser.error("FOLDER, --resume: expected one of them, got both")
    if options.resume is not None and not options.resume.is_dir():
        parser.error(f"--resume: expected the folder of an earlier run, got {options.resume}")
    if shutil.which("nvidia-smi") is None:
        parser.error("no NVIDIA GPU was found: there is no nvidia-smi")
    names = [part.name for part in parts(Path())]
    wanted = None if options.parts is None else options.parts.split(",")
    for name in wanted or ():
        if name not in names:
            parser.error(f"--parts: expected some of {', '.join(names)}, got {name!r}")
    folder = options.resume or options.folder or ROOT / "build" / "gpu-check"
    resume = options.resume is not None
    return check(folder, parts, options.minutes, wanted, resume, build_environment())


if __name__ == "__main__":
    sys.exit(main())
