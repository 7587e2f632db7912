"""The compiled libraries and Triton: what could be loaded, and why the rest could not.

``EFPN_KERNELS_CPU_LIBRARY`` and ``EFPN_KERNELS_CUDA_LIBRARY`` name other files to load instead. A failure
to load is kept as a sentence for ``explain`` and ``doctor``; nothing falls back silently.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from enum import Enum, auto
from importlib import metadata
from pathlib import Path

import torch

from . import _stamp
from .ops.kernels import LIBRARIES

PACKAGE = Path(__file__).parent
MINIMUM_TORCH = (2, 11)
MINIMUM_TRITON = (3, 6)
# Of Tegra, which runs the machine code of itself only.
ALONE = ((7, 2), (8, 7))


class Cause(Enum):
    """What kind of problem a library has: ``doctor`` knows a way out of each."""

    NONE = auto()
    OLD_TORCH = auto()
    NO_GPU_BUILD = auto()  # of torch
    VARIABLE = auto()  # names a file that cannot be loaded
    SHADOWED = auto()  # by the sources that Python was started in
    NOT_BUILT = auto()
    STALE = auto()
    DAMAGED = auto()
    OTHER_CUDA = auto()
    NO_TRITON = auto()
    OLD_TRITON = auto()
    BROKEN_TRITON = auto()


@dataclass(frozen=True)
class SharedLibrary:
    """One backend's kernels: ``problem`` is None where they are loaded."""

    name: str
    problem: str | None
    path: Path | None = None
    cause: Cause = Cause.NONE

    @property
    def loaded(self) -> bool:
        return self.problem is None


