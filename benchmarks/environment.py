"""Where and with what a run was made: no number without it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import efpn_kernels

ROOT = Path(__file__).resolve().parent.parent
# Variables that keep PyTorch, oneDNN, MKL and ours from instructions that the processor has.
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "EFPN_KERNELS_CPU_CAPABILITY",
)


def describe(device: str) -> dict[str, Any]:
    """The environment block of a report, for ``"cpu"`` or ``"cuda"``."""
    block = {
        "device_type": device,
        "device": device_name(device),
        "slug": slug(device),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "efpn_kernels": efpn_kernels.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "limits": " ".join(f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        block |= {
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "device_memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return block


def device_name(device: str) -> str:
    """The GPU's name, or the processor's model."""
    return torch.cuda.get_device_name(0) if device == "cuda" else cpu_model()


def slug(device: str) -> str:
    """A folder's name: ``nvidia-h200``, ``cpu-amd-epyc-avx512-2c``."""
    if device == "cuda":
        return _dashed(torch.cuda.get_device_name(0))
    model = re.sub(r"\((R|TM|r|tm)\)|@.*|\b(CPU|Processor|Core)\b|\d+-", " ", cpu_model())
    capability = torch.backends.cpu.get_cpu_capability()
    return _dashed(f"cpu {model} {capability} {torch.get_num_threads()}c")


def _dashed(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cpu_model() -> str:
    """The processor's model as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The version of an installed package, None if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of the working tree, marked where it has changes.

    ``EFPN_KERNELS_COMMIT`` names it where the tree is a copy without its history.
    """
    named = os.environ.get("EFPN_KERNELS_COMMIT")
    if named:
        return named
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        # Results that this very run writes are no change of the code.
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def headline(environment: Mapping[str, Any]) -> str:
    """Device, versions, date and commit in one line, and the size of a run that was not full."""
    device = environment["device"]
    if environment["device_type"] == "cpu":
        limited = "limited to " if environment.get("limits") else ""
        device += f" ({limited}{environment['cpu_capability']}, {environment['threads']} threads)"
    triton = f", Triton {environment['triton']}" if environment["device_type"] == "cuda" else ""
    size = environment.get("size", "full")
    return (
        f"{device}, PyTorch {environment['torch']}{triton}, Python {environment['python']}, "
        f"efpn_kernels {environment['efpn_kernels']}, {environment['date']}, "
        f"commit {environment['commit']}{f', {size} run' if size != 'full' else ''}"
    )
