"""The CUDA library without a GPU: it compiles, and ptxas, symbols and PTX say what we rely on."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))

import toolchain  # noqa: E402

import build_cuda  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        build_cuda.find_nvcc() is None,
        reason="nvcc: none in CUDA_HOME, on the path or in /usr/local/cuda",
    ),
]

ARCHITECTURE = "9.0"
"""Whose PTX is read."""

STACK_WITHOUT_SPILL = {("relu_map_kernel<4", "sm_8"): 8}
"""The one float kernel with a stack, by its name and architecture, and its bytes: nothing is spilled."""

DOUBLE_BYTES = 16
"""Stack of a float64 kernel, spills included: those around a call of the division."""


class Kernel(NamedTuple):
    """What ptxas says of a kernel."""

    name: str
    architecture: str
    stack: int
    spilled: int
    registers: int
    shared: int

    @property
    def is_double(self) -> bool:
        """Whether float64 is among the template arguments of the kernel or of its body."""
        return re.search(r"<(?:[^(]*, )?double\b", self.name) is not None

    @property
    def stays_in_registers(self) -> bool:
        """Whether nothing goes through local memory that is worth a word."""
        if self.is_double:
            return self.stack <= DOUBLE_BYTES
        known = (
            size
            for (name, architecture), size in STACK_WITHOUT_SPILL.items()
            if name in self.name and self.architecture.startswith(architecture)
        )
        return self.spilled == 0 and self.stack <= max(known, default=0)


def kernels(log: str) -> Iterator[Kernel]:
    pattern = re.compile(
        r"entry function '([^\n]+)' for '(sm_\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
        r".*?Used (\d+) registers([^\n]*)",
        re.DOTALL,
    )
    names = subprocess.run(
        ["c++filt"], input=log, check=True, capture_output=True, text=True
    ).stdout
    for name, architecture, stack, spilled, registers, rest in pattern.findall(names):
        shared = re.search(r"(\d+) bytes smem", rest)
        numbers = int(stack), int(spilled), int(registers), int(shared[1]) if shared else 0
        yield Kernel(name.replace("(anonymous namespace)::", ""), architecture, *numbers)


@pytest.fixture(scope="module")
def library() -> tuple[Path, str]:
    """The library for the whole list of architectures, and what ptxas said."""
    output = ROOT / "build" / "test_cuda" / "_cuda.abi3.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        report = build_cuda.build_cuda(output)
    return output, str(report["log"])


def expected() -> set[str]:
    """What a library is for unless somebody asks for something else, if this nvcc knows it."""
    nvcc = build_cuda.find_nvcc()
    assert nvcc is not None
    known = {f"sm_{name.replace('.', '')}" for name in build_cuda.known_to(nvcc)}
    assert {"sm_80", "sm_86", "sm_89", "sm_90"} <= known
    return {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"} & known


@functools.cache
def ptx(source: str) -> str:
    nvcc = build_cuda.find_nvcc()
    assert nvcc is not None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{source}.ptx"
        command = build_cuda.nvcc_command(nvcc, toolchain.find_torch(), [ARCHITECTURE])
        source_file = build_cuda.SOURCES / f"{source}.cu"
        toolchain.run([*command, "-ptx", str(source_file), "-o", str(output)])
        return output.read_text()


def tool(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_undefined_symbols_are_of_the_stable_abi(library: tuple[Path, str]) -> None:
    output, _ = library
    undefined = tool("nm", "-D", "--undefined-only", str(output)).split()
    names = {name.split("@")[0] for name in undefined if len(name) > 1}
    torch = {name for name in names if re.search("torch|c10|at_|caffe", name, re.IGNORECASE)}
    assert torch
    foreign = {name for name in torch if not re.match("(aoti_)?torch_", name)}
    assert not foreign
    assert not {
        name for name in names if name.startswith(("Py", "_Py", "cuda", "_ZN3c10", "_ZN2at"))
    }


def test_needs_libtorch_cuda(library: tuple[Path, str]) -> None:
    output, _ = library
    needed = re.findall(r"NEEDED.*\[(.*)\]", tool("readelf", "-d", str(output)))
    assert "libtorch_cuda.so" in needed
    assert not [name for name in needed if name.startswith(("libcudart", "libpython"))]


def test_registers_stay_out_of_local_memory(library: tuple[Path, str]) -> None:
    """On every architecture; the table is left in ``build/test_cuda/registers.md``."""
    output, log = library
    found = sorted(kernels(log))
    assert {k.architecture for k in found} == expected()
    assert len(found) > 100 * len(expected())
    lines = [
        f"| `{k.name}` | {k.architecture} | {k.registers} | {k.shared} | {k.stack} | {k.spilled} |"
        for k in found
    ]
    head = "| kernel | for | registers | shared bytes | stack bytes | spilled bytes |"
    table = "\n".join([head, "|---|---|---:|---:|---:|---:|", *lines])
    (output.parent / "registers.md").write_text(table + "\n")
    in_memory = [line for k, line in zip(found, lines, strict=True) if not k.stays_in_registers]
    assert not in_memory, "\n".join(in_memory)


# At least so many 16-byte loads and stores. Both memory formats where a kernel has one form for each.
WIDE = [
    ("cem_context_add", "map_kernel<true", 4, 4),
    ("cem_context_add", "map_kernel<false", 4, 4),
    ("cem_context_add", "channel_sums_kernel", 4, 0),
    ("dc_loss", "dc_loss_kernel", 4, 0),
    ("dc_loss", "dc_loss_kernel<true", 4, 2),
    ("refine_mask_apply_backward", "gate_bwd_last_kernel<{V}", 2, 0),
    ("refine_mask_apply_backward", "gate_bwd_plane_kernel", 2, 0),
    ("low_gate", "low_gate_last_kernel", 4, 0),
    ("low_gate", "low_gate_plane_kernel", 1, 0),
    ("low_gate", "LowGateBackward", 2, 1),
    ("refine_fuse", "gate_apply_last_kernel", 4, 4),
    ("refine_fuse", "gate_apply_plane_kernel", 4, 4),
]
ELEMENT = {"float": 4, "__nv_bfloat16": 8, "__half": 8}
"""C++ types, and how many elements 16 bytes hold."""


@pytest.mark.parametrize("element", ELEMENT)
@pytest.mark.parametrize(("source", "kernel", "loads", "stores"), WIDE)
def test_maps_move_in_16_bytes(
    source: str, kernel: str, loads: int, stores: int, element: str
) -> None:
    """The vector forms have at least so many 16-byte loads and stores in their PTX."""
    wide = [
        body
        for name, body in entries(source)
        if kernel.format(V=ELEMENT[element]) in name
        and is_of(name, element)
        and re.search(rf"\b{ELEMENT[element]},", name)
    ]
    assert wide
    for body in wide:
        assert len(re.findall(r"ld\.global\S*\.v4\.[bfu]32", body)) >= loads
        assert len(re.findall(r"st\.global\S*\.v4\.[bfu]32", body)) >= stores


def is_of(name: str, element: str) -> bool:
    """Whether a kernel is made for maps of ``element``; those of half the size also name float."""
    halves = ("__nv_bfloat16", "__half", "double")
    return element in name and (element != "float" or not any(half in name for half in halves))


@functools.cache
def entries(source: str) -> list[tuple[str, str]]:
    """The kernels of a source: template arguments of their names, and their PTX."""
    found = re.findall(r"\.entry (\w+)\((.*?)\n}\n", ptx(source), re.DOTALL)
    mangled = "\n".join(name for name, _ in found)
    plain = subprocess.run(
        ["c++filt"], input=mangled, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    # Parameters and return types repeat the element: what counts stands before them.
    names = [name.replace("(anonymous namespace)::", "").split("(")[0] for name in plain]
    return [(name, body) for name, (_, body) in zip(names, found, strict=False)]
