"""The compiled libraries and Triton: what could be loaded, and why the rest could not.

``EFPN_KERNELS_CPU_LIBRARY`` and ``EFPN_KERNELS_CUDA_LIBRARY`` name other files to load instead. A failure to load is kept as a sentence for ``explain`` and ``doctor``; nothing falls back silently.
"""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from .ops.kernels import LIBRARIES

PACKAGE = Path(__file__).parent
MINIMUM_TORCH = (2, 11)
MINIMUM_TRITON = (3, 6)


@dataclass(frozen=True)
class Library:
    """One backend's kernels: ``problem`` is None where they are loaded."""

    name: str
    problem: str | None
    path: Path | None = None

    @property
    def loaded(self) -> bool:
        return self.problem is None


def version_tuple(version: str) -> tuple[int, int]:
    """``"2.13.0+cpu" -> (2, 13)``."""
    major, minor = version.split("+")[0].split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def _load_compiled(name: str, missing: str) -> Library:
    override = os.environ.get(f"EFPN_KERNELS_{name.upper()}_LIBRARY")
    path = Path(override) if override else PACKAGE / f"_{name}.abi3.so"
    if version_tuple(torch.__version__) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        return Library(name, f"needs torch >= {wanted}, found {torch.__version__}", path)
    if not path.exists():
        return Library(name, missing, path)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return Library(name, f"{path.name} did not load: {error}", path)
    return Library(name, None, path)


def _load_cpu() -> Library:
    return _load_compiled(
        "cpu",
        "the extension was not built: no C++ compiler at installation, or EFPN_KERNELS_NO_EXTENSION=1",
    )


def _load_cuda() -> Library:
    if torch.version.cuda is None:
        return Library("cuda", f"torch {torch.__version__} is not a CUDA build")
    return _load_compiled("cuda", "the CUDA library was not built: no nvcc at installation")


def _load_triton() -> Library:
    if importlib.util.find_spec("triton") is None:
        return Library("triton", "Triton is not installed")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if torch.version.cuda is None and torch.version.hip is None and not interpreted:
        return Library("triton", f"torch {torch.__version__} is neither a CUDA nor a ROCm build")
    try:
        import triton

        if version_tuple(triton.__version__) < MINIMUM_TRITON:
            wanted = ".".join(map(str, MINIMUM_TRITON))
            return Library("triton", f"needs Triton >= {wanted}, found {triton.__version__}")
        from . import triton as kernels

        kernels.register(LIBRARIES["efpn_triton"])
    except Exception as error:  # of any kind: a driver that is missing, a file that is damaged
        return Library("triton", f"Triton did not load: {type(error).__name__}: {error}")
    return Library("triton", None)


def cuda_architectures() -> tuple[list[tuple[int, int]], bool] | None:
    """What the CUDA library was compiled for: real architectures, and whether it carries PTX."""
    report = PACKAGE / "_cuda_build.json"
    if not report.exists():
        return None
    built = json.loads(report.read_text())
    numbers = [version_tuple(arch) for arch in built["architectures"]]
    return numbers, bool(built["ptx"])


CPU = _load_cpu()
CUDA = _load_cuda()
TRITON = _load_triton()
