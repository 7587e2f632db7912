"""Clones of the project and environments to install them into, for tests; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("csrc", "efpn_kernels", "integration")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("*.so", "*.new", "_build.json", "__pycache__", "*.egg-info")
SITE = Path(torch.__file__).parent.parent
# What a test takes away or installs anew must not lead to the environment that runs the test.
OWN = (
    "efpn",
    "__editable__",
    "triton",
    "torch-",
    "setuptools",
    "_distutils_hack",
    "distutils-",
    "zz_",
)


def copy_clone(folder: Path) -> Path:
    """What a fresh clone of the project holds, as far as installing needs it."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=IGNORED)
    for file in FILES:
        shutil.copy(ROOT / file, folder)
    return folder


def stub_wheel(folder: Path, name: str, version: str, code: str = "") -> Path:
    """A wheel of a package with nothing but ``code`` in it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n{code}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return _write_wheel(folder / f"{name}-{version}-py3-none-any.whl", info, files)


def wheel_of_installed(folder: Path, name: str) -> Path:
    """A wheel of a pure Python package, from the files that are installed."""
    distribution = metadata.distribution(name)
    stem = f"{name}-{distribution.version}"
    skipped = ("RECORD", "INSTALLER", "REQUESTED")
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in distribution.files or ()
        if ".." not in file.parts and file.suffix != ".pyc" and file.name not in skipped
    }
    return _write_wheel(folder / f"{stem}-py3-none-any.whl", f"{stem}.dist-info", files)


def _write_wheel(path: Path, info: str, files: dict[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in (*files, f"{info}/RECORD")))
    return path


class Environment:
    """A Python environment with this one's torch and pip, a folder of wheels, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        command = [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]
        subprocess.run(command, check=True)
        self.bin = folder / "venv" / "bin"
        self.python = self.bin / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = folder / "venv" / "lib" / version / "site-packages"
        for path in SITE.iterdir():
            if not path.name.startswith(OWN) and not (self.site / path.name).exists():
                (self.site / path.name).symlink_to(path)
        info = next(SITE.glob("torch-*.dist-info"))
        shutil.copytree(info, self.site / info.name)
        pip = self.bin / "pip"
        pip.write_text(f'#!/bin/sh\nexec "{self.python}" -m pip "$@"\n')
        pip.chmod(0o755)
        self.variables = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("EFPN_", "PYTHON", "PIP_", "CXX", "CUDA_"))
        }
        self.variables |= {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_CONFIG_FILE": os.devnull,
            # Those of the installation that runs the tests, so that nothing is compiled twice.
            "EFPN_KERNELS_OBJECTS": str(ROOT / "build" / "objects"),
            "EFPN_KERNELS_NO_CUDA": "1",
        }

    def install(self, *arguments: str, cwd: Path | None = None, **variables: str) -> None:
        done = self.shell(f"pip install {' '.join(arguments)}", cwd, **variables)
        assert done.returncode == 0, done.stdout

    def install_setuptools(self) -> None:
        wheel = wheel_of_installed(self.wheels, "setuptools")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)

    def shell(
        self, line: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A line as a user types it; stdout holds both streams."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=cwd or self.folder,
            env=self.variables | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
