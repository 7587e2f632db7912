"""``efpn doctor``: what of the package runs here, what does not, and the command that mends it."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata

import torch

from . import _libraries, backends
from ._libraries import Library
from .version import __version__

REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."


def cpu_capability() -> str:
    """The instruction set that the CPU library uses: ``portable``, ``avx2`` or ``avx512``."""
    if not _libraries.CPU.loaded:
        return "unknown (the CPU library is not loaded)"
    return ("portable", "avx2", "avx512")[torch.ops.efpn.cpu_capability()]


def remedy(library: Library) -> str | None:
    """The command that makes a library load; None where it is loaded or cannot be here."""
    if library.loaded:
        return None
    problem = library.problem or ""
    if "needs torch" in problem:
        return "pip install --upgrade 'torch>=2.11'"
    if library.name == "triton":
        no_gpu_build = torch.version.cuda is None and torch.version.hip is None
        return None if no_gpu_build else "pip install --upgrade 'triton>=3.6'"
    if library.name == "cuda" and torch.version.cuda is None:
        return None
    if library.name == "cuda":
        return f"install the CUDA toolkit (nvcc) and set CUDA_HOME, then {REINSTALL}"
    return f"install g++, then, in a clone of the project: {REINSTALL}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device_lines() -> list[str]:
    if not torch.cuda.is_available():
        return ["GPU            none visible to torch"]
    lines = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        lines.append(f"GPU {index}          {torch.cuda.get_device_name(index)} ({major}.{minor})")
    return lines


def report() -> str:
    """The whole report as text."""
    lines = [
        f"efpn_kernels   {__version__} in {_libraries.PACKAGE}",
        f"Python         {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch          {torch.__version__} (CUDA {torch.version.cuda}, ROCm {torch.version.hip})",
        *(f"{name:14} {_version(name)}" for name in ("triton", "mmdet", "mmcv", "mmengine")),
        f"CPU            {os.cpu_count()} cores, torch threads {torch.get_num_threads()}, "
        f"kernels use {cpu_capability()}",
        *_device_lines(),
        "",
        "Libraries",
    ]
    for library in (_libraries.CPU, _libraries.CUDA, _libraries.TRITON):
        lines.append(f"  {library.name:10} {'loaded' if library.loaded else library.problem}")
        command = remedy(library)
        if command is not None:
            lines.append(f"  {'':10} to mend it: {command}")
    choice = backends.current_backend()
    lines += ["", f"Backends (choice: {choice})"]
    if choice not in ("auto", *backends.BACKENDS):
        lines.append(f"  {backends.why_unsupported(choice, torch.device('cpu'), torch.float32)}")
    for device_type in ("cpu", "cuda"):
        if device_type == "cuda" and not torch.cuda.is_available():
            continue
        lines.append(f"  tensors on {device_type}:")
        for name in backends.BACKENDS:
            reason = backends.why_unsupported(name, torch.device(device_type), torch.float32)
            lines.append(f"    {name:10} {'can run' if reason is None else reason}")
    return "\n".join(lines)


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; 0 if a compiled or Triton backend can run, else 1."""
    argparse.ArgumentParser(
        prog="efpn doctor",
        description="What of efpn_kernels runs here, what does not and why, and the command that "
        "mends it. Fails if only plain PyTorch runs.",
    ).parse_args(arguments)
    print(report())
    if any(library.loaded for library in (_libraries.CPU, _libraries.CUDA, _libraries.TRITON)):
        return 0
    print("\nOnly plain PyTorch runs here.", file=sys.stderr)
    return 1
