"""Compiles ``csrc/cuda`` into one shared library on LibTorch's stable ABI.

The library needs no Python and no CUDA runtime library (it is linked statically), and of torch only
``aoti_torch_*`` and ``torch_*`` symbols, so one binary serves every torch >= 2.11. It names
``libtorch_cuda.so`` among its needed libraries; where the torch at hand has none, a stub of that name
stands in for the link.

    python csrc/build_cuda.py --arch 9.0 --output efpn_kernels/_cuda.abi3.so

Environment: ``CUDA_HOME``, ``TORCH_CUDA_ARCH_LIST``, ``MAX_JOBS`` as for PyTorch's own extensions.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "cuda"
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
TARGET_VERSION = "0x020b000000000000"  # torch 2.11

Report = dict[str, object]


def find_nvcc() -> str | None:
    """The compiler: of ``CUDA_HOME``, on the path, or in the usual place; None where there is none."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    candidates = [f"{home}/bin/nvcc" for home in homes if home]
    candidates += [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def find_torch() -> Path:
    """The directory of the installed torch package, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch: expected to be installed beside this Python, found none")
    return Path(spec.origin).parent


def architectures() -> tuple[str, ...]:
    """``TORCH_CUDA_ARCH_LIST`` ("8.0;9.0+PTX", "8.0 9.0", "Ampere;Hopper"), or the default list."""
    listed = tuple(re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()))
    return numbered(listed) if listed != ("",) else DEFAULT_ARCHITECTURES


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
            raise ValueError(
                "TORCH_CUDA_ARCH_LIST: expected entries like 9.0 or 9.0+PTX, or of "
                f"{', '.join(NAMED_ARCHITECTURES)}, got {name!r}"
            )
        digits = number.replace(".", "")
        flags.append(f"-gencode=arch=compute_{digits},code=sm_{digits}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{digits},code=compute_{digits}")
    return flags


def nvcc_command(
    nvcc: str, source: Path, output: Path, torch_dir: Path, arch_list: Sequence[str]
) -> list[str]:
    """The command that compiles one source to an object."""
    return [
        nvcc,
        *("-c", str(source), "-o", str(output)),
        *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "--extended-lambda"),
        *("-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v"),
        *(f"-DTORCH_TARGET_VERSION={TARGET_VERSION}", "-DUSE_CUDA"),
        *("-isystem", str(torch_dir / "include")),
        *architecture_flags(arch_list),
    ]


def link_command(nvcc: str, objects: Sequence[Path], output: Path, library_dir: Path) -> list[str]:
    """The command that links the objects, against ``libtorch_cuda.so`` of ``library_dir``."""
    return [
        nvcc,
        *("-shared", "-cudart", "static", "-o", str(output), *map(str, objects)),
        # Needed even where the linker would find no symbol of it used: the stub has none.
        *("-Xlinker", "--no-as-needed", "-Xlinker", str(library_dir / "libtorch_cuda.so")),
        *("-Xlinker", "--as-needed", "-Xlinker", "--exclude-libs=ALL"),
        *("-Xlinker", "--allow-shlib-undefined"),
    ]


def torch_cuda_directory(torch_dir: Path, scratch: Path) -> tuple[Path, bool]:
    """Where ``libtorch_cuda.so`` is, and whether it is a stub that was made for the link."""
    if (torch_dir / "lib" / "libtorch_cuda.so").exists():
        return torch_dir / "lib", False
    source = scratch / "stub.c"
    source.write_text("void efpn_kernels_stub(void) {}\n")
    library = scratch / "libtorch_cuda.so"
    run(["cc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", "-o", str(library), str(source)])
    return scratch, True


def run(command: Sequence[str]) -> str:
    """Runs a command; its output, which is part of the error where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def jobs() -> int:
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def build_cuda(
    output: Path,
    torch_dir: Path | None = None,
    arch_list: Sequence[str] | None = None,
    object_dir: Path | None = None,
) -> Report:
    """Compiles every ``csrc/cuda/*.cu`` and links them to ``output``.

    Args:
        output: the shared library to write.
        torch_dir: a torch package directory; default: the installed one.
        arch_list: architectures as in ``TORCH_CUDA_ARCH_LIST``; default: that, or the default list.
        object_dir: keeps the objects, and reuses those newer than every source; default: temporary.

    Returns:
        The resolved configuration, and under ``"log"`` what ptxas said of every kernel.

    Raises:
        RuntimeError: no nvcc, no torch, or a command that failed, with its output.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError(
            "nvcc: expected in CUDA_HOME, on the path or in /usr/local/cuda, found none"
        )
    torch_dir = find_torch() if torch_dir is None else torch_dir
    arch_list = architectures() if arch_list is None else numbered(arch_list)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = scratch if object_dir is None else object_dir
        folder.mkdir(parents=True, exist_ok=True)
        library_dir, stub = torch_cuda_directory(torch_dir, scratch)
        report: Report = {
            "nvcc": run([nvcc, "--version"]).strip().splitlines()[-1],
            "torch": str(torch_dir),
            "architectures": " ".join(arch_list),
            "libtorch_cuda": "stub" if stub else str(library_dir / "libtorch_cuda.so"),
            "jobs": jobs(),
            "output": str(output),
        }
        for name, value in report.items():
            print(f"cuda: {name}: {value}", flush=True)
        sources = sorted(SOURCES.glob("*.cu"))
        objects = [folder / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(jobs()) as pool:
            logs = pool.map(
                lambda pair: compile_object(nvcc, *pair, torch_dir, arch_list),
                zip(sources, objects, strict=True),
            )
            report["log"] = "".join(logs)
        output.parent.mkdir(parents=True, exist_ok=True)
        run(link_command(nvcc, objects, output, library_dir))
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(f"cuda: built in {report['seconds']} s", flush=True)
    return report


def compile_object(
    nvcc: str, source: Path, output: Path, torch_dir: Path, arch_list: Sequence[str]
) -> str:
    """Compiles a source, unless object and log of the same command are newer than all sources."""
    command = nvcc_command(nvcc, source, output, torch_dir, arch_list)
    log = output.with_suffix(".log")
    headers = [path for path in SOURCES.parent.rglob("*") if path.suffix in (".cuh", ".h")]
    newest = max(path.stat().st_mtime for path in (source, *headers))
    stamp = " ".join(command) + "\n"
    if output.exists() and log.exists() and output.stat().st_mtime > newest:
        kept = log.read_text()
        if kept.startswith(stamp):
            return kept.removeprefix(stamp)
    text = run(command)
    log.write_text(stamp + text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("efpn_kernels/_cuda.abi3.so"))
    parser.add_argument("--arch", nargs="+", help="for example 8.0 9.0+PTX, or Hopper")
    parser.add_argument("--torch-dir", type=Path)
    parser.add_argument("--object-dir", type=Path, help="keep the objects here and reuse them")
    parser.add_argument("--verbose", action="store_true", help="print what ptxas says")
    arguments = parser.parse_args()
    try:
        report = build_cuda(
            arguments.output, arguments.torch_dir, arguments.arch, arguments.object_dir
        )
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))
    if arguments.verbose:
        print(report["log"])


if __name__ == "__main__":
    main()
