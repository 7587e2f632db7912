"""A run that loses its device or its process goes on in another one, without the culprit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import resume
from benchmarks.records import AUTOGRAD, OURS, TRAINING
from benchmarks.report import read_json

ROOT = Path(__file__).resolve().parents[2]

# A plugin: "autograd alone" at 2 048 elements takes the device, or the process, with it.
PLANTED = """
import os, signal
import torch
from benchmarks import harness
from benchmarks.step import Step

lost = []
call = Step.__call__

def planted(self, split):
    if type(self.module).__name__ == "AutogradAlone":
        if os.environ["PLANTED"] == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        lost.append(True)
    if lost:  # it and all that come after it
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return call(self, split)

Step.__call__ = planted
harness.poisoned = lambda device: bool(lost)
"""


def run(folder: Path, planted: str, *options: str) -> int:
    """The exit code of a smoke run of DCLoss."""
    (folder / "planted.py").write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_dc_loss.py", "-q", "--backend"]
    command += ["reference", "--size", "smoke", "--output", str(folder), "-p", "no:cacheprovider"]
    if planted:
        command += ["-p", "planted"]
    environment = os.environ | {"PLANTED": planted, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout[-2000:]
    return done.returncode


@pytest.mark.parametrize(("planted", "code"), [("fault", resume.LOST), ("crash", -11)])
def test_the_rest_is_measured_in_a_fresh_process(tmp_path: Path, planted: str, code: int) -> None:
    pytest.importorskip("pytest_benchmark")
    assert run(tmp_path, planted, "--continue") == code
    environment, first, _ = read_json(tmp_path)
    assert first, "what was measured before the fault is on disk"
    assert not [row for row in first if row.variant == AUTOGRAD]

    assert run(tmp_path, planted, "--continue") == 0
    _, rows, omissions = read_json(tmp_path)
    assert [(one.variant, one.direction) for one in omissions] == [(AUTOGRAD, TRAINING)]
    assert ("illegal memory access" if planted == "fault" else "died") in omissions[0].reason
    kept = {(row.group, row.variant, row.memory_format): row for row in rows}
    for row in first:
        assert kept[row.group, row.variant, row.memory_format] == row, "not measured twice"
    # All others of the culprit's group, and the groups after it.
    assert [row for row in rows if row.group == omissions[0].group and row.variant == OURS]
    assert len({row.group for row in rows}) > len({row.group for row in first})
    assert not (tmp_path / "running.json").exists()

    if planted == "crash":
        return
    # On another device nothing is mixed.
    data = json.loads((tmp_path / "report.json").read_text())
    data["environment"] = environment | {"device": "another one"}
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert run(tmp_path, "", "--continue") not in (0, resume.LOST)


def test_only_the_cases_asked_for_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    assert run(tmp_path, "", "--case", "2 048", "--case", "forward |") == 0
    found = {row.group for row in read_json(tmp_path)[1]}
    assert {(key.shape, key.direction) for key in found} == {("2 048 elements", "forward")}
    (tmp_path / "report.json").unlink()
    assert run(tmp_path, "", "--case", "no such case") == 0
    assert not (tmp_path / "report.json").exists()


def test_a_device_that_answers_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert not resume.poisoned("cpu")

    def refuse(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.tensor(1.0))
    assert not resume.poisoned("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert resume.poisoned("cuda")
