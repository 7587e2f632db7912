"""The kernels of ``csrc/cuda`` as operators on CPU tensors, and what they were seen to do."""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from efpn_kernels.ops import cem, efpn_bs
from efpn_kernels.ops.kernels import KERNELS

from . import build

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "emulator"
"""Where the library is built and kept."""


class Emulation:
    """The library, built under ``folder`` where that is out of date."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = build.build(folder)
        self.namespace = torch.library.Library(build.NAMESPACE, "FRAGMENT")
        composed = {
            "cem": cem.SCHEMA,
            "cem_backward": cem.BACKWARD_SCHEMA,
            "efpn_bs": efpn_bs.SCHEMA,
            "efpn_bs_backward": efpn_bs.BACKWARD_SCHEMA,
        }
        for name, schema in (KERNELS | composed).items():
            self.namespace.define(name + schema)
        torch.ops.load_library(str(self.path))
        self.library = ctypes.CDLL(str(self.path))
        self.library.efpn_emulate_problem.restype = ctypes.c_char_p
        self.library.efpn_emulate_counts.restype = ctypes.c_char_p

    def kernel(self, name: str) -> Callable:
        """The overload of an operator."""
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"{build.NAMESPACE}::{name}", "CPU")
        return getattr(getattr(torch.ops, build.NAMESPACE), name).default

    @contextmanager
    def device(self, index: int, binary: int, ptx: int) -> Iterator[None]:
        """Kernels run on GPU ``index``; their code is for ``binary`` (80: capability 8.0), from ``ptx``."""
        self.library.efpn_emulate_device(index, binary, ptx)
        try:
            yield
        finally:
            self.library.efpn_emulate_device(0, 80, 80)

    @contextmanager
    def ends(self) -> Iterator[None]:
        """Only the blocks at the ends of a grid run, and nothing is poisoned: for tensors beyond memory."""
        self.library.efpn_emulate_ends(1)
        try:
            yield
        finally:
            self.library.efpn_emulate_ends(0)

    def questions(self) -> int:
        """How often the attributes of a kernel have been asked for so far."""
        return self.library.efpn_emulate_questions()

    def problem(self) -> str:
        """The first race, wrong access or overflow since the last call, or nothing."""
        said = self.library.efpn_emulate_problem().decode()
        if not said:
            return ""
        what, size, code, kernel = said.split(",")
        lines = " <- ".join(self.place(int(code, 16)))
        return f"{self.function(int(kernel, 16))}: {what} ({size} bytes) at {lines}"

    def broken(self, fault: int) -> str:
        """The problem that is found in a kernel of ``broken.cu``."""
        self.library.efpn_emulate_broken(fault)
        return self.problem()

    @contextmanager
    def counting(self) -> Iterator[list[dict]]:
        """Fills the list with a record for each launch: see ``Counts`` in count.cpp."""
        launches: list[dict] = []
        self.library.efpn_emulate_count(1)
        try:
            yield launches
            launches += json.loads(self.library.efpn_emulate_counts())
        finally:
            self.library.efpn_emulate_count(0)
        for launch in launches:
            launch["kernel"] = self.function(launch["kernel"])

    @functools.cache  # noqa: B019 - one emulation lives as long as its process
    def symbols(self, *options: str) -> tuple[str, ...]:
        addr2line = shutil.which("addr2line")
        if addr2line is None:
            return options[-1:]
        command = [addr2line, "-e", str(self.path), *options]
        return tuple(subprocess.run(command, capture_output=True, text=True).stdout.splitlines())

    def place(self, code: int) -> list[str]:
        """Source lines of an address, the innermost of inlined calls first."""
        return [line.split("/")[-1].split(" (")[0] for line in self.symbols("-i", hex(code - 1))]

    def function(self, code: int) -> str:
        """The kernel's name with its arguments of templates."""
        name = self.symbols("-Cf", hex(code))[0]
        name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
        return name.replace("efpn::cuda::", "").split("(")[0]


@functools.cache
def emulation() -> Emulation:
    """The one of this process: a namespace of the dispatcher is defined once."""
    return Emulation(FOLDER)
