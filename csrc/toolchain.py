"""What both builds need: the environment's variables, compiler, torch, and objects that are kept."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = Path(__file__).resolve().with_name("probe.cpp")
TARGET_VERSION = "0x020b000000000000"  # torch 2.11
MINIMUM_TORCH = (2, 11)
TESTED_COMPILERS = "g++ 11 to 16 and clang 14 to 19"
WITHOUT = "EFPN_KERNELS_NO_EXTENSION=1 installs without compiled kernels"
KEPT_DAYS = 7


class BuildError(RuntimeError):
    """What is wrong with the machine or its environment variables, and the way out."""


def _load_stamp():
    # By its path: importing the package would import torch.
    path = ROOT / "efpn_kernels" / "_stamp.py"
    spec = importlib.util.spec_from_file_location("_efpn_kernels_stamp", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STAMP = _load_stamp()


def flag(name: str) -> bool:
    """Whether a variable is set to anything but 0."""
    return os.environ.get(name, "0") not in ("", "0")


def words(variable: str) -> list[str]:
    """The words of a variable, split as a shell does."""
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BuildError(
            f"{variable}: expected words with matching quotes, got {value!r} ({error})"
        ) from None


def jobs() -> int:
    """``MAX_JOBS``, or one for each core."""
    value = os.environ.get("MAX_JOBS", "")
    if not value:
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise BuildError(f"MAX_JOBS: expected a whole number above 0, got {value!r}")
    return int(value)


def find_torch() -> Path:
    """The directory of the installed torch package, without importing it.

    pip hides the environment from a build that it isolates; the directory is found all the same.
    """
    folders = [
        sysconfig.get_path(kind, vars={"base": prefix, "platbase": prefix})
        for prefix in (sys.prefix, sys.base_prefix)
        for kind in ("purelib", "platlib")
    ]
    folders += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    spec = importlib.util.find_spec("torch")
    found = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    found += [
        Path(folder, "torch") for folder in folders if Path(folder, "torch/version.py").exists()
    ]
    if not found:
        raise BuildError(
            "torch: expected in the environment that is built for, found none; install torch first, "
            f"then run `pip install --no-build-isolation .`, or {WITHOUT}"
        )
    version = torch_version(found[0])
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is not None and tuple(map(int, numbers.groups())) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        raise BuildError(
            f"torch: expected {wanted} or newer, found {version}; run `pip install --upgrade "
            f"'torch>={wanted}'` first, or {WITHOUT}"
        )
    return found[0]


def torch_version(torch_dir: Path) -> str:
    """The version that a torch package says it has, which a build from source may call "main"."""
    path = torch_dir / "version.py"
    text = path.read_text("utf-8") if path.exists() else ""
    found = re.search(r"^__version__ *= *['\"](.*)['\"]", text, re.MULTILINE)
    return found[1] if found else "unknown"


def find_compiler() -> list[str] | None:
    """``CXX`` with its arguments, or the first C++ compiler on the path; None where there is none."""
    named = words("CXX")
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(
                f"CXX: expected a C++ compiler, got {os.environ['CXX']!r}, but there is no "
                f"{named[0]!r}; correct it, or unset it to use the first of g++, clang++ and c++"
            )
        return named
    found = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return None if found is None else [found]


@functools.cache
def _version_of(*command: str) -> str:
    said = run([*command, "--version"]).strip().splitlines() or ["unknown"]
    return next((line for line in said if ", release " in line), said[0])  # nvcc's is not the first


def version_of(command: Sequence[str]) -> str:
    """The line of ``--version`` that tells one compiler from another."""
    return _version_of(*command)


def check_compiler(compiler: Sequence[str]) -> None:
    """Compile and link a few lines that need what the kernels need.

    Raises:
        BuildError: with the first thing that the compiler complained about, and the way out.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [*words("CXXFLAGS"), *words("LDFLAGS")]
        command = [*compiler, "-std=c++17", "-O1", "-shared", "-fPIC", str(PROBE), *flags]
        try:
            run([*command, "-o", f"{folder}/probe.so"])
        except BuildError as error:
            said = str(error).splitlines()[1:]
            errors = [line for line in said if "error" in line or "not found" in line] or said[1:]
            given = "".join(
                f", {name}={os.environ[name]!r}"
                for name in ("CXX", "CXXFLAGS", "LDFLAGS")
                if os.environ.get(name)
            )
            raise BuildError(
                f"CXX: expected a compiler for C++17 with vector extensions (tested: "
                f"{TESTED_COMPILERS}), but `{shlex.join(compiler)}`{given} fails: "
                f"{errors[0].strip() if errors else 'without a word'}. Name another compiler in CXX; "
                f"{WITHOUT}"
            ) from None


def run(command: Sequence[str]) -> str:
    """Run a command; its output, which is part of the error where it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise BuildError(f"{shlex.join(command)}\nfailed: {error}") from None
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\nfailed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def without_paths(torch_dir: Path) -> list[str]:
    """Flags that keep this machine's folders out of objects and of the errors that they raise."""
    return [f"-ffile-prefix-map={ROOT}/=", f"-ffile-prefix-map={torch_dir}/include/="]


def object_folder() -> Path:
    """Where objects are kept: ``EFPN_KERNELS_OBJECTS``, or ``build/objects``."""
    return Path(os.environ.get("EFPN_KERNELS_OBJECTS") or ROOT / "build" / "objects")


def compile_object(
    command: Sequence[str], identity: str, source: Path, torch_dir: Path
) -> tuple[Path, str]:
    """Compile a source by ``command``, or take the object of an earlier time.

    Objects are kept under a hash of all that they depend on: the command, the ``identity`` of the
    compiler, torch's version, the source and every header.

    Returns:
        The object, and what the compiler said.
    """
    line = "\0".join(command).replace(str(torch_dir), "torch").replace(str(ROOT), "")
    digest = hashlib.sha256(f"{line}\0{identity}\0{torch_version(torch_dir)}".encode())
    for path in (source, *_headers(source.parent)):
        digest.update(path.read_bytes())
    target = object_folder() / f"{source.stem}-{digest.hexdigest()[:24]}.o"
    log = target.with_suffix(".log")
    if target.exists() and log.exists():
        os.utime(target)
        return target, log.read_text()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        said = run([*command, "-c", str(source), "-o", str(made)])
        log.write_text(said)
        made.replace(target)
    return target, said


def _headers(folder: Path) -> list[Path]:
    """What a source of this folder may include of ours."""
    found = (path for place in (folder, PROBE.parent / "common") for path in place.iterdir())
    return sorted(path for path in found if path.suffix in (".h", ".cuh"))


def forget_old_objects() -> None:
    """Delete kept objects that no build has used for a week."""
    for path in object_folder().glob("*.o"):
        if time.time() - path.stat().st_mtime > KEPT_DAYS * 24 * 3600:
            path.unlink(missing_ok=True)
            path.with_suffix(".log").unlink(missing_ok=True)


def put(built: Path, output: Path) -> None:
    """Move a library to its place, as a new file: a process may have the old one mapped."""
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(built, f"{output}.new")
    os.replace(f"{output}.new", output)
