"""Training with mmengine's Runner: resume, safe checkpoints, two processes."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.registry")

import mmengine.runner.checkpoint
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, load_checkpoint
from small_detectors import (
    batch,
    build,
    loss_of,
    one_thread,  # noqa: F401
    predict,
    small_config,
    write_data_set,
)
from torch import Tensor, nn

import efpn_kernels
from efpn_mmdet.classes import AITOD
from efpn_mmdet.hooks import UseDCLossHook

FULL = "faster_rcnn/efpn_bs_aitod.py"


@HOOKS.register_module()
class StopAfterTwo(Hook):
    """Ends a training in the middle, after its second checkpoint."""

    priority = "VERY_LOW"

    def after_train_epoch(self, runner: Runner) -> None:
        runner.train_loop.stop_training = runner.epoch == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), AITOD)


def training(data: Path, work_dir: Path, epochs: int, **changes) -> Config:
    config = small_config(FULL, data=data)
    config.work_dir = str(work_dir)
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.param_scheduler[0].end = 5
    config.optim_wrapper.optimizer.lr = 0.01
    config.randomness = dict(seed=1)
    config.merge_from_dict(changes)
    return config


def run(config: Config) -> dict[str, Tensor]:
    return copy.deepcopy(Runner.from_cfg(config).train().state_dict())


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_equals_uninterrupted(data: Path, tmp_path: Path, workers: int) -> None:
    """Bit for bit, through a file that is loaded with weights_only."""
    changes = {"train_dataloader.num_workers": workers}
    whole = run(training(data, tmp_path / "whole", 3, **changes))
    stopped = training(data, tmp_path / "parts", 3, **changes)
    stopped.custom_hooks.append(dict(type="StopAfterTwo"))
    first = run(stopped)
    assert (tmp_path / "parts" / "last_checkpoint").read_text().endswith("epoch_2.pth")
    resumed = run(training(data, tmp_path / "parts", 3, resume=True, **changes))
    assert not all(torch.equal(first[name], whole[name]) for name in whole)
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_checkpoints_pass_between_reference_and_fused(data: Path, tmp_path: Path) -> None:
    with efpn_kernels.use_backend("reference"):
        run(training(data, tmp_path, 1))
    model = small_config(FULL).model
    fused, reference = build(model), build(model, seed=1)
    path = str(tmp_path / "epoch_1.pth")
    load_checkpoint(fused, path, strict=True)
    torch.save(fused.state_dict(), tmp_path / "back.pth")
    load_checkpoint(reference, str(tmp_path / "back.pth"), strict=True)
    with efpn_kernels.use_backend("reference"):
        expected = predict(reference, batch())
    for one, other in zip(predict(fused, batch()), expected, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


class ThroughGetattr:
    """Reaches for the interpreter with the ``getattr`` that HistoryBuffer needs."""

    def __reduce__(self) -> tuple:
        return getattr, (getattr, "__self__")


@pytest.mark.skipif(
    hasattr(mmengine.runner.checkpoint, "_safe_torch_load"),
    reason="onedl-mmengine loads anything that PyTorch refuses",
)
def test_somebody_elses_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "malicious.pth"
    for payload in (Malicious(f"touch {marker}"), ThroughGetattr()):
        torch.save({"state_dict": {}, "message_hub": payload}, path)
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            load_checkpoint(nn.Linear(1, 1), str(path))
    assert not marker.exists()


def images_of_rank(rank: int, boxes: int) -> dict:
    return batch(images=1, boxes=boxes, seed=rank)


def ddp_process(rank: int, folder: Path, boxes: tuple[int, int], model: Config) -> None:
    """One step of one of two processes; the first saves the weights."""
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    detector = build(model, seed=rank)  # DDP copies the weights of rank 0
    wrapped = MMDistributedDataParallel(detector, broadcast_buffers=False)
    UseDCLossHook().before_train(type("Runner", (), {"model": wrapped}))
    wrapper = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.01))
    wrapped.train()
    for step in range(2):
        torch.manual_seed(step)
        wrapped.train_step(images_of_rank(rank, boxes[rank]), wrapper)
    if rank == 0:
        torch.save(detector.state_dict(), folder / "weights.pth")
    dist.destroy_process_group()


def statistics(name: str) -> bool:
    """Batch normalisation counts its own process's images."""
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("boxes", [(3, 3), (3, 0)], ids=["all_positive", "one_without"])
def test_two_processes_equal_one(tmp_path: Path, boxes: tuple[int, int]) -> None:
    """Mean of the gradients of two images, with DDP and one after the other."""
    model = small_config("cascade_rcnn/efpn_bs_aitod.py").model
    mp.start_processes(ddp_process, (tmp_path, boxes, model), nprocs=2, start_method="fork")
    distributed = torch.load(tmp_path / "weights.pth")

    detector = build(model, seed=0)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        for rank in (0, 1):
            total, _ = loss_of(detector, images_of_rank(rank, boxes[rank]), seed=step)
            (total / 2).backward()
        optimizer.step()
    for name, value in detector.state_dict().items():
        if not statistics(name):
            torch.testing.assert_close(value, distributed[name], msg=name)
