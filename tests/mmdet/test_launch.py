"""Launchers: what each of them sets, and what a process makes of it without a GPU."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.config import Config

from efpn_mmdet import launch
from efpn_mmdet.launch import set_launcher


@pytest.mark.parametrize(
    ("launcher", "variable"),
    [("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("mpi", "OMPI_COMM_WORLD_RANK")],
)
def test_a_launcher_that_started_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, launcher: str, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RuntimeError, match=f"launcher: .* by {launcher}, but {variable}"):
        set_launcher(Config(), launcher)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the process group was asked for, on a machine without a GPU or variables of a launcher."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **settings: asked.update(settings, backend=backend),
    )
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    return asked


def test_slurms_first_node_is_the_meeting_place(
    monkeypatch: pytest.MonkeyPatch, joined: dict[str, object]
) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout="node7\nnode8\n")
    monkeypatch.setattr(launch.subprocess, "run", lambda command, **_: answer)
    for name, value in (("PROCID", "3"), ("NTASKS", "4"), ("NODELIST", "node[7-8]")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = Config()
    set_launcher(config, "slurm", local_rank=1)
    assert joined == {"backend": "gloo", "rank": 3, "world_size": 4}
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node7", "29500")
    assert os.environ["LOCAL_RANK"] == "1"
    assert config.model_wrapper_cfg.device_ids is None
    assert config.launcher == "slurm"


def test_mpi_wants_to_be_told_the_meeting_place(
    monkeypatch: pytest.MonkeyPatch, joined: dict[str, object]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(
        RuntimeError, match=r"launcher: expected MASTER_ADDR.* mpirun -x MASTER_ADDR"
    ):
        set_launcher(Config(), "mpi")
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "1234")
    set_launcher(Config(), "mpi")
    assert joined == {"backend": "gloo", "rank": 1, "world_size": 2}
    assert os.environ["MASTER_PORT"] == "1234"
