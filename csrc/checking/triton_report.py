"""Every Triton kernel compiled ahead of time, with no GPU: registers, spills, shared memory, widths.

    PYTHONPATH=csrc python -m checking.triton_report [--json FILE] [--targets sm_90,gfx942]

The launchers run on tensors without memory, at the shapes of a detector, while Triton compiles for a
target instead of launching: what is inspected is what would run. Bytes, operations and the times that they
allow are in ``benchmarks/kernels/triton_roofline.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from .cases import Maker
from .real_shapes import FORMATS, real_cases

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SIZES = ((1, 256), (2, 64))
"""Batch and channels; Triton compiles anew where a size is 1."""


class MetaMaker(Maker):
    """Makes arguments that have a shape, a dtype and strides, but no memory."""

    def __init__(self, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__(dtype, channels_last, "meta")

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype, device="meta")

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device="meta")


class OfflineDriver:
    """Stands in for the driver of a GPU that is not there."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        return 0


class Recorder:
    """Compiles every launch for a target and keeps it, in place of running it.

    The driver stays replaced afterwards: the process that compiles offline launches nothing.
    """

    def __init__(self, target: GPUTarget) -> None:
        self.target = target
        self.launches: list[tuple[JITFunction, dict, object]] = []

    def __enter__(self) -> Recorder:
        self.run = run = JITFunction.run

        def compile_only(kernel: JITFunction, *args: object, **options: object) -> object:
            compiled = run(kernel, *args, **{**options, "warmup": True})
            self.launches.append((kernel, options, compiled))
            return compiled

        JITFunction.run = compile_only
        triton.runtime.driver.set_active(OfflineDriver(self.target))
        return self

    def __exit__(self, *exception: object) -> None:
        JITFunction.run = self.run


def nvidia_resources(cubin: bytes) -> dict[str, int]:
    """Registers and stack bytes (spills live there) of the only kernel of a cubin."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return {
        "registers": int(usage["REG"]),
        "spill_bytes": int(usage["STACK"]) + int(usage["LOCAL"]),
    }


def amd_resources(assembly: str) -> dict[str, int]:
    """Vector registers, and what spills: bytes of scratch memory, and registers by the compiler's count.

    Scalar registers spill into lanes of vector registers first, which takes no memory.
    """
    names = "vgpr_count|private_segment_fixed_size|vgpr_spill_count|sgpr_spill_count"
    usage = {k: int(v) for k, v in re.findall(rf"\.({names}):\s+(\d+)", assembly)}
    return {
        "registers": usage["vgpr_count"],
        "spill_bytes": usage["private_segment_fixed_size"],
        "spilled_vectors": usage["vgpr_spill_count"],
        "spilled_scalars": usage["sgpr_spill_count"],
    }


AMD_WIDTHS = {"ubyte": 1, "sbyte": 1, "byte": 1, "ushort": 2, "sshort": 2, "short": 2, "dword": 4}
AMD_WIDTHS |= {f"dwordx{n}": 4 * n for n in (2, 3, 4)}


def amd_access_widths(assembly: str, instruction: str) -> dict[str, int]:
    """How many loads or stores of each width in bytes a kernel of a CDNA GPU has."""
    pattern = rf"^\s+(?:global|buffer|flat)_{instruction}_(dwordx\d|[a-z]+)"
    widths = Counter(AMD_WIDTHS[name] for name in re.findall(pattern, assembly, re.MULTILINE))
    return {str(width): count for width, count in sorted(widths.items())}


def nvidia_access_widths(ptx: str, instruction: str) -> dict[str, int]:
    """How many ``ld.global`` or ``st.global`` of each width in bytes a kernel has."""
    widths: Counter[int] = Counter()
    for vector, bits in re.findall(rf"\b{instruction}\.global\S*?(?:\.v(\d))?\.b(\d+)\s", ptx):
        widths[int(vector or 1) * int(bits) // 8] += 1
    return {str(width): count for width, count in sorted(widths.items())}


def describe(kernel: JITFunction, options: dict, compiled: object, target: str) -> dict:
    """What the compiler made of one launch."""
    settings = {
        name: value for name, value in options.items() if name.isupper() and isinstance(value, int)
    }
    row = {
        "kernel": kernel.fn.__name__,
        "target": target,
        "settings": settings,
        "warps": compiled.metadata.num_warps,
        "shared_bytes": compiled.metadata.shared,
    }
    if target.startswith("sm"):
        row |= nvidia_resources(compiled.asm["cubin"])
        row["loads"] = nvidia_access_widths(compiled.asm["ptx"], "ld")
        row["stores"] = nvidia_access_widths(compiled.asm["ptx"], "st")
    else:
        row |= amd_resources(compiled.asm["amdgcn"])
        row["loads"] = amd_access_widths(compiled.asm["amdgcn"], "load")
        row["stores"] = amd_access_widths(compiled.asm["amdgcn"], "store")
    return row


def call(name: str, args: list) -> tuple | None:
    from efpn_kernels.triton import KERNELS

    (launcher,) = (k for k in KERNELS if k.__name__ == name)
    return launcher(*args)


def compiled_rows(target: str) -> Iterator[dict]:
    """One row for each different kernel that the real shapes launch."""
    seen = set()
    for N, C in SIZES:
        for dtype, channels_last in FORMATS:
            for case in real_cases(N, C):
                maker = MetaMaker(dtype, channels_last)
                args = case.build(maker)
                with Recorder(TARGETS[target]) as recorder:
                    call(case.kernel, args)
                for kernel, options, compiled in recorder.launches:
                    if compiled.hash in seen:
                        continue
                    seen.add(compiled.hash)
                    row = describe(kernel, options, compiled, target)
                    row["operator"], row["case"] = case.kernel, case.id
                    row["dtype"] = str(dtype).removeprefix("torch.")
                    row["layout"] = "channels_last" if channels_last else "contiguous"
                    yield row


def widths_text(widths: dict[str, int]) -> str:
    return " ".join(f"{count}x{width}" for width, count in widths.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET: expected it unset, the interpreter compiles nothing; got 1")
    rows = []
    for target in options.targets.split(","):
        for row in compiled_rows(target):
            rows.append(row)
            print(
                f"{row['target']:7} {row['kernel']:28} {row['dtype']:8} {row['layout']:13} "
                f"{row['registers']:4} registers {row['spill_bytes']:4} B spilled "
                f"{row['shared_bytes']:6} B shared  loads {widths_text(row['loads'])}"
                f"  stores {widths_text(row['stores'])}",
                flush=True,
            )
    report = {"triton": triton.__version__, "kernels": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