def version_tuple(version: str) -> tuple[int, int] | None:
    """``"2.13.0+cpu" -> (2, 13)``; None for a name like "main"."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))


def _older(version: str, minimum: tuple[int, int]) -> bool:
    """Whether it is; a version without numbers is a build from source, taken for a new one."""
    numbers = version_tuple(version)
    return numbers is not None and numbers < minimum


def source_tree() -> Path | None:
    """The clone that this package runs from, if it is one."""
    root = PACKAGE.parent
    return root if (root / "setup.py").exists() and (root / "csrc").is_dir() else None


def hidden_installation() -> Path | None:
    """An installed package that the sources hide, as they do for a Python started inside of them."""
    if source_tree() is None:
        return None
    for distribution in metadata.distributions(name="efpn_kernels"):
        package = Path(str(distribution.locate_file("efpn_kernels")))
        if (package / "__init__.py").exists() and package.resolve() != PACKAGE.resolve():
            return package
    return None


def build_record(name: str, package: Path = PACKAGE) -> dict[str, str]:
    """What the build wrote down of a library; empty where there was none."""
    try:
        return json.loads((package / "_build.json").read_text("utf-8"))[name]
    except (OSError, ValueError, KeyError):
        return {}


def _absent(name: str, path: Path) -> SharedLibrary:
    installed = hidden_installation()
    if installed is not None:
        problem = (
            f"Python runs the sources in {PACKAGE.parent}, which hide the package that is installed in "
            f"{installed} and have no {name} library: start Python in another folder, or run "
            "`pip install --no-build-isolation -e .` in the sources"
        )
        return SharedLibrary(name, problem, path, Cause.SHADOWED)
    reason = build_record(name).get("reason")
    if reason is None and source_tree() is not None:
        reason = f"{PACKAGE.parent} holds sources, and nothing has been built in it"
    reason = reason or f"{path} is missing, though it was built at installation"
    return SharedLibrary(name, f"the {name} library was not built: {reason}", path, Cause.NOT_BUILT)


def _load_compiled(name: str) -> SharedLibrary:
    variable = f"EFPN_KERNELS_{name.upper()}_LIBRARY"
    override = os.environ.get(variable)
    path = Path(override) if override else PACKAGE / f"_{name}.abi3.so"
    if _older(torch.__version__, MINIMUM_TORCH):
        wanted = ".".join(map(str, MINIMUM_TORCH))
        problem = f"needs torch >= {wanted}, found {torch.__version__}"
        return SharedLibrary(name, problem, path, Cause.OLD_TORCH)
    if not path.is_file() and not override:
        return _absent(name, path)
    said = f"{variable}: expected a {name} library, got {path}: it" if override else path.name
    try:
        stamp = _stamp.read(path)
        problem, cause = _stamp.mismatch(stamp), Cause.STALE
        if problem is None and name == "cuda":
            problem, cause = _other_cuda(stamp.get("cuda", "")), Cause.OTHER_CUDA
        if problem is None:
            torch.ops.load_library(str(path))
            return SharedLibrary(name, None, path)
    except (OSError, ValueError) as error:
        problem, cause = f"did not load: {error}", Cause.DAMAGED
    return SharedLibrary(name, f"{said} {problem}", path, Cause.VARIABLE if override else cause)


def _other_cuda(built: str) -> str | None:
    """Why a library of one CUDA is not for this torch, whose driver may be too old for it."""
    ours, theirs = version_tuple(built), version_tuple(torch.version.cuda or "")
    if ours is None or theirs is None or ours[0] == theirs[0]:
        return None
    return (
        f"was built with CUDA {built}, but torch {torch.__version__} is a build for CUDA "
        f"{torch.version.cuda}"
    )


def _load_cuda() -> SharedLibrary:
    if torch.version.cuda is None:
        problem = f"torch {torch.__version__} is not a CUDA build"
        return SharedLibrary("cuda", problem, cause=Cause.NO_GPU_BUILD)
    return _load_compiled("cuda")


def _load_triton() -> SharedLibrary:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if torch.version.cuda is None and torch.version.hip is None and not interpreted:
        problem = f"torch {torch.__version__} is neither a CUDA nor a ROCm build"
        return SharedLibrary("triton", problem, cause=Cause.NO_GPU_BUILD)
    if importlib.util.find_spec("triton") is None:
        return SharedLibrary("triton", "Triton is not installed", cause=Cause.NO_TRITON)
    try:
        import triton

        if _older(triton.__version__, MINIMUM_TRITON):
            wanted = ".".join(map(str, MINIMUM_TRITON))
            problem = f"needs Triton >= {wanted}, found {triton.__version__}"
            return SharedLibrary("triton", problem, cause=Cause.OLD_TRITON)
        from . import triton as kernels

        kernels.register(LIBRARIES["efpn_triton"])
    except Exception as error:  # of any kind: a driver that is missing, a file that is damaged
        problem = f"Triton did not load: {type(error).__name__}: {error}"
        return SharedLibrary("triton", problem, cause=Cause.BROKEN_TRITON)
    return SharedLibrary("triton", None)


CPU = _load_compiled("cpu")
CUDA = _load_cuda()
TRITON = _load_triton()
CUDA_ARCHITECTURES = (
    tuple(_stamp.read(CUDA.path)["architectures"].split()) if CUDA.loaded and CUDA.path else ()
)
"""What the CUDA library was compiled for: ``("8.0", "9.0a", "12.0+PTX")``."""


def architecture_problem(capability: tuple[int, int]) -> str | None:
    """Why the CUDA library has no code for GPUs of this compute capability; None if it has."""
    if any(_runs(architecture, capability) for architecture in CUDA_ARCHITECTURES):
        return None
    return (
        f"the CUDA library was compiled for {', '.join(CUDA_ARCHITECTURES)}, "
        f"this GPU is {capability[0]}.{capability[1]}"
    )


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for "9.0", "9.0a", "10.0f", each perhaps with "+PTX", runs on a GPU.

    Machine code runs on its generation from its minor version on, PTX on all that is newer; "a" is for
    one GPU alone, "f" for its family.
    """
    major, minor, kind, ptx = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture).groups()
    built = (int(major), int(minor))
    if built == capability:
        return True
    if kind == "a" or capability < built:
        return False
    if ptx and not kind:
        return True
    return built[0] == capability[0] and not {built, capability} & set(ALONE)
