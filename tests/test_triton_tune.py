"""The script that derives launch tables: its candidates, its choice and the table that it prints."""

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


def entries():
    from efpn_kernels.triton.settings import DEFAULT

    return [(kernel, s) for kernel, classes in DEFAULT.items() for s in classes.values()]


def test_candidates_are_around_the_setting() -> None:
    from benchmarks.triton_tune import FIXED, candidates

    for kernel, setting in entries():
        found = candidates(kernel, setting)
        assert found[0] == setting, kernel
        assert len(set(found)) == len(found) > 1, kernel
        for candidate in found:
            for name, value in candidate._asdict().items():
                now = getattr(setting, name)
                assert value in (now, now // 2, 2 * now, 2, 4, 16, 32), f"{kernel}: {name} {value}"
                assert name not in FIXED.get(kernel, ()) or value == now, f"{kernel}: {name}"


def test_every_setting_is_looked_up_by_some_case(tmp_path: Path) -> None:
    """So that the script reaches all of them; nothing is compiled for entries that do not exist."""
    code = """
import triton
from benchmarks import triton_tune as tune
from benchmarks.shapes import AITOD
from benchmarks.triton_report import TARGETS, MetaMaker, OfflineDriver
from efpn_kernels.triton.settings import DEFAULT
triton.runtime.driver.set_active(OfflineDriver(TARGETS["sm_90"]))
found = set()
for format_ in tune.FORMATS:
    for case in tune.cases_of(AITOD):
        if tune.can_run(case, *format_):
            found |= {
                (kernel, name.split("/")[0])
                for kernel, name in tune.entries_of(case, case.build(MetaMaker(*format_)))
            }
assert found == {(k, c) for k, classes in DEFAULT.items() for c in classes}, found
"""
    run("-c", code)


def run(*arguments: object, **environment: str) -> str:
    """The output of a Python process of its own, where Triton compiles unless told otherwise."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    return process.stdout


def test_offline_drops_what_spills(tmp_path: Path) -> None:
    from benchmarks.triton_tune import usable

    file = tmp_path / "tune.json"
    arguments = ("--offline", "sm_90", "--kernels", "fuse_bwd", "--batches", 1, "--json", file)
    run("-m", "benchmarks.triton_tune", *arguments)
    rows = json.loads(file.read_text())["rows"]
    assert {row["kernel"] for row in rows} == {"fuse_bwd"}
    assert len({row["setting"] for row in rows}) == 9
    assert all("registers" in row for row in rows)
    assert usable(rows[0])
    assert not usable({"spills": 8, "result": "bits"})


def test_candidates_keep_the_results(tmp_path: Path) -> None:
    file = tmp_path / "tune.json"
    arguments = ("--kernels", "scatter_pooled", "--json", file)
    run("-m", "benchmarks.triton_tune", *arguments, TRITON_INTERPRET="1")
    rows = json.loads(file.read_text())["rows"]
    assert {row["result"] for row in rows} <= {"bits", "rounding"}


def test_the_fastest_in_all_cases_is_chosen() -> None:
    from benchmarks.triton_tune import best
    from efpn_kernels.triton.settings import Block

    now, fast, wrong, partly = Block(8, 8), Block(16, 8), Block(4, 8), Block(2, 8)
    rows = [
        {"setting": setting, "case": case, "us": us, "result": result}
        for setting, result, times in (
            (now, "bits", {"a": 10.0, "b": 10.0}),
            (fast, "rounding", {"a": 5.0, "b": 12.0}),
            (wrong, "result 0 differs by 1", {"a": 1.0, "b": 1.0}),
            (partly, "bits", {"a": 1.0}),
        )
        for case, us in times.items()
    ]
    assert best(rows) == fast
    assert best([r for r in rows if r["setting"] != fast]) is None


def test_the_table_is_python() -> None:
    from benchmarks.triton_tune import table
    from efpn_kernels.triton import settings

    found = {
        ("context_add", "channels_last/2"): settings.Limits(128, 2048, 4),
        ("context_add", "contiguous/4"): settings.Limits(512, 2048, 2),
        ("dc_loss", "any/4"): settings.Flat(1024, 4, 16384, 1024),
    }
    names = {name: getattr(settings, name) for name in ("Limits", "Block", "Flat", "Patch")}
    names["BY_ARCHITECTURE"] = {}
    exec(table("sm_90", found), names)
    printed = names["BY_ARCHITECTURE"]["sm_90"]
    assert {(k, c): s for k, classes in printed.items() for c, s in classes.items()} == found


def test_a_replaced_setting_is_put_back() -> None:
    import torch

    from efpn_kernels.triton import settings

    x = torch.empty(0)
    before = settings.find("context_add", x, settings.CONTIGUOUS)
    other = before._replace(warps=1)
    with settings.replaced("context_add", f"{settings.CONTIGUOUS}/4", other):
        assert settings.find("context_add", x, settings.CONTIGUOUS) == other
        assert settings.find("context_add", x.double(), settings.CONTIGUOUS) == before
    assert settings.find("context_add", x, settings.CONTIGUOUS) == before
