"""Every Triton kernel compiled for GPUs that are not here: no spills, 16-byte accesses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

ROOT = Path(__file__).resolve().parents[1]
NVIDIA = ("sm_80", "sm_90", "sm_100")
AMD = ("gfx942",)
THREADS = {"gfx942": 64}
"""Threads of a warp, where they are not 32."""

# Kernels that are bound by memory: how many maps they load and store at least.
MAPS = {
    "context_add_kernel": (1, 1),
    "spatial_sum_kernel": (1, 0),
    "low_gate_fwd_kernel": (1, 0),
    "border_relu_kernel": (1, 1),
    "bias_relu_kernel": (1, 1),
    "border_sum_kernel": (1, 0),
    "gate_apply_kernel": (1, 1),
    "mask_apply_kernel": (1, 1),
    "mask_apply_bwd_kernel": (2, 0),
    "dc_loss_kernel": (2, 0),
}
LIBRARY_PRODUCTS = {"taps", "taps_backward"}
BYTES = {"bfloat16": 2, "float32": 4}


@pytest.fixture(scope="module", params=(*NVIDIA, *AMD))
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """The rows of the report for one target, made in a process where Triton compiles."""
    file = tmp_path_factory.mktemp("aot") / "report.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "csrc")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "checking.triton_report",
            "--targets",
            request.param,
            "--json",
            file,
        ],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    return json.loads(file.read_text())["kernels"]


def label(row: dict) -> str:
    return f"{row['kernel']} {row['dtype']} {row['layout']} {row['settings']} for {row['target']}"


def test_every_operator_compiles(compiled: list[dict]) -> None:
    from efpn_kernels.ops.kernels import KERNELS

    assert {row["operator"] for row in compiled} == set(KERNELS) - LIBRARY_PRODUCTS


def test_nothing_spills(compiled: list[dict]) -> None:
    """Nothing to memory. On AMD no vector register either; scalar ones may go into lanes of these."""
    spills = [row for row in compiled if row["spill_bytes"] or row.get("spilled_vectors")]
    assert not [label(row) for row in spills]


def test_maps_are_read_and_written_16_bytes_at_a_time(compiled: list[dict]) -> None:
    """As many 16-byte accesses as the tile needs; one where a thread has less than that of it."""
    narrow = []
    for row in compiled:
        settings = row["settings"]
        loads, stores = MAPS.get(row["kernel"], (0, 0))
        tile = settings.get("PIXELS", 1) * settings.get("CHANNELS", 1) * settings.get("BLOCK", 1)
        share = tile * BYTES[row["dtype"]] // (THREADS.get(row["target"], 32) * row["warps"])
        width = min(share, 16)
        accesses = share // max(width, 1)
        if row["loads"].get(str(width), 0) < loads * accesses or (
            row["stores"].get(str(width), 0) < stores * accesses
        ):
            narrow.append(f"{label(row)}: loads {row['loads']}, stores {row['stores']}")
    assert not narrow
