"""Compiles ``csrc/cuda`` with the C++ compiler, so that its kernels run on a CPU, thread by thread.

The kernels are the ones that nvcc compiles; only the text below differs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import toolchain

import build_cuda

HERE = Path(__file__).resolve().parent
NAMESPACE = "efpn_cuda_on_cpu"
REPLACED = {
    "tensor.cuh": {
        "kernel<<<grid, block, 0, stream_>>>(arguments...);": (
            "emulate::launch_kernel(kernel, grid, block, 1, arguments...);"
        ),
        "STD_CUDA_KERNEL_LAUNCH_CHECK();": "",
        "STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));": (
            "emulate::launch_kernel(kernel, grid, block, cluster, arguments...);"
        ),
        "return Tensor(handle);": "return emulate::poisoned(Tensor(handle));",
        "TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));": "",
        "int32_t device() const { return device_; }": (
            "int32_t device() const { return emulate::device(); }"
        ),
        "device_(x.get_device_index()), guard_(device_)": "device_(0)",
        "torch::stable::accelerator::DeviceGuard guard_;": "",
        "aoti_torch_device_type_cuda()": "aoti_torch_device_type_cpu()",
        "#include <torch/csrc/stable/accelerator.h>": "",
    },
    "device.cuh": {"#include <cuda_runtime.h>": ""},
    "cem_pooled_context.cu": {
        "#include <cooperative_groups.h>": "",
        "#if __CUDA_ARCH__ >= 900": "#if 1",
        "STD_CUDA_CHECK(cudaFuncGetAttributes(": "(void)(cudaFuncGetAttributes(",
        "__trap();": "",
    },
    "efpn_bs.cu": {
        "aoti_torch_cuda_##name": "aoti_torch_cpu_##name",
        "generated/c_shim_cuda.h": "generated/c_shim_cpu.h",
    },
    # A CPU's library has no product of halves with a wider result.
    "high_gate_taps.cu": {
        "return p_high.scalar_type();": "return accumulate_type(p_high.scalar_type());"
    },
}
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-w", "-x", "c++")
# The compiler calls watch.cpp for every access, and its accesses are those of the source.
WATCHED = (
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=bounds-strict,signed-integer-overflow,shift,integer-divide-by-zero",
    "-fno-tree-sra",
)


def translate(source: Path, folder: Path) -> Path:
    """The source with its replacements, each of which must be found; written where it changed."""
    text = source.read_text()
    for old, new in REPLACED.get(source.name, {}).items():
        assert text.count(old) == 1, f"{source.name}: expected once: {old}"
        text = text.replace(old, new)
    if source.suffix == ".cu":
        kernels = "STABLE_TORCH_LIBRARY_IMPL(efpn, CUDA, m)"
        assert text.count(kernels) == 1, f"{source.name}: expected once: {kernels}"
        text = text.replace(kernels, f"STABLE_TORCH_LIBRARY_IMPL({NAMESPACE}, CPU, m)")
        text = '#include "emulate.h"\n' + text
    target = folder / source.name
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
    return target


def cuda_headers(nvcc: str) -> str:
    """Where nvcc finds its headers: it may be a script somewhere else."""
    said = toolchain.run([nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"])
    found = re.search(r'INCLUDES="-I([^"\s]+)', said)
    assert found, said
    return found[1]


def digest(files: Iterable[Path], also: Iterable[str] = ()) -> str:
    """A name for contents: times say little, and nothing after a checkout or a copy."""
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    found.update("\n".join(also).encode())
    return found.hexdigest()[:16]


def build(folder: Path) -> Path:
    """The library, under ``folder``, where objects are kept and reused."""
    compiler, nvcc, torch_dir = (
        toolchain.find_compiler(),
        build_cuda.find_nvcc(),
        toolchain.find_torch(),
    )
    assert compiler is not None and nvcc is not None
    shutil.rmtree(folder / "common", ignore_errors=True)
    shutil.copytree(build_cuda.SOURCES.parent / "common", folder / "common")
    (folder / "cuda").mkdir(exist_ok=True)
    wanted = [p for p in sorted(build_cuda.SOURCES.iterdir()) if p.suffix in (".cu", ".cuh")]
    translated = [translate(path, folder / "cuda") for path in wanted]
    sources = [path for path in translated if path.suffix == ".cu"]
    sources += [HERE / "broken.cu", *sorted(HERE.glob("*.cpp"))]
    headers = [path for path in translated if path.suffix == ".cuh"]
    headers += [*HERE.glob("*.h"), *(folder / "common").iterdir()]
    includes = ["-isystem", f"{torch_dir}/include"]
    includes += ["-isystem", cuda_headers(nvcc), "-I", str(HERE)]
    version = f"-DTORCH_TARGET_VERSION={toolchain.TARGET_VERSION}"
    shared = digest(headers)

    def compile_source(source: Path) -> str:
        flags = FLAGS + WATCHED if source.suffix == ".cu" else FLAGS
        command = [*compiler, *flags, version, *includes, "-c", str(source)]
        target = folder / f"{source.stem}.{digest([source], (shared, *command))}.o"
        if not target.exists():
            for old in folder.glob(f"{source.stem}.*.o"):
                old.unlink()
            # Whole or not at all: a compiler that is stopped leaves part of a file.
            toolchain.run([*command, "-o", str(target.with_suffix(".part"))])
            target.with_suffix(".part").replace(target)
        return str(target)

    with ThreadPoolExecutor(toolchain.jobs()) as pool:
        objects = list(pool.map(compile_source, sources))
    # A new file instead of new contents: this process may have the old one mapped.
    output = folder / "kernels.so"
    output.unlink(missing_ok=True)
    libraries = (f"-L{torch_dir}/lib", "-ltorch_cpu", "-Wl,-z,defs")
    toolchain.run([*compiler, "-shared", "-o", str(output), *objects, *libraries])
    return output
