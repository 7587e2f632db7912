"""How the CPU's block divides its work over more threads than there may be here, loop by loop.

    python -m benchmarks.kernels.thread_split [--threads 2,8,32] [--format channels_last] [--markdown FILE]

Every parallel loop of a call is caught (``thread_split.cpp``), and the parts that so many threads would get run one
after the other in a single thread, each on its own clock; the fastest of five calls counts. ``items`` are what a
loop can be divided into. ``busy`` is the time of all parts over that of the longest one times the number of threads.
``alone`` is what is in no loop and runs in one thread; it is named by the loop behind it. The speed-up is that of the
longest parts and of what runs alone, with nothing said of memory's bandwidth or of the time that threads take to start.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import toolchain
import torch

from efpn_kernels import EFPNBS, reference, use_backend

from ..environment import ROOT, describe, headline
from ..memory import keep_freed_memory
from ..report import table
from ..shapes import AITOD, NeckShape
from ..workload import as_format, keep_off_the_kinks

THREADS = (2, 8, 16, 32, 64, 96)
SOURCE = Path(__file__).with_suffix(".cpp")
LIBRARY = ROOT / "build" / "thread_split.so"
FUNCTION = re.compile(r"efpn::(?:\(anonymous namespace\)::)?([a-z]\w*)(?:<[^(]*>)?\(")


@dataclass(frozen=True)
class Loop:
    """One call of ``parallel``.

    Args:
        name: the kernel, and the function in it where that is another.
        items: that the loop can be divided into.
        parts: begin, end and seconds of what each thread gets.
    """

    name: str
    items: int
    parts: tuple[tuple[int, int, float], ...]

    @property
    def total_s(self) -> float:
        """Of all its parts."""
        return sum(seconds for *_, seconds in self.parts)

    @property
    def longest_s(self) -> float:
        """The time that it takes with a thread for each part."""
        return max(seconds for *_, seconds in self.parts)


@dataclass(frozen=True)
class Split:
    """A call of the block, divided for a number of threads.

    Args:
        threads: how many.
        loops: in their order.
        alone_s: what runs in one thread in front of each loop, and behind the last.
    """

    threads: int
    loops: tuple[Loop, ...]
    alone_s: tuple[float, ...]

    @property
    def one_thread_s(self) -> float:
        """The work, in one thread."""
        return sum(self.alone_s) + sum(loop.total_s for loop in self.loops)

    @property
    def speed_up(self) -> float:
        """Over one thread, as the split allows it."""
        return self.one_thread_s / (sum(self.alone_s) + sum(loop.longest_s for loop in self.loops))

    def busy(self, loop: Loop) -> float:
        """The share of the threads' time in a loop in which they work."""
        return loop.total_s / (loop.longest_s * self.threads)


class Probe:
    """The library that stands before ``parallel_for``, once it is loaded; ``LD_PRELOAD`` does that."""

    def __init__(self) -> None:
        self.functions = ctypes.CDLL(None)
        if not self.is_loaded():
            raise RuntimeError(f"expected to run with LD_PRELOAD={LIBRARY}")

    @staticmethod
    def is_loaded() -> bool:
        return hasattr(ctypes.CDLL(None), "thread_split_begin")

    def split(self, call: Callable[[], object], threads: int, real: bool = False) -> Split:
        """What ``call`` does with its threads; on the real ones, which have no clocks, or imitated."""
        addresses = [None, None]
        if real:
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            names = ("torch_parallel_for", "torch_get_num_threads")
            addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in names]
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "calls")
            self.functions.thread_split_begin(threads, *addresses)
            call()
            if self.functions.thread_split_end(file.encode()):
                raise OSError(f"{file}: cannot be written")
            total, *lines = Path(file).read_text().splitlines()
        loops: list[Loop] = []
        alone_ns, before = [], 0
        for line in lines:
            header, frames, parts = line.split("|")
            items, _, start, end = map(int, header.split())
            alone_ns.append(start - before)
            before = end
            name = self.symbols.name([int(frame, 16) for frame in frames.split()])
            again = sum(loop.name.split(" (")[0] == name for loop in loops)
            name += f" ({again + 1})" if again else ""
            divided = (map(int, part.split(":")) for part in parts.split())
            loops.append(Loop(name, items, tuple((a, b, ns / 1e9) for a, b, ns in divided)))
        alone_ns.append(int(total) - before)
        return Split(threads, tuple(loops), tuple(ns / 1e9 for ns in alone_ns))

    @cached_property
    def symbols(self) -> Symbols:
        return Symbols()


class Symbols:
    """The functions of the CPU's library by address."""

    def __init__(self) -> None:
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        name = next(fields[-1] for fields in maps if "_cpu" in fields[-1] and ".so" in fields[-1])
        self.base = min(int(f[0].split("-")[0], 16) for f in maps if f[-1] == name)
        done = subprocess.run(["nm", "-C", name], check=True, capture_output=True, text=True)
        found = (line.split(" ", 2) for line in done.stdout.splitlines())
        operators = torch._C._dispatch_get_all_op_names()
        self.kernels = {name[6:].split(".")[0] for name in operators if name.startswith("efpn::")}
        self.functions = sorted((int(f[0], 16), f[2]) for f in found if f[0] and f[1] in "tTwW")

    def name(self, frames: Sequence[int]) -> str:
        """The innermost kernel in a stack, and the innermost function where that is another."""
        names = [name for frame in frames for name in self.functions_at(frame - self.base)]
        kernel = next((name for name in names if name in self.kernels), None)
        if not names:
            return "?"
        return names[0] if kernel in (None, names[0]) else f"{kernel}: {names[0]}"

    def functions_at(self, offset: int) -> list[str]:
        """Those whose names the symbol at an address is made of."""
        before = [symbol for start, symbol in self.functions if start <= offset]
        return FUNCTION.findall(before[-1]) if before and offset >= 0 else []


