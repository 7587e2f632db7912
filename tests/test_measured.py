"""What ``doctor`` and ``explain`` say of the cost: from a report of this kind of machine, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from efpn_kernels import _libraries, doctor, explain, measured
from efpn_kernels.measured import Call

BLOCK = Call("efpn_bs", "cpu", "float32", (1, 256, 200, 200))


def row(shape: str, direction: str, seconds: float, variant: str = "efpn_kernels") -> dict:
    backend = "cpu" if variant == "efpn_kernels" else None
    operator = "DCLoss" if shape.endswith("elements") else "EFPNBS"
    fixed = {"operator": operator, "dtype": "float32", "cache": "warm", "clock": "wall"}
    return fixed | {
        "shape": shape,
        "direction": direction,
        "variant": variant,
        "ran_on": backend,
        "median_s": seconds,
    }


ROWS = [
    row("A, N=1, P2 200x200, hidden 64", "forward", 0.2),
    row("A, N=1, P2 200x200, hidden 64", "forward", 0.3),  # the other memory format
    row("A, N=1, P2 200x200, hidden 64", "forward", 0.5, "eager"),
    row("A, N=1, P2 200x200, hidden 64", "forward + backward", 0.7),
    row("B, N=2, P2 200x200, hidden 64", "forward", 0.4),
    row("2 048 elements", "forward", 3e-5),
    row("2 048 elements", "forward", 4e-5, "eager"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cpu, capability = measured.machine("cpu")
    environment = {"device_type": "cpu", "cpu": cpu, "cpu_capability": capability, "limits": ""}
    write(tmp_path, "this", environment, ROWS)
    other = [one | {"median_s": 9.0} for one in ROWS]
    write(tmp_path, "another", environment | {"cpu": "another processor"}, other)
    write(tmp_path, "limited", environment | {"limits": "ONEDNN_MAX_CPU_ISA=AVX2"}, other)
    return tmp_path


def write(root: Path, name: str, environment: dict, rows: list[dict]) -> None:
    folder = root / "benchmarks" / "results" / name
    folder.mkdir(parents=True)
    environment = environment | {"threads": 2, "date": "2026-01-02 03:04 UTC"}
    (folder / "report.json").write_text(json.dumps({"environment": environment, "rows": rows}))


def test_the_report_of_this_machine(root: Path) -> None:
    assert measured.cost(BLOCK, "cpu", root) == (
        "A, N=1, P2 200x200, hidden 64: forward 200 ms (plain PyTorch 500 ms), "
        "forward + backward 700 ms; 2 threads, 2026-01-02"
    )
    loss = Call("dc_loss", "cpu", "float32", (512, 4))
    text = measured.cost(loss, "cpu", root)
    assert text.startswith("2 048 elements: forward 30 us (plain PyTorch 40 us);")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 256, 199, 202), "A"),
        ((2, 64, 200, 200), "B"),
        ((4, 256, 200, 200), "B"),
        ((5, 256, 200, 200), None),  # too far from what was measured
        ((1, 256, 8, 8), None),
        ((0, 256, 200, 200), None),
    ],
)
def test_the_nearest_size(root: Path, shape: tuple[int, ...], expected: str | None) -> None:
    text = measured.cost(Call("efpn_bs", "cpu", "float32", shape), "cpu", root)
    assert (text and text[0]) == expected


def test_nothing_where_nothing_fits(root: Path, tmp_path: Path) -> None:
    assert measured.cost(BLOCK, "reference", root) is None
    assert measured.cost(Call("efpn_bs", "cpu", "float64", BLOCK.shape), "cpu", root) is None
    assert measured.cost(Call("efpn_bs", "meta", "float32", BLOCK.shape), "cpu", root) is None
    assert measured.cost(BLOCK, "cpu", tmp_path / "no clone") is None
    (root / "benchmarks/results/this/report.json").write_text("{ not json")
    measured._read.cache_clear()
    assert measured.cost(BLOCK, "cpu", root) is None


def test_explain_and_doctor_say_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libraries, "source_tree", lambda: root)
    answer = explain(torch.empty(1, 256, 200, 200))
    assert answer.backend == "cpu"
    assert answer.cost.startswith("A, N=1")
    assert f"measured on this kind of machine: {answer.cost}" in str(answer)
    assert explain(torch.empty(1, 256, 8, 8)).cost is None
    report = doctor.report()
    assert "Measured on this kind of machine\n  cpu        EFPNBS, A, N=1" in report
    assert "DCLoss, 2 048 elements" in report


def test_the_names_are_those_of_the_reports() -> None:
    """The committed reports are read as they stand."""
    for path in (Path(__file__).resolve().parents[1] / "benchmarks/results").glob("*/report.json"):
        data = json.loads(path.read_text())
        assert {one["operator"] for one in data["rows"]} <= set(measured.OPERATORS.values())
        assert all(measured._size(one["shape"]) > 1 for one in data["rows"])
        assert {measured.FORWARD, measured.TRAINING} <= {one["direction"] for one in data["rows"]}
