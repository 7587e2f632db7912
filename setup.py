"""Builds the compiled libraries; everything else stands in pyproject.toml.

The CPU library is built where there is a C++ compiler, the CUDA library where there is nvcc, GPU or
not. Neither is a Python extension module: both are plain shared libraries on LibTorch's stable ABI.
``_build.json`` in the package says what was built, and why the rest was not.

Environment: see docs/environment.md.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Command, Distribution, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
MINIMUM_SETUPTOOLS = 77

if int(setuptools.__version__.split(".")[0]) < MINIMUM_SETUPTOOLS:
    sys.exit(
        f"efpn_kernels: setuptools: expected {MINIMUM_SETUPTOOLS} or newer, found "
        f"{setuptools.__version__}; run `pip install 'setuptools>={MINIMUM_SETUPTOOLS}'`"
    )
try:
    tempfile.TemporaryFile(dir=ROOT).close()
except OSError as error:
    sys.exit(
        f"efpn_kernels: {ROOT}: expected a folder to write to, since building leaves files in it, got "
        f"{error}; copy it to another place and install from there"
    )

sys.path.insert(0, str(ROOT / "csrc"))
from toolchain import BuildError, find_compiler, flag

import build_cpu
import build_cuda


def not_built() -> dict[str, str | None]:
    """Why a library is not to be built; None if it is.

    Raises:
        BuildError: if a variable names what does not exist.
    """
    if flag("EFPN_KERNELS_NO_EXTENSION"):
        return dict.fromkeys(("cpu", "cuda"), "EFPN_KERNELS_NO_EXTENSION was set at installation")
    no_compiler = None
    if find_compiler() is None:
        no_compiler = "no C++ compiler was found at installation (CXX, g++, clang++ or c++)"
    if flag("EFPN_KERNELS_NO_CUDA"):
        return {"cpu": no_compiler, "cuda": "EFPN_KERNELS_NO_CUDA was set at installation"}
    no_cuda = no_compiler
    if build_cuda.find_nvcc() is None:
        no_cuda = "no nvcc was found at installation (CUDA_HOME, the path or /usr/local/cuda)"
    if no_cuda is not None and flag("FORCE_CUDA"):
        raise BuildError(f"FORCE_CUDA: expected nvcc and a C++ compiler, but {no_cuda}")
    return {"cpu": no_compiler, "cuda": no_cuda}


class BuildLibraries(Command):
    """Compiles csrc/cpu and csrc/cuda into the package, and leaves a record of it."""

    description = "compile the libraries of the package"
    user_options: ClassVar = [("inplace", "i", "put them into the sources")]
    boolean_options: ClassVar = ["inplace"]
    editable_mode = False

    def initialize_options(self):
        self.inplace = False
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        in_sources = self.inplace or self.editable_mode
        try:
            self.build((ROOT if in_sources else Path(self.build_lib)) / "efpn_kernels")
        except BuildError as error:
            sys.exit(f"efpn_kernels: {error}")

    def build(self, package):
        record = {}
        for name, reason in not_built().items():
            output = package / f"_{name}.abi3.so"
            if reason is not None:
                output.unlink(missing_ok=True)
                record[name] = {"built": False, "reason": reason}
                print(f"efpn_kernels: no {name} library: {reason}", flush=True)
            elif name == "cpu":
                record[name] = {"built": True, "compiler": build_cpu.build_cpu(output)}
            else:
                report = build_cuda.build_cuda(output)
                facts = ("cuda", "architectures", "left out")
                record[name] = {"built": True, **{fact: report[fact] for fact in facts}}
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(record, indent=1) + "\n")

    def get_source_files(self):
        return []

    def get_output_mapping(self):
        return {}

    def get_outputs(self):
        package = Path(self.build_lib, "efpn_kernels")
        names = ("_build.json", "_cpu.abi3.so", "_cuda.abi3.so")
        return [str(package / name) for name in names if (package / name).exists()]


class Build(build):
    """Starts from nothing: what an earlier version left would end up in the wheel."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_libraries", None)]

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class WithLibraries(Distribution):
    """Its wheel is of this machine's kind if it holds a library."""

    def has_ext_modules(self):
        try:
            return None in not_built().values()
        except BuildError:  # a source archive does not mind, the build itself will say it
            return True


setup(
    distclass=WithLibraries,
    cmdclass={"build": Build, "build_libraries": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
