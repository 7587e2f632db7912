"""The benchmarks themselves: what a run measures, and where its report goes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a smoke run of DCLoss, in a process of its own."""
    pytest.importorskip("pytest_benchmark")
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_dc_loss.py", "-q", "--backend"]
    command += ["reference", "--size", "smoke", "--output", str(folder), "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_autograd_alone_is_measured_beside_a_small_loss(smoke: Path) -> None:
    from benchmarks.goals import copy_share
    from benchmarks.records import AUTOGRAD, FORWARD, by_group
    from benchmarks.report import read_json, speedup_over

    found = set()
    for key, members in by_group(read_json(smoke)[1]).items():
        for row in members:
            if row.variant == AUTOGRAD:
                found.add((key.shape, key.direction == FORWARD, key.clock == "graph"))
                # It computes nothing: neither slower nor faster than ours, and of no bandwidth.
                assert speedup_over(row, members) is None
                assert copy_share(row, members) is None
    assert found == {("2 048 elements", False, False)}


@pytest.mark.parametrize("size", ["smoke", "quick", "full"])
def test_only_a_full_run_replaces_committed_results(size: str) -> None:
    from benchmarks import session
    from benchmarks.plan import Options

    options = Options(size, "cpu", ("auto",), (), ("contiguous",), "none")
    config = SimpleNamespace(getoption={"--output": None}.__getitem__)
    default = session.output_of(config, options)
    results = ROOT / "benchmarks" / "results"
    assert (results in default.parents) == (size == "full")
    assert (ROOT / "build" in default.parents) == (size != "full")
    config = SimpleNamespace(getoption={"--output": results / "other"}.__getitem__)
    assert session.output_of(config, options) == results / "other"


def test_the_headline_names_a_run_that_is_not_full(smoke: Path) -> None:
    from benchmarks.report import headline, read_json

    environment, *_ = read_json(smoke)
    assert headline(environment).endswith(", smoke run")
    assert headline(environment) in (smoke / "report.md").read_text()
    assert headline(environment | {"size": "full"}).endswith(environment["commit"])


def test_autograd_alone_hands_out_a_gradient_for_each_leaf() -> None:
    import torch

    from benchmarks.baselines import AutogradAlone
    from efpn_kernels.reference import DCLoss

    alone = AutogradAlone(DCLoss())
    pred = torch.zeros(5, requires_grad=True)
    leaves = alone.adapt((pred, torch.zeros(5)))
    assert leaves == (pred,)
    gradients = torch.autograd.grad(alone(*leaves), (pred, *alone.parameters()))
    assert [g.shape for g in gradients] == [(5,), (), ()]


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*/report.json"))


def test_the_readme_has_the_measured_tables() -> None:
    from benchmarks import readme_table

    assert readme_table.main(["--check"]) == 0


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_a_committed_report_is_what_its_data_say(path: Path) -> None:
    from benchmarks.report import redone

    assert path.with_name("report.md").read_text() == redone(path.parent)


def test_a_figure_that_was_changed_by_hand_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from benchmarks import readme_table

    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    monkeypatch.setattr(readme_table, "RESULTS", tmp_path / "benchmarks" / "results")
    for path in (
        readme,
        tmp_path / "benchmarks" / "results" / RESULTS[0].parent.name / "report.md",
    ):
        text = path.read_text()
        start = text.find("<!-- benchmarks -->") + 1
        figure = re.compile(r"\d\.\d\dx").search(text, start)
        path.write_text(text[: figure.start()] + "9.99x" + text[figure.end() :])
        assert readme_table.main(["--check"]) == 1
        assert readme_table.main([]) == 0
        assert path.read_text() == text
        assert readme_table.main(["--check"]) == 0


def test_the_kernels_table_is_what_its_data_say() -> None:
    import json

    from benchmarks.kernels import gpu_kernels

    for path in (ROOT / "benchmarks" / "results").glob("*/kernels.json"):
        expected = gpu_kernels.markdown(json.loads(path.read_text()))
        assert path.with_suffix(".md").read_text() == expected


def test_the_headline_table_is_short_and_shows_losses_too() -> None:
    from benchmarks import readme_table

    lines = [line for line in readme_table.section().splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(readme_table.HEADLINES) <= readme_table.MOST_ROWS
    speed_ups = [float(figure) for line in lines for figure in re.findall(r"(\d+\.\d\d)x", line)]
    assert min(speed_ups) < 1 < max(speed_ups)


def test_the_headline_shows_what_auto_takes() -> None:
    """The first backend of ``auto``, though another one is faster."""
    from benchmarks import readme_table
    from benchmarks.records import FORWARD, OURS, Row

    def row(variant: str, milliseconds: float, ran_on: str | None = None) -> Row:
        group = ("EFPNBS", "shape", "float32", FORWARD, "warm", "events")
        times = (milliseconds / 1e3,) * 4
        return Row(*group, variant, "contiguous", ran_on, ran_on, *times, (), 1, None)

    one = readme_table.Headline("title", "gpu", "EFPNBS", "shape", FORWARD, clock="events")
    rows = [row("eager", 4), row(OURS, 3, "triton"), row(OURS, 5, "cuda")]
    line = readme_table.table_line(one, "GPU", rows, ("cuda", "triton"))
    assert (line["backend"], line["vs eager"]) == ("cuda", "0.80x")
    with pytest.raises(ValueError, match="gpu: expected rows of EFPNBS"):
        readme_table.table_line(one, "GPU", rows[:1], ("cuda", "triton"))
