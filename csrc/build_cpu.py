"""Compiles ``csrc/cpu`` into one shared library on LibTorch's stable ABI.

Each source is compiled once and holds the code for every instruction set, chosen at run time; no
``-march`` is given. The library needs no Python and of torch only its stable C functions, so one
binary serves every torch >= 2.11.

    python csrc/build_cpu.py --output efpn_kernels/_cpu.abi3.so [--sanitize]

Environment: ``CXX``, ``CXXFLAGS``, ``MAX_JOBS``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_cuda import TARGET_VERSION, find_torch, jobs, run

SOURCES = Path(__file__).resolve().parent / "cpu"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-psabi",
    f"-DTORCH_TARGET_VERSION={TARGET_VERSION}",
)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


def find_compiler() -> str | None:
    """``CXX``, or the first C++ compiler on the path; None where there is none."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return next((name for name in candidates if name and shutil.which(name)), None)


def build_cpu(output: Path, sanitize: bool = False) -> None:
    """Compile every source beside each other and link them to ``output``.

    Raises:
        RuntimeError: without a compiler or torch, or with the compiler's words if a source fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError(
            "CXX: expected a C++17 compiler (g++ or clang++), found none on the path"
        )
    torch_dir = find_torch()
    flags = [*FLAGS, *(SANITIZE if sanitize else ()), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    sources = sorted(SOURCES.glob("*.cpp"))
    print(f"efpn_kernels CPU library: {compiler}, torch headers in {torch_dir}, {jobs()} jobs")
    print(f"  flags: {' '.join(flags)}", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:

        def compile_source(source: Path) -> str:
            target = f"{directory}/{source.stem}.o"
            said = run(
                [compiler, *flags, f"-I{torch_dir}/include", "-c", str(source), "-o", target]
            )
            print(
                f"  [{time.perf_counter() - start:5.1f} s] {source.name}\n{said}",
                end="",
                flush=True,
            )
            return target

        with ThreadPoolExecutor(jobs()) as pool:
            objects = list(pool.map(compile_source, sources))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = ["-shared", *(SANITIZE[:1] if sanitize else ()), f"-L{torch_dir}/lib", "-ltorch_cpu"]
        # A new file instead of new contents: a process may have the old one mapped.
        linked = Path(directory) / output.name
        run([compiler, *objects, *link, "-o", str(linked)])
        shutil.copy(linked, f"{output}.new")
        os.replace(f"{output}.new", output)
    print(f"  -> {output} ({output.stat().st_size / 1e6:.1f} MB)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    arguments = parser.parse_args()
    build_cpu(arguments.output, arguments.sanitize)
