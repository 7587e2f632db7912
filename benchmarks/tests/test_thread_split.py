"""The imitated threads get the parts that real ones get, and give the same bits."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks.environment import ROOT
from benchmarks.kernels import thread_split
from benchmarks.kernels.thread_split import Loop, Split, largest_alone, loops_table

CPU_LIBRARY = torch._C._dispatch_has_kernel_for_dispatch_key("efpn::low_gate", "CPU")

PROGRAM = """
import torch
from benchmarks.kernels.thread_split import Probe, block_calls
from benchmarks.shapes import NeckShape

probe, shape = Probe(), NeckShape("small", 2, 40, 44, 8, 9, channels=40, hidden=24)
for name in ("contiguous", "channels_last"):
    for direction, call in block_calls(shape, name).items():
        results = []
        for threads in (1, 2, 5, 8, 96):
            imitated = probe.split(lambda: results.append(call()), threads)
            assert len(imitated.loops) >= 8, imitated.loops
            assert all(torch.equal(*two) for two in zip(results[0], results[-1], strict=True))
            if threads > 8:
                continue
            torch.set_num_threads(threads)
            real = probe.split(call, threads, real=True)
            torch.set_num_threads(1)
            for one, other in zip(real.loops, imitated.loops, strict=True):
                assert one.name == other.name
                assert one.items == other.items
                parts = [[part[:2] for part in sorted(loop.parts)] for loop in (one, other)]
                assert parts[0] == parts[1], (threads, one.name, parts)
            print(direction, name, threads, *sorted({loop.name for loop in real.loops}))
"""

TINY = """
from benchmarks.kernels.thread_split import Probe, block_calls
from benchmarks.shapes import NeckShape

probe = Probe()
for gates in (1, 8):
    shape = NeckShape("tiny", 1, 8, 8, 1, 1, channels=8, hidden=8, gate_channels=gates)
    for name in ("contiguous", "channels_last"):
        for direction, call in block_calls(shape, name).items():
            for loop in probe.split(call, 8).loops:
                print(direction, name, loop.name, len(loop.parts))
"""

needs_probe = pytest.mark.skipif(
    not CPU_LIBRARY or sys.platform != "linux", reason="needs the CPU library and LD_PRELOAD"
)


def lines_of(program: str) -> list[str]:
    """What it prints with the probe in front of the library."""
    thread_split.build()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=thread_split.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


@needs_probe
def test_imitated_threads_get_the_parts_of_real_ones() -> None:
    lines = lines_of(PROGRAM)
    assert len(lines) == 2 * 2 * 4
    assert "upsampled_gate" in lines[0]
    assert "upsampled_gate_backward" in lines[-1]


@needs_probe
def test_a_tiny_map_is_not_worth_a_second_thread() -> None:
    lines = lines_of(TINY)
    assert len(lines) > 100
    assert [line for line in lines if not line.endswith(" 1")] == []


def test_a_table_of_known_loops() -> None:
    """On four threads the first loop's three parts take 2, 1 and 1 s, the second's one part 4 s; 2 s are alone."""
    first = Loop("first", 3, ((0, 1, 2.0), (1, 2, 1.0), (2, 3, 1.0)))
    second = Loop("second", 1, ((0, 1, 4.0),))
    split = Split(4, (first, second), (0.5, 1.5, 0.0))
    assert split.one_thread_s == 10
    assert split.speed_up == 10 / (2 + 2 + 4)
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in loops_table([split]).splitlines()
    ]
    assert cells[2] == ["first", "40.00%", "3 items, 50% busy"]
    assert cells[3] == ["second", "40.00%", "1 items, 25% busy"]
    assert cells[4] == ["alone", "20.00%", ""]
    assert cells[5] == ["speed-up", "", "1.2x"]
    assert largest_alone(split, 2) == "before second 15.00%; before first 5.00%"