def block_calls(shape: NeckShape, memory_format: str) -> dict[str, Callable[[], object]]:
    """Forward without gradients, and a training step's backward behind a forward pass that is not seen."""
    torch.manual_seed(0)
    plain = reference.EFPNBS(shape.channels, shape.channels, shape.hidden, shape.gate_channels)
    keep_off_the_kinks(plain.fbsm)
    block = EFPNBS(shape.channels, shape.channels, shape.hidden, shape.gate_channels)
    block.load_state_dict(plain.state_dict())
    low = as_format(torch.randn(shape.low), memory_format).requires_grad_()
    high = as_format(torch.randn(shape.high), memory_format).requires_grad_()
    leaves = (low, high, *block.parameters())
    out = block(low, high)
    gradient = torch.ones_like(out)

    def forward() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return (block(low, high),)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(out, leaves, gradient, retain_graph=True)

    return {"forward": forward, "backward": backward}


def best(probe: Probe, call: Callable[[], object], threads: int, times: int) -> Split:
    """Of several calls: each part of each loop, and what runs alone in front of it, at its fastest."""
    found = [probe.split(call, threads) for _ in range(times)]
    loops = []
    for same in zip(*(split.loops for split in found), strict=True):
        parts = zip(*(loop.parts for loop in same), strict=True)
        fastest = tuple(min(part, key=lambda one: one[2]) for part in parts)
        loops.append(replace(same[0], parts=fastest))
    alone = zip(*(split.alone_s for split in found), strict=True)
    return Split(threads, tuple(loops), tuple(map(min, alone)))


def loops_table(splits: Sequence[Split]) -> str:
    """A line for every loop: its share of one thread's time; items and busy by the number of threads."""
    names = ["loop", "of the time", *(f"{split.threads} threads" for split in splits)]
    first = splits[0]
    cells = []
    for i, loop in enumerate(first.loops):
        divided = (f"{s.loops[i].items} items, {s.busy(s.loops[i]):.0%} busy" for s in splits)
        cells.append([loop.name, f"{loop.total_s / first.one_thread_s:.2%}", *divided])
    alone = f"{sum(first.alone_s) / first.one_thread_s:.2%}"
    cells.append(["alone", alone, *[""] * len(splits)])
    cells.append(["speed-up", "", *(f"{split.speed_up:.1f}x" for split in splits)])
    return table(names, cells)


def largest_alone(split: Split, count: int = 3) -> str:
    """The longest stretches in one thread, with their share of its time."""
    where = [*(f"before {loop.name}" for loop in split.loops), "at the end"]
    longest = sorted(zip(where, split.alone_s, strict=True), key=lambda one: -one[1])[:count]
    return "; ".join(f"{name} {s / split.one_thread_s:.2%}" for name, s in longest)


def build() -> None:
    """Compile the library that stands before ``parallel_for``.

    Raises:
        toolchain.BuildError: without a compiler.
    """
    compiler = toolchain.find_compiler()
    if compiler is None:
        raise toolchain.BuildError("CXX: expected a C++17 compiler (g++ or clang++), found none")
    LIBRARY.parent.mkdir(exist_ok=True)
    own = LIBRARY.with_name(f"thread_split.{os.getpid()}.so")
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall"]
    toolchain.run([*compiler, *flags, str(SOURCE), "-o", str(own)])
    own.replace(LIBRARY)


def environment() -> dict[str, str]:
    """Of a process in which :class:`Probe` works."""
    return os.environ | {"LD_PRELOAD": str(LIBRARY), "EFPN_KERNELS_BACKEND": "cpu"}


def text(probe: Probe, shape: NeckShape, threads: Sequence[int], memory_format: str) -> str:
    """The tables of a shape."""
    parts = [f"{headline(describe('cpu'))}; {shape.block_label}, float32, {memory_format}.\n"]
    for direction, call in block_calls(shape, memory_format).items():
        call()
        splits = [best(probe, call, count, 5) for count in threads]
        parts += [f"## {direction.capitalize()}\n", loops_table(splits)]
        parts.append(f"Alone, the longest first: {largest_alone(splits[0])}.\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default=",".join(map(str, THREADS)))
    parser.add_argument("--format", default="contiguous", choices=("contiguous", "channels_last"))
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    if not Probe.is_loaded():
        build()
        module = ["-m", "benchmarks.kernels.thread_split", *sys.argv[1:]]
        os.execve(sys.executable, [sys.executable, *module], environment())
    torch.set_num_threads(1)
    keep_freed_memory(True)  # or who touches a new page first seems to have the work of all
    with use_backend("cpu"):
        found = text(Probe(), AITOD, [int(n) for n in options.threads.split(",")], options.format)
    print(found)
    if options.markdown:
        title = "# The CPU's block on more threads\n\n"
        title += " ".join(__doc__.split("\n\n")[2].split()) + "\n\n"
        options.markdown.write_text(title + found)


if __name__ == "__main__":
    main()
