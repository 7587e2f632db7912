"""``efpn doctor``: what of the package runs here, what does not, and the command that fixes it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

import torch

from . import _libraries, backends, measured, selftest
from ._libraries import Cause, SharedLibrary
from .version import __version__

BUILD_NEEDS = ("setuptools", 77)


@dataclass(frozen=True)
class Remedy:
    """A command that works as it is printed, and what has to be done by hand before, if anything."""

    command: str
    before: str | None = None

    def __str__(self) -> str:
        return f"{self.before}, then run: {self.command}" if self.before else self.command


def remedy(library: SharedLibrary) -> Remedy | None:
    """What makes a library load; None where it is loaded or cannot be here."""
    match library.cause:
        case Cause.NONE | Cause.NO_GPU_BUILD:
            return None
        case Cause.OLD_TORCH:
            wanted = ".".join(map(str, _libraries.MINIMUM_TORCH))
            return Remedy(f"pip install --upgrade 'torch>={wanted}'")
        case Cause.VARIABLE:
            return Remedy(f"unset EFPN_KERNELS_{library.name.upper()}_LIBRARY")
        case Cause.NO_TRITON | Cause.OLD_TRITON:
            return Remedy(f"pip install '{_triton_for_torch()}'")
        case Cause.BROKEN_TRITON:
            return Remedy(f"pip install --force-reinstall --no-deps '{_triton_for_torch()}'")
        case Cause.OTHER_CUDA:
            major = (torch.version.cuda or "").split(".")[0]
            before = f"install a toolkit of CUDA {major} and set CUDA_HOME to it"
            return Remedy(*_reinstallation(library.name, before))
    return Remedy(*_reinstallation(library.name, _missing_tool(library.name)))


def _missing_tool(library: str) -> str | None:
    compilers = (*os.environ.get("CXX", "").split()[:1], "g++", "clang++", "c++")
    wanted = [] if any(map(shutil.which, compilers)) else ["a C++ compiler such as g++"]
    if library == "cuda":
        homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
        places = ["nvcc", *(f"{home}/bin/nvcc" for home in (*homes, "/usr/local/cuda") if home)]
        wanted += [] if any(map(shutil.which, places)) else ["the CUDA toolkit (nvcc)"]
    return f"install {' and '.join(wanted)}" if wanted else None


def _reinstallation(library: str, before: str | None) -> tuple[str, str | None]:
    """The command that builds the libraries anew, from where they were built, and what comes before."""
    root = _libraries.source_tree()
    flags = "-e" if root else "--force-reinstall --no-deps"
    place = str(root) if root else _origin()
    if place is None:
        go = "go to a clone of the project"
        place, before = ".", f"{before}, {go}" if before else go
    elif Path(place) == Path.cwd():
        place = "."
    command = f"pip install --no-build-isolation {flags} {shlex.quote(place)}"
    if not _has_build_tool():
        command = f"pip install '{BUILD_NEEDS[0]}>={BUILD_NEEDS[1]}' && {command}"
    variables = ["EFPN_KERNELS_NO_EXTENSION", *(["EFPN_KERNELS_NO_CUDA"] * (library == "cuda"))]
    in_the_way = [name for name in variables if os.environ.get(name, "0") not in ("", "0")]
    if in_the_way:
        command = f"unset {' '.join(in_the_way)} && {command}"
    return command, before


def _has_build_tool() -> bool:
    name, minimum = BUILD_NEEDS
    installed = re.match(r"\d+", _version(name))
    return installed is not None and int(installed[0]) >= minimum


def _origin() -> str | None:
    """What pip was given to install this package: a folder or an archive of sources, or a repository."""
    try:
        text = metadata.distribution("efpn_kernels").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    if text is None:
        return None
    origin = json.loads(text)
    if "vcs_info" in origin:
        revision = origin["vcs_info"]["commit_id"]
        return f"{origin['vcs_info']['vcs']}+{origin['url']}@{revision}"
    path = Path(unquote(urlparse(origin["url"]).path))
    return str(path) if path.exists() and path.suffix != ".whl" else None


def _triton_for_torch() -> str:
    """The requirement that torch itself has: another version would not fit it."""
    for requirement in metadata.requires("torch") or ():
        found = re.match(r"(?:pytorch-)?triton[\w-]* *\(?==[\w.+!]+", requirement)
        if found is not None:
            return found[0].replace(" ", "").replace("(", "")
    return f"triton>={'.'.join(map(str, _libraries.MINIMUM_TRITON))}"


def cpu_capability() -> str:
    """The instruction set that the CPU library uses: one of ``backends.CPU_CAPABILITIES``."""
    if not _libraries.CPU.loaded:
        return "unknown (the CPU library is not loaded)"
    return backends.cpu_capability()


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


def _library_lines(library: SharedLibrary) -> list[str]:
    lines = [f"  {library.name:10} {'loaded' if library.loaded else library.problem}"]
    record = _libraries.build_record(library.name)
    if record.get("built"):
        facts = ", ".join(f"{k} {v}" for k, v in record.items() if k != "built")
        lines.append(f"  {'':10} built at installation: {facts}")
    elif record and library.cause is Cause.NO_GPU_BUILD:
        lines.append(f"  {'':10} not built: {record['reason']}")
    way_out = remedy(library)
    if way_out is not None:
        lines.append(f"  {'':10} to fix it: {way_out}")
    return lines


def _cost_lines() -> list[str]:
    """What a call took on machines of this kind, if the clone holds a report of one."""
    lines = []
    for name, backend in backends.DESCRIPTORS.items():
        if backend.library.loaded:
            found = measured.headlines(backend.device_type, name)
            lines += [f"  {name:10} {line}" for line in found]
    return ["", "Measured on this kind of machine", *lines] if lines else []


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
        lines += _library_lines(library)
    choice = backends.current_backend()
    lines += ["", f"Backends (choice: {choice})"]
    if choice not in ("auto", *backends.BACKENDS):
        lines.append(f"  {backends.why_unsupported(choice, torch.device('cpu'), torch.float32)}")
        lines.append(f"  to fix it: unset {backends.ENVIRONMENT_VARIABLE}")
    for device_type in ("cpu", "cuda"):
        if device_type == "cuda" and not torch.cuda.is_available():
            continue
        lines.append(f"  tensors on {device_type}:")
        for name in backends.BACKENDS:
            reason = backends.why_unsupported(name, torch.device(device_type), torch.float32)
            lines.append(f"    {name:10} {'can run' if reason is None else reason}")
    return "\n".join(lines + _cost_lines())


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; 0 if a compiled or Triton backend can run, and with ``--test`` is right, else 1."""
    parser = argparse.ArgumentParser(
        prog="efpn doctor",
        description="What of efpn_kernels runs here, what does not and why, and the command that "
        "fixes it. Fails if only plain PyTorch runs.",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="run every backend at hand against plain PyTorch, in a few seconds; fails if one is wrong",
    )
    options = parser.parse_args(arguments)
    print(report())
    right = True
    if options.test:
        outcomes = selftest.run()
        right = all(one.ok for one in outcomes)
        print(f"\nSelf-test, forward and backward\n{selftest.table(outcomes)}")
    if any(library.loaded for library in (_libraries.CPU, _libraries.CUDA, _libraries.TRITON)):
        return 0 if right else 1
    print("\nOnly plain PyTorch runs here.", file=sys.stderr)
    return 1
