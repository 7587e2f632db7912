"""The parts of the check, the most telling first: the first six minutes say what there is to decide."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from .gpu_process import Part
from .gpu_results import TABLE

PYTHON = sys.executable
# Folders go with `=`: an argument of its own that is a folder would move pytest's root.
PYTEST = (PYTHON, "-m", "pytest", "-p", "no:cacheprovider")
# What needs no GPU, or is built for hours.
LEFT_OUT = (
    "mmdet",
    "test_cuda_values.py",
    "test_cuda_build.py",
    "test_cuda_offsets.py",
    "test_emulator_build.py",
)
SANITIZER = "compute-sanitizer"


def parts(work: Path) -> list[Part]:
    """Every part, in order. Budgets are of nine minutes, and add up to them."""
    return [
        _module("build", "gpu_build", 60),
        _tests(work, "tests", 45, "cuda and (bfloat16 or float32)", "tests/test_kernels.py",
               "tests/test_efpn_bs.py", "tests/test_dc_loss.py", "tests/test_cem.py"),
        _sanitizer("memcheck", 55),
        _table(work, "kernels", "gpu_kernels", 45, "--batches", "1", "--check-batches", "1"),
        _table(work, "trace", "gpu_trace", 25, continues=False),
        # Of one small call and of a detector's image, launches included.
        _bench(work, "calls", 45, "efpn_bs", "--case", "events", "--case", "N=1,",
               "--dtype", "bfloat16", "--compiled", "none"),
        _bench(work, "block", 60, "efpn_bs", "--case", "graph", "--case", "N=1,",
               "--dtype", "bfloat16,float32", "--compiled", "none"),
        _table(work, "convolutions", "gpu_convolutions", 15, "--batches", "1,2"),
        _table(work, "side_stream", "gpu_side_stream", 10),
        _bench(work, "compiled", 40, "efpn_bs", "--case", "graph", "--case", "AI-TOD",
               "--case", "N=1,", "--case", "forward |", "--dtype", "bfloat16",
               "--format", "channels_last", "--compiled", "all"),
        *(_bench(work, f"batch_{N}", 22, "efpn_bs", "--case", "graph", "--case", f"N={N},",
                 "--dtype", "bfloat16", "--format", "channels_last", "--compiled", "none")
          for N in (2, 8)),
        _bench(work, "dc_loss", 20, "dc_loss", "--dtype", "bfloat16,float32", "--compiled", "none"),
        _bench(work, "cem", 15, "cem", "--dtype", "bfloat16,float32", "--compiled", "none"),
        _sanitizer("racecheck", 30),
        # Those that the first part has run are left out.
        _tests(work, "tests", 600, "cuda", "tests", *(f"--ignore=tests/{n}" for n in LEFT_OUT),
               "--continue", name="all_tests"),
    ]  # fmt: skip


def _module(name: str, module: str, budget_s: float, *arguments: str, **more: object) -> Part:
    command = (PYTHON, "-m", f"benchmarks.kernels.{module}", *arguments)
    return Part(name, command, budget_s, **more)


def _table(
    work: Path, name: str, module: str, budget_s: float, *arguments: str, continues: bool = True
) -> Part:
    target = str(work / name / TABLE)
    return _module(name, module, budget_s, *arguments, "--json", target, continues=continues)


def _tests(
    work: Path, log: str, budget_s: float, wanted: str, *arguments: str, name: str | None = None
) -> Part:
    workers = ("-n", "12") if find_spec("xdist") else ()
    return Part(
        name or log,
        (*PYTEST, *arguments, "-q", "-k", wanted, "--tb=short", *workers,
         "-p", "benchmarks.kernels.outcomes", f"--outcomes={work / log}"),
        budget_s,
        continues=True,
    )  # fmt: skip


def _bench(work: Path, name: str, budget_s: float, operator: str, *arguments: str) -> Part:
    file = f"benchmarks/bench_{operator}.py"
    return Part(
        name,
        (*PYTEST, file, "--backend", "cuda,triton", *arguments, f"--output={work / name}"),
        budget_s,
        continues=True,
    )


def _sanitizer(tool: str, budget_s: float) -> Part:
    # Every tensor an allocation of its own: what lies beyond its end is nobody's.
    command = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", SANITIZER, "--tool", tool)
    program = ("--error-exitcode", "1", PYTHON, "-m", "benchmarks.kernels.gpu_memcheck")
    return Part(tool, (*command, *program), budget_s, needs=SANITIZER)
