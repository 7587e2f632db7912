"""Compiles ``csrc/cpu`` into one shared library on LibTorch's stable ABI.

Each source is compiled once and holds the code for every instruction set, chosen at run time; no
``-march`` is given. The library needs no Python and of torch only its stable C functions, so one
binary serves every torch >= 2.11.

    python csrc/build_cpu.py --output efpn_kernels/_cpu.abi3.so [--sanitize]

Environment: ``CXX`` (with arguments, if wanted), ``CXXFLAGS``, ``LDFLAGS``, ``MAX_JOBS``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import toolchain
from toolchain import BuildError, words

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
    f"-DTORCH_TARGET_VERSION={toolchain.TARGET_VERSION}",
)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1")


def build_cpu(output: Path, sanitize: bool = False) -> str:
    """Compile every source beside each other and link them to ``output``.

    Returns:
        What compiled it.

    Raises:
        BuildError: without a compiler or torch, or with the compiler's words if a source fails.
    """
    compiler = toolchain.find_compiler()
    if compiler is None:
        raise BuildError("CXX: expected a C++17 compiler (g++ or clang++), found none on the path")
    torch_dir, jobs = toolchain.find_torch(), toolchain.jobs()
    toolchain.check_compiler(compiler)
    identity = toolchain.version_of(compiler)
    flags = [*FLAGS, *(SANITIZE if sanitize else ()), *words("CXXFLAGS")]
    print(f"efpn_kernels CPU library: {identity}, torch headers in {torch_dir}, {jobs} jobs")
    print(f"  flags: {' '.join(flags)}", flush=True)
    command = [*compiler, *flags, *toolchain.without_paths(torch_dir), f"-I{torch_dir}/include"]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "stamp.cpp")
        stamp.write_text(toolchain.STAMP.source())

        def compile_source(source: Path) -> str:
            compiled, said = toolchain.compile_object(command, identity, source, torch_dir)
            seconds = time.perf_counter() - start
            print(f"  [{seconds:5.1f} s] {source.name}\n{said}", end="", flush=True)
            return str(compiled)

        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(compile_source, [*sorted(SOURCES.glob("*.cpp")), stamp]))
        linked = Path(folder, output.name)
        libraries = [f"-L{torch_dir}/lib", "-ltorch_cpu", *words("LDFLAGS")]
        toolchain.run([*compiler, *flags, "-shared", *objects, *libraries, "-o", str(linked)])
        toolchain.put(linked, output)
    toolchain.forget_old_objects()
    print(f"  -> {output} ({output.stat().st_size / 1e6:.1f} MB)", flush=True)
    return identity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    arguments = parser.parse_args()
    try:
        build_cpu(arguments.output, arguments.sanitize)
    except BuildError as error:
        sys.exit(str(error))
