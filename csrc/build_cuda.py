"""Compiles ``csrc/cuda`` into one shared library on LibTorch's stable ABI.

The library needs no Python and no CUDA runtime library (it is linked statically), and of torch only
``aoti_torch_*`` and ``torch_*`` symbols, so one binary serves every torch >= 2.11. It names
``libtorch_cuda.so`` among its needed libraries; where the torch at hand has none, a stub of that name
stands in for the link.

    python csrc/build_cuda.py --arch 9.0 --output efpn_kernels/_cuda.abi3.so

Environment: ``CUDA_HOME``, ``TORCH_CUDA_ARCH_LIST``, ``MAX_JOBS``, ``CXX`` as for PyTorch's own
extensions; ``LDFLAGS`` and what nvcc itself reads, as ``NVCC_APPEND_FLAGS``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import toolchain
from toolchain import TARGET_VERSION, BuildError, words

SOURCES = Path(__file__).resolve().parent / "cuda"
# Machine code runs on later GPUs of the same generation too: that of 10.0 on 10.3, of 12.0 on 12.1.
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
# The names that PyTorch's extensions know, of what these kernels are for.
NAMED_ARCHITECTURES = {
    "Turing": ("7.5+PTX",),
    "Ampere": ("8.0", "8.6+PTX"),
    "Ampere+Tegra": ("8.7",),
    "Ada": ("8.9+PTX",),
    "Hopper": ("9.0+PTX",),
    "Blackwell": ("10.0", "10.3", "12.0", "12.1+PTX"),
    "Blackwell+Tegra": ("11.0",),
}

USUAL_NVCC = "/usr/local/cuda/bin/nvcc"

Report = dict[str, object]


def find_nvcc() -> str | None:
    """The compiler: of ``CUDA_HOME``, on the path, or in the usual place; None where there is none.

    Raises:
        BuildError: for a CUDA_HOME or CUDA_PATH that holds none.
    """
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(name)
        if home and os.access(f"{home}/bin/nvcc", os.X_OK):
            return f"{home}/bin/nvcc"
        if home:
            raise BuildError(
                f"{name}: expected a CUDA toolkit, got {home!r}, which has no bin/nvcc; correct or "
                "unset it, or set EFPN_KERNELS_NO_CUDA=1 to install without the CUDA library"
            )
    candidates = (shutil.which("nvcc"), USUAL_NVCC)
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def architectures(nvcc: str) -> tuple[str, ...]:
    """``TORCH_CUDA_ARCH_LIST`` ("8.0;9.0+PTX", "8.0 9.0", "Ampere;Hopper"), or the default list.

    The default list loses what ``nvcc`` is too old for; GPUs of these run the PTX of the last one left.

    Raises:
        BuildError: if an architecture was asked for that ``nvcc`` does not know.
    """
    listed = tuple(re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(";, ")))
    if listed != ("",):
        return known(numbered(listed), nvcc)
    able = known_to(nvcc)
    left = [name for name in DEFAULT_ARCHITECTURES if name.removesuffix("+PTX") in able]
    if not left:
        raise BuildError(
            f"nvcc: expected one that compiles for any of {', '.join(DEFAULT_ARCHITECTURES)}, but "
            f"{toolchain.version_of([nvcc])} knows {', '.join(able) or 'none'}; install CUDA 12 or "
            "newer and set CUDA_HOME, or set EFPN_KERNELS_NO_CUDA=1"
        )
    return (*left[:-1], left[-1].removesuffix("+PTX") + "+PTX")


def known_to(nvcc: str) -> list[str]:
    """The architectures that nvcc compiles for: ``["8.0", "9.0", ...]``."""
    found = re.findall(
        r"^compute_(\d+)(\d)$", toolchain.run([nvcc, "--list-gpu-arch"]), re.MULTILINE
    )
    return [f"{major}.{minor}" for major, minor in found]


def known(arch_list: Sequence[str], nvcc: str) -> tuple[str, ...]:
    """The list, if nvcc knows all of it."""
    architecture_flags(arch_list)
    able = known_to(nvcc)
    unknown = [name for name in arch_list if re.sub(r"[af]?(\+PTX)?$", "", name) not in able]
    if unknown:
        raise BuildError(
            f"TORCH_CUDA_ARCH_LIST: expected what this nvcc knows ({', '.join(able)}), got "
            f"{', '.join(unknown)}; leave it out, unset the variable, or take a newer CUDA toolkit "
            f"(this one: {toolchain.version_of([nvcc])})"
        )
    return tuple(arch_list)


def numbered(arch_list: Sequence[str]) -> tuple[str, ...]:
    """The list with numbers for the names in it, each once."""
    numbers = (n for name in arch_list for n in NAMED_ARCHITECTURES.get(name, (name,)))
    return tuple(dict.fromkeys(numbers))


def architecture_flags(arch_list: Sequence[str]) -> list[str]:
    """``-gencode`` flags; "9.0+PTX" adds the PTX of 9.0, for GPUs that are newer than the list."""
    flags = []
    for name in arch_list:
        number = name.removesuffix("+PTX")
        if not re.fullmatch(r"\d+\.\d[af]?", number):
            raise BuildError(
                "TORCH_CUDA_ARCH_LIST: expected entries like 9.0 or 9.0+PTX, or of "
                f"{', '.join(NAMED_ARCHITECTURES)}, got {name!r}"
            )
        digits = number.replace(".", "")
        flags.append(f"-gencode=arch=compute_{digits},code=sm_{digits}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{digits},code=compute_{digits}")
    return flags


def host_compiler() -> str:
    """The compiler that nvcc is to call, without a launcher such as ccache in front of it."""
    compiler = toolchain.find_compiler()
    if compiler is None:
        raise BuildError(
            "nvcc: needs a C++ compiler for the code that runs on the CPU, found none; install g++ or "
            "set CXX, or set EFPN_KERNELS_NO_CUDA=1 to install without the CUDA library"
        )
    names = (word for word in compiler if re.search(r"(g|clang|c)\+\+", Path(word).name))
    return next(names, compiler[0])


def nvcc_command(nvcc: str, torch_dir: Path, arch_list: Sequence[str]) -> list[str]:
    """The command that compiles a source, which follows, to an object."""
    host = ("-fPIC", "-fvisibility=hidden", *toolchain.without_paths(torch_dir))
    return [
        *(nvcc, "-ccbin", host_compiler()),
        *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "--extended-lambda"),
        *("-Xcompiler", ",".join(host), "-Xptxas", "-v"),
        *(f"-DTORCH_TARGET_VERSION={TARGET_VERSION}", "-DUSE_CUDA"),
        *("-isystem", str(torch_dir / "include")),
        *architecture_flags(arch_list),
    ]


def link_command(nvcc: str, objects: Sequence[Path], output: Path, library_dir: Path) -> list[str]:
    """The command that links the objects, against ``libtorch_cuda.so`` of ``library_dir``."""
    return [
        *(nvcc, "-ccbin", host_compiler()),
        *("-shared", "-cudart", "static", "-o", str(output), *map(str, objects)),
        # Needed even where the linker would find no symbol of it used: the stub has none.
        *("-Xlinker", "--no-as-needed", "-Xlinker", str(library_dir / "libtorch_cuda.so")),
        *("-Xlinker", "--as-needed", "-Xlinker", "--exclude-libs=ALL"),
        *("-Xlinker", "--allow-shlib-undefined"),
        *linker_flags(words("LDFLAGS")),
    ]


def linker_flags(flags: Sequence[str]) -> list[str]:
    """``LDFLAGS``, which are for a C++ compiler, for nvcc."""
    translated: list[str] = []
    for word in flags:
        # nvcc would take the commas for its own.
        option, parts = (
            ("-Xlinker", word.split(",")[1:]) if word.startswith("-Wl,") else ("-Xcompiler", [word])
        )
        for part in parts:
            translated += [option, part]
    return translated


def torch_cuda_directory(torch_dir: Path, scratch: Path) -> tuple[Path, bool]:
    """Where ``libtorch_cuda.so`` is, and whether it is a stub that was made for the link."""
    if (torch_dir / "lib" / "libtorch_cuda.so").exists():
        return torch_dir / "lib", False
    source = scratch / "stub.cpp"
    source.write_text('extern "C" void efpn_kernels_stub() {}\n')
    library = scratch / "libtorch_cuda.so"
    flags = ("-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so")
    toolchain.run([host_compiler(), *flags, "-o", str(library), str(source)])
    return scratch, True


def build_cuda(
    output: Path, torch_dir: Path | None = None, arch_list: Sequence[str] | None = None
) -> Report:
    """Compiles every ``csrc/cuda/*.cu`` and links them to ``output``.

    Args:
        output: the shared library to write.
        torch_dir: a torch package directory; default: the installed one.
        arch_list: architectures as in ``TORCH_CUDA_ARCH_LIST``; default: that, or the default list.

    Returns:
        The resolved configuration, and under ``"log"`` what ptxas said of every kernel.

    Raises:
        BuildError: no nvcc, no torch, or a command that failed, with its output.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            "nvcc: expected in CUDA_HOME, on the path or in /usr/local/cuda, found none"
        )
    torch_dir = toolchain.find_torch() if torch_dir is None else torch_dir
    toolchain.check_compiler([host_compiler()])
    by_default = arch_list is None and not os.environ.get("TORCH_CUDA_ARCH_LIST")
    chosen = architectures(nvcc) if arch_list is None else known(numbered(arch_list), nvcc)
    set_apart = left_out(chosen) if by_default else []
    jobs, identity = toolchain.jobs(), toolchain.version_of([nvcc])
    release = re.search(r", release (\d+\.\d+)", identity)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        library_dir, stub = torch_cuda_directory(torch_dir, scratch)
        report: Report = {
            "nvcc": identity,
            "cuda": release[1] if release else "unknown",
            "torch": str(torch_dir),
            "architectures": " ".join(chosen),
            "left out": " ".join(set_apart) or "nothing",
            "libtorch_cuda": "stub" if stub else str(library_dir / "libtorch_cuda.so"),
            "jobs": jobs,
            "output": str(output),
        }
        for name, value in report.items():
            print(f"cuda: {name}: {value}", flush=True)
        stamp = scratch / "stamp.cu"
        stamp.write_text(
            toolchain.STAMP.source(cuda=report["cuda"], architectures=report["architectures"])
        )
        command = nvcc_command(nvcc, torch_dir, chosen)
        identity += toolchain.version_of([host_compiler()])
        identity += str([os.environ.get(f"NVCC_{way}_FLAGS") for way in ("PREPEND", "APPEND")])
        with ThreadPoolExecutor(jobs) as pool:
            compiled = list(
                pool.map(
                    lambda source: toolchain.compile_object(command, identity, source, torch_dir),
                    [*sorted(SOURCES.glob("*.cu")), stamp],
                )
            )
        report["log"] = "".join(said for _, said in compiled)
        linked = scratch / output.name
        toolchain.run(link_command(nvcc, [path for path, _ in compiled], linked, library_dir))
        toolchain.put(linked, output)
    toolchain.forget_old_objects()
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(f"cuda: built in {report['seconds']} s", flush=True)
    return report


def left_out(chosen: Sequence[str]) -> list[str]:
    """What of the default list is not among the chosen architectures."""
    numbers = {name.removesuffix("+PTX") for name in chosen}
    defaults = (name.removesuffix("+PTX") for name in DEFAULT_ARCHITECTURES)
    return [name for name in defaults if name not in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("efpn_kernels/_cuda.abi3.so"))
    parser.add_argument("--arch", nargs="+", help="for example 8.0 9.0+PTX, or Hopper")
    parser.add_argument("--torch-dir", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print what ptxas says")
    arguments = parser.parse_args()
    try:
        report = build_cuda(arguments.output, arguments.torch_dir, arguments.arch)
    except BuildError as error:
        sys.exit(str(error))
    if arguments.verbose:
        print(report["log"])


if __name__ == "__main__":
    main()
