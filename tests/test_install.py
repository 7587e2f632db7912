"""What wheels and source archives hold, and what a build says that cannot succeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from installation import copy_clone

from efpn_kernels import __version__

# Its object files and libraries are the sources' names.
COMPILER = """#!/bin/sh
case "$*" in *--version*) echo "g++ of a test"; exit 0;; esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done
exit 0
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return copy_clone(tmp_path / "clone")


def setup_py(
    clone: Path, *arguments: str, compiler: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """``setup.py`` with nothing on the path, or a compiler that only pretends."""
    tools = clone.parent / "tools"
    tools.mkdir(exist_ok=True)
    if not (tools / "sh").exists():
        (tools / "sh").symlink_to("/bin/sh")
    if compiler:
        (tools / "g++").write_text(COMPILER)
        (tools / "g++").chmod(0o755)
    names = ("EFPN_", "CXX", "LDFLAGS", "CUDA_", "MAX_JOBS", "FORCE_CUDA")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    kept |= {"PATH": str(tools), "EFPN_KERNELS_NO_CUDA": "1"}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        cwd=clone,
        env={key: value for key, value in (kept | variables).items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def wheel(clone: Path, **options: object) -> zipfile.ZipFile:
    done = setup_py(clone, "bdist_wheel", **options)
    assert done.returncode == 0, done.stdout
    assert "would be ignored" not in done.stdout
    (path,) = (clone / "dist").iterdir()
    return zipfile.ZipFile(path)


def test_a_wheel_without_libraries_is_for_everyone(clone: Path) -> None:
    """And says why it has none."""
    made = wheel(clone)
    assert made.filename is not None
    assert Path(made.filename).name == f"efpn_kernels-{__version__}-py3-none-any.whl"
    record = json.loads(made.read("efpn_kernels/_build.json"))
    assert record["cpu"] == {
        "built": False,
        "reason": "no C++ compiler was found at installation (CXX, g++, clang++ or c++)",
    }
    assert record["cuda"]["reason"] == "EFPN_KERNELS_NO_CUDA was set at installation"
    assert not [name for name in made.namelist() if name.endswith(".so")]


def test_a_wheel_holds_what_this_build_made(clone: Path) -> None:
    """Nothing that an earlier one left in ``build/``, or an editable installation in the sources."""
    for folder in (
        *(clone / "build" / n / "efpn_kernels" for n in platform_folders()),
        clone / "efpn_kernels",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("_cuda.abi3.so", "_cpu.abi3.so", "_cuda_build.json", "_build.json"):
            (folder / name).write_text("stale")
    for folder in platform_folders():
        (clone / "build" / folder / "efpn_kernels" / "a_module_of_old.py").write_text("")
    made = wheel(clone, compiler=True)
    assert made.filename is not None
    assert "-cp310-abi3-" in made.filename
    names = [
        name for name in made.namelist() if "_cuda" in name or name.endswith((".so", "old.py"))
    ]
    assert names == ["efpn_kernels/_cpu.abi3.so"]
    assert made.read("efpn_kernels/_cpu.abi3.so") == b"built\n"
    record = json.loads(made.read("efpn_kernels/_build.json"))
    assert record["cpu"] == {"built": True, "compiler": "g++ of a test"}


def platform_folders() -> tuple[str, str]:
    from setuptools.dist import Distribution

    class Compiled(Distribution):
        def has_ext_modules(self) -> bool:
            return True

    command = Compiled().get_command_obj("build")
    command.ensure_finalized()
    return "lib", Path(command.build_lib).name


def test_a_wheel_holds_the_configs_and_metadata(clone: Path) -> None:
    made = wheel(clone)
    names = set(made.namelist())
    for path in (clone / "integration" / "efpn_mmdet").rglob("*.py"):
        assert str(path.relative_to(clone / "integration")) in names
    assert "efpn_mmdet/configs/_base_/runtime.py" in names
    metadata = made.read(f"efpn_kernels-{__version__}.dist-info/METADATA").decode()
    for line in ("License-Expression: Apache-2.0", "License-File: LICENSE", "Project-URL: Paper, "):
        assert line in metadata
    assert "\nLicense: " not in metadata


def test_a_source_archive_builds(clone: Path, tmp_path: Path) -> None:
    """It holds every source and the integration's README, and gives the same wheel as the clone."""
    assert setup_py(clone, "sdist", CXX="no-such-compiler").returncode == 0
    with tarfile.open(clone / "dist" / f"efpn_kernels-{__version__}.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for folder in ("csrc", "integration", "efpn_kernels"):
        for path in (clone / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (unpacked / path.relative_to(clone)).read_bytes() == path.read_bytes()
    assert not [p for p in unpacked.rglob("*") if p.suffix == ".so" or p.name == "_build.json"]
    ours, theirs = wheel(clone_of(clone), compiler=True), wheel(unpacked, compiler=True)
    assert sorted(ours.namelist()) == sorted(theirs.namelist())


def clone_of(clone: Path) -> Path:
    return copy_clone(clone.parent / "another")


@pytest.mark.parametrize(
    "variables",
    [
        {"CXX": "no-such-compiler"},
        {"CXXFLAGS": "'-O2"},
        {"LDFLAGS": '"-s'},
        {"MAX_JOBS": "0"},
        {"CUDA_HOME": "/no/such/cuda", "EFPN_KERNELS_NO_CUDA": ""},
        {"FORCE_CUDA": "1", "CXX": "", "EFPN_KERNELS_NO_CUDA": "", "compiler": ""},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_build_that_cannot_succeed_says_one_sentence(
    clone: Path, variables: dict[str, str]
) -> None:
    compiler = "compiler" not in variables
    given = {name: value for name, value in variables.items() if name != "compiler"}
    done = setup_py(clone, "bdist_wheel", compiler=compiler, **given)
    name = next(iter(variables))
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"efpn_kernels: {name}: expected "), done.stdout
    assert "Traceback" not in done.stdout
    assert not (clone / "dist").exists()


def test_sources_that_cannot_be_written_to(clone: Path) -> None:
    """Not even by root: the kernel refuses it in a mount for reading."""
    script = f'mount --bind "{clone}" "{clone}" && mount -o remount,ro,bind "{clone}" && "$@"'
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    build = (sys.executable, str(clone / "setup.py"), "bdist_wheel")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *build],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"efpn_kernels: {clone}: expected a folder to write to")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("version", ["65.5.0", "76.1"])
def test_an_old_setuptools_is_refused(clone: Path, version: str) -> None:
    (clone / "setuptools").mkdir()
    (clone / "setuptools" / "__init__.py").write_text(
        f"__version__ = {version!r}\nCommand = Distribution = find_packages = setup = None\n"
    )
    (clone / "setuptools" / "command").mkdir()
    (clone / "setuptools" / "command" / "__init__.py").write_text("")
    (clone / "setuptools" / "command" / "build.py").write_text("build = None\n")
    done = setup_py(clone, "bdist_wheel")
    assert done.returncode == 1
    assert done.stdout.strip() == (
        f"efpn_kernels: setuptools: expected 77 or newer, found {version}; run "
        "`pip install 'setuptools>=77'`"
    )
