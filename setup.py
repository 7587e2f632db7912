"""Builds the compiled libraries; everything else stands in pyproject.toml.

The CPU library is built where there is a C++ compiler, the CUDA library where there is nvcc, GPU or
not. Neither is a Python extension module: both are plain shared libraries on LibTorch's stable ABI.

Environment: ``EFPN_KERNELS_NO_EXTENSION=1`` builds nothing, ``EFPN_KERNELS_NO_CUDA=1`` no CUDA library,
``FORCE_CUDA=1`` fails where nvcc is missing; ``TORCH_CUDA_ARCH_LIST``, ``MAX_JOBS``, ``CXX`` as usual.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import build_cpu
import build_cuda


def flag(name):
    return os.environ.get(name, "0") not in ("", "0")


class BuildLibraries(build_ext):
    """Compiles csrc/cpu and csrc/cuda into the package."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".abi3.so"

    def build_extension(self, extension):
        output = Path(self.get_ext_fullpath(extension.name)).absolute()
        if extension.name.endswith("_cpu"):
            self.build_cpu_library(output)
        else:
            self.build_cuda_library(output)

    def build_cpu_library(self, output):
        if build_cpu.find_compiler() is None:
            print(
                "efpn_kernels: NO C++ COMPILER FOUND, installing without the CPU library. Plain "
                "PyTorch and Triton remain. Install g++ and reinstall to have it.",
                file=sys.stderr,
            )
            return
        try:
            build_cpu.find_torch()
        except RuntimeError:
            sys.exit(
                "efpn_kernels: torch is not visible to the build. Install torch first, then run\n"
                "    pip install --no-build-isolation .\n"
                "or set EFPN_KERNELS_NO_EXTENSION=1 to install without compiled libraries."
            )
        build_cpu.build_cpu(output)

    def build_cuda_library(self, output):
        if build_cuda.find_nvcc() is None:
            if flag("FORCE_CUDA"):
                sys.exit("efpn_kernels: FORCE_CUDA=1, but no nvcc was found; set CUDA_HOME.")
            print(
                "efpn_kernels: no nvcc found, installing without the CUDA library.", file=sys.stderr
            )
            return
        # Kept, so that building a wheel after an install is quick.
        objects = Path(__file__).parent / "build" / "cuda"
        report = build_cuda.build_cuda(output, object_dir=objects)
        built = report["architectures"].split()
        facts = {
            "architectures": [name.removesuffix("+PTX") for name in built],
            "ptx": any(name.endswith("+PTX") for name in built),
        }
        output.with_name("_cuda_build.json").write_text(json.dumps(facts))

    def get_outputs(self):
        return [path for path in super().get_outputs() if os.path.exists(path)]

    def copy_extensions_to_source(self):
        """For in-place and editable installs, of the libraries that were built."""
        for name in ("_cpu.abi3.so", "_cuda.abi3.so", "_cuda_build.json"):
            built = Path(self.build_lib, "efpn_kernels", name).absolute()
            if built.exists():
                target = Path(__file__).parent / "efpn_kernels" / name
                # A new file instead of new contents: a process may have the old one mapped.
                shutil.copy(built, target.with_suffix(".new"))
                target.with_suffix(".new").replace(target)


def extensions():
    if flag("EFPN_KERNELS_NO_EXTENSION"):
        print("efpn_kernels: EFPN_KERNELS_NO_EXTENSION=1, no compiled library", file=sys.stderr)
        return []
    names = ["_cpu"] + ([] if flag("EFPN_KERNELS_NO_CUDA") else ["_cuda"])
    return [Extension(f"efpn_kernels.{name}", [], py_limited_api=True) for name in names]


setup(
    packages=[
        *find_packages(include=["efpn_kernels", "efpn_kernels.*"]),
        *find_packages("integration", include=["efpn_mmdet", "efpn_mmdet.*"]),
        "efpn_mmdet.configs",
    ],
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
