"""On every instruction set that can be forced, of ours and of PyTorch's libraries: the same bits for every
number of threads; and other libraries' sets change no bit of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accuracy import DRAWS, all_complaints
from thread_counts import problems
from torch import Tensor

OURS = ("portable", "avx2", "avx512")
LIBRARIES: dict[str, dict[str, str]] = {
    "own_choice": {},
    "lowest": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "MKL_CBWR": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    },
}
"""What a set does that the machine lacks is its library's choice: ours takes the best that there is."""

Results = list[dict[str, dict[str, Tensor]]]
"""By draw, problem and name."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("instruction_sets")


def results(folder: Path, ours: str, libraries: str) -> Results:
    """What a process makes of the problems with these sets; it fails where threads change a bit."""
    file = folder / f"{ours}-{libraries}.pt"
    if not file.exists():
        program = Path(__file__).with_name("thread_counts.py")
        environment = {k: v for k, v in os.environ.items() if k not in LIBRARIES["lowest"]}
        environment |= LIBRARIES[libraries] | {"EFPN_KERNELS_CPU_CAPABILITY": ours}
        run = subprocess.run(
            [sys.executable, program, file], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
    return torch.load(file)


@pytest.fixture(scope="module")
def expected() -> list[dict[str, tuple]]:
    """What eager and float64 make of the problems, by draw and problem."""
    draws = (problems(seed) for seed in range(DRAWS))
    return [{where: (p.eager(), p.oracle()) for where, p in draw} for draw in draws]


@pytest.mark.parametrize("ours", OURS)
def test_threads_and_accuracy(folder: Path, expected: list[dict[str, tuple]], ours: str) -> None:
    draws = results(folder, ours, "own_choice")
    for where in draws[0]:
        pairs = zip(expected, draws, strict=True)
        assert not all_complaints([(*plain[where], of_set[where]) for plain, of_set in pairs]), (
            where
        )


@pytest.mark.parametrize("libraries", LIBRARIES)
def test_the_libraries_change_no_bit(folder: Path, libraries: str) -> None:
    alone, forced = (results(folder, "avx512", which) for which in ("own_choice", libraries))
    for draw, forced_draw in zip(alone, forced, strict=True):
        for where, of_set in forced_draw.items():
            for name, result in of_set.items():
                assert result.equal(draw[where][name]), f"{where}, {name}: other bits"
