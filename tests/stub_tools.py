"""Compilers and nvcc that only write down how they were called, on a path with nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csrc"))

import toolchain

import build_cuda

VARIABLES = (
    "CXX",
    "CXXFLAGS",
    "LDFLAGS",
    "MAX_JOBS",
    "CUDA_HOME",
    "CUDA_PATH",
    "TORCH_CUDA_ARCH_LIST",
)
# Writes its arguments to a log and whatever was asked for to the file after -o.
STUB = """#!/bin/sh
echo "$0 $*" >> {log}
case "$*" in *--version*) echo "{says}"; exit 0;; {more} esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo "{says}" > "$2"; shift; done
exit 0
"""
# What nvcc of CUDA 12.4 and of 13.0 answers to --list-gpu-arch.
KNOWN = {
    "12.4": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    "13.0": (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}


class Machine:
    """A path with nothing on it but the stubs that are asked for."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        (folder / "bin").mkdir()
        for tool in ("sh", "echo", "printf"):
            (folder / "bin" / tool).symlink_to(f"/bin/{tool}")
        patch.setenv("PATH", str(folder / "bin"))
        patch.setenv("EFPN_KERNELS_OBJECTS", str(folder / "objects"))
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setattr(build_cuda, "USUAL_NVCC", str(folder / "none"))
        toolchain._version_of.cache_clear()

    def tool(self, name: str, says: str = "", more: str = "", path: Path | None = None) -> Path:
        path = (path or self.folder / "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB.format(log=self.folder / "log", says=says or name, more=more))
        path.chmod(0o755)
        return path

    def nvcc(self, release: str, path: Path | None = None) -> Path:
        listed = "\\n".join(f"compute_{number}" for number in KNOWN[release])
        more = f'*--list-gpu-arch*) printf "{listed}\\n"; exit 0;;'
        says = f"Cuda compilation tools, release {release}, V{release}.1"
        return self.tool("nvcc", says, more, path)

    def calls(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()
