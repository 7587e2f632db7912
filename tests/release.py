"""What a release must pass: every compiler at hand builds it, every Python at hand runs its wheel.

    python tests/release.py compilers          # g++ and clang++ of every version on the path, arm64's too
    python tests/release.py wheels dist        # the wheel and the source archive in dist, with uv

Prints one table and fails if a row does. Run by ``make compilers`` and ``make release-check``; the second
downloads a PyTorch for every Python that it finds.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / "tests" / "installed.py"
OLDEST_TORCH = "2.11.0"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
Row = tuple[str, ...]
HEAD: Row = ("interpreter", "torch", "glibc", "compiler", "result")


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=tempfile.gettempdir(),
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def outcome(done: subprocess.CompletedProcess[str], good: str = "passed") -> str:
    """In a word, or the last thing that was said."""
    if done.returncode == 0:
        return good
    print(done.stdout, file=sys.stderr)
    return f"FAILED: {(done.stdout.strip().splitlines() or ['without a word'])[-1][:100]}"


def compilers() -> Iterator[Row]:
    """A library by each compiler, which passes the tests of the kernels; arm64's sources only compile."""
    sys.path.insert(0, str(ROOT / "csrc"))
    import toolchain

    import build_cpu

    torch_dir = toolchain.find_torch()
    ours = f"{platform.python_version()}"
    for name in found_compilers():
        version = toolchain.version_of([name])
        if name.startswith("aarch64"):
            flags = (*build_cpu.FLAGS, f"-I{torch_dir}/include")
            try:
                for source in build_cpu.SOURCES.glob("*.cpp"):
                    toolchain.compile_object([name, *flags], version, source, torch_dir)
                result = "compiles for arm64"
            except toolchain.BuildError as error:
                result = f"FAILED: {error}"
        else:
            library = ROOT / "build" / "compilers" / f"{name}.so"
            built = run(
                sys.executable, ROOT / "csrc" / "build_cpu.py", "--output", library, CXX=name
            )
            result = outcome(built)
            if built.returncode == 0:
                tests = ("test_kernels.py", "test_winograd.py")
                pytest = (sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow")
                variable = {"EFPN_KERNELS_CPU_LIBRARY": str(library)}
                files = (ROOT / "tests" / test for test in tests)
                result = outcome(run(*pytest, *files, **variable), "passed its tests")
        yield (ours, toolchain.torch_version(torch_dir), platform.libc_ver()[1], version, result)


def found_compilers() -> list[str]:
    """Those with a version in their name, oldest first, and arm64's."""
    folders = os.environ["PATH"].split(os.pathsep)
    names = {
        path.name for folder in folders if Path(folder).is_dir() for path in Path(folder).iterdir()
    }
    found = [re.fullmatch(r"(g|clang)\+\+-(\d+)", name) for name in names]
    numbered = sorted((m[1], int(m[2]), m[0]) for m in found if m is not None)
    cross = shutil.which("aarch64-linux-gnu-g++")
    others = [] if numbered else [name for name in ("g++", "clang++") if shutil.which(name)]
    return [
        *(name for *_, name in numbered),
        *others,
        *(["aarch64-linux-gnu-g++"] if cross else []),
    ]


def wheels(dist: Path) -> Iterator[Row]:
    """The wheel in every Python with the oldest and the newest torch; then the source archive in one."""
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        for number in PYTHONS:
            interpreter = find_python(number)
            if interpreter is None:
                yield (number, "", "", "", "not at hand: uv and the path have none")
                continue
            for wanted in (f"torch=={OLDEST_TORCH}", "torch"):
                place = Path(folder, f"{number} {wanted}")
                yield install(place, interpreter, wanted, wheel.name, wheel)
        yield from from_sources(Path(folder), archive)


def find_python(number: str) -> str | None:
    done = run("uv", "python", "find", "--no-python-downloads", number)
    return done.stdout.strip() if done.returncode == 0 else None


def install(place: Path, interpreter: str, torch: str, compiler: str, package: Path) -> Row:
    """A row of the table: a new environment, torch, the package, and what it must do."""
    python = place / "bin" / "python"
    done = run("uv", "venv", "--quiet", "--python", interpreter, place)
    pip = ("uv", "pip", "install", "--quiet", "--python", python)
    steps = ((*pip, torch, "numpy"), (*pip, "--no-deps", package), (python, INSTALLED))
    for step in steps:
        if done.returncode == 0:
            done = run(*step)
    return (*described(python), compiler, outcome(done))


def described(python: Path) -> Row:
    code = (
        "import platform as p, torch; print(p.python_version(), torch.__version__, p.libc_ver()[1])"
    )
    said = run(python, "-c", code)
    return tuple(said.stdout.split()) if said.returncode == 0 else (python.parts[-3], "none", "")


def from_sources(folder: Path, archive: Path) -> Iterator[Row]:
    """The source archive with no compiler, and with the one at hand; the time is that of pip."""
    place = folder / "sources"
    python = place / "bin" / "python"
    made = run("uv", "venv", "--quiet", "--seed", "--python", sys.executable, place)
    if made.returncode == 0:
        made = run(
            "uv", "pip", "install", "--quiet", "--python", python, "torch", "numpy", "setuptools"
        )
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall")
    tools = folder / "tools"
    tools.mkdir()
    for tool in ("sh", "bash"):
        (tools / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    none = {"PATH": str(tools)}
    for compiler, options, variables, how in (
        ("none, source archive", ("--no-build-isolation",), none, "--without-library"),
        ("at hand, source archive", (), {"EFPN_KERNELS_NO_CUDA": "1"}, "--with-library"),
    ):
        start = time.perf_counter()
        done = made if made.returncode else run(*pip, *options, archive, **variables)
        seconds = time.perf_counter() - start
        if done.returncode == 0:
            done = run(python, INSTALLED, how)
        result = outcome(done, f"passed, installed in {seconds:.0f} s")
        yield (*described(python), compiler, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("compilers", "wheels"))
    parser.add_argument("dist", type=Path, nargs="?", default=ROOT / "dist")
    arguments = parser.parse_args()
    (ROOT / "build").mkdir(exist_ok=True)
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    failed = False
    for row in compilers() if arguments.what == "compilers" else wheels(arguments.dist.resolve()):
        print("| " + " | ".join(row) + " |", flush=True)
        failed |= row[-1].startswith("FAILED")
    sys.exit(failed)


if __name__ == "__main__":
    main()
