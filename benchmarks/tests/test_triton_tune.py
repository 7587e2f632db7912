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

ROOT = Path(__file__).resolve().parents[2]


def entries():
    from efpn_kernels.triton.settings import DEFAULT

    return [(kernel, s) for kernel, classes in DEFAULT.items() for s in classes.values()]


def test_candidates_are_around_the_setting() -> None:
    from benchmarks.kernels.triton_tune import FIXED, candidates

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
from benchmarks.kernels import triton_tune as tune
from benchmarks.shapes import AITOD
from checking.triton_report import TARGETS, MetaMaker, OfflineDriver
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
    paths = os.pathsep.join((str(ROOT), str(ROOT / "csrc")))
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
    from benchmarks.kernels.triton_tune import usable

    file = tmp_path / "tune.json"
    arguments = ("--offline", "sm_90", "--kernels", "fuse_bwd", "--batches", 1, "--json", file)
    run("-m", "benchmarks.kernels.triton_tune", *arguments, "--shapes", "aitod,visdrone")
    rows = json.loads(file.read_text())["rows"]
    assert {row["class"] for row in rows} == {"any/4/2**15", "any/4/2**16"}
    assert {row["kernel"] for row in rows} == {"fuse_bwd"}
    assert len({row["setting"] for row in rows}) == 9
    assert all("registers" in row for row in rows)
    assert usable(rows[0])
    assert not usable({"spills": 8, "result": "bits"})


def test_candidates_keep_the_results(tmp_path: Path) -> None:
    file = tmp_path / "tune.json"
    arguments = ("--kernels", "scatter_pooled", "--json", file)
    run("-m", "benchmarks.kernels.triton_tune", *arguments, TRITON_INTERPRET="1")
    rows = json.loads(file.read_text())["rows"]
    assert {row["result"] for row in rows} <= {"bits", "rounding"}


def test_the_fastest_in_all_cases_is_chosen() -> None:
    from benchmarks.kernels.triton_tune import best
    from efpn_kernels.triton.settings import Block

    now, fast, wrong, partly = Block(8, 8), Block(16, 8), Block(4, 8), Block(2, 8)
    rows = [
        {"class": "any/4/2**9", "setting": setting, "case": case, "us": us, "result": result}
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


def test_a_size_has_a_setting_of_its_own_where_that_gains() -> None:
    from benchmarks.kernels.triton_tune import changes
    from efpn_kernels.triton.settings import Block

    now, common, special = Block(8, 8), Block(16, 8), Block(4, 8)
    times = {
        "any/4/2**9": {now: 10.0, common: 5.0, special: 7.0},
        "any/4/2**10": {now: 10.0, common: 5.0, special: 4.95},
        "any/4/2**11": {now: 10.0, common: 8.0, special: 7.0},
        "any/8/2**9": {now: 10.0, common: 9.9, special: 11.0},
    }
    rows = {
        ("row_sum", name): [
            {"class": name, "setting": setting, "case": "a", "us": us, "result": "bits"}
            for setting, us in by.items()
        ]
        for name, by in times.items()
    }
    assert changes(rows) == {("row_sum", "any/4"): common, ("row_sum", "any/4/2**11"): special}


def test_the_shapes_of_other_data_sets() -> None:
    from benchmarks.kernels.triton_tune import shapes_of
    from benchmarks.shapes import DATA_SETS

    shapes = shapes_of(["visdrone", "dota"], [1, 8], interpreted=False)
    assert [(s.batch, s.height, s.width) for s in shapes] == [
        (1, 200, 336),
        (8, 200, 336),
        (1, 256, 256),
        (8, 256, 256),
    ]
    assert shapes_of([*DATA_SETS], [1], interpreted=True) != shapes_of([*DATA_SETS], [1], False)


def test_the_table_is_python() -> None:
    from benchmarks.kernels.triton_tune import table
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


def test_a_setting_may_depend_on_the_size() -> None:
    import torch

    from efpn_kernels.triton import settings

    def found(elements: int, dtype: torch.dtype = torch.float32) -> settings.Setting:
        x = torch.empty(elements, dtype=dtype)
        return settings.find("context_add", x, settings.CONTIGUOUS)

    before = found(64)
    small, four = before._replace(warps=1), before._replace(warps=2)
    with (
        settings.replaced("context_add", "contiguous/4", four),
        settings.replaced("context_add", "contiguous/4/2**6", small),
    ):
        sizes = {elements: found(elements) for elements in (0, 63, 64, 127, 128)}
        assert sizes == {0: four, 63: four, 64: small, 127: small, 128: four}
        assert found(64, torch.float64) == before
    assert found(64) == before
