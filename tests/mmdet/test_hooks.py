"""Hooks: what is logged, what stays in the graph, what is warned of."""

from __future__ import annotations

import logging
import random
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from small_detectors import batch, build, loss_of, one_thread, small_config  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader

from efpn_mmdet import hooks
from efpn_mmdet.hooks import (
    CheckScheduleHook,
    LogEFPNHook,
    ReproducibleEpochsHook,
    UseDCLossHook,
)
from efpn_mmdet.neck import GateProbe

FULL = "faster_rcnn/efpn_bs_aitod.py"


def runner_of(model: nn.Module, **attributes) -> SimpleNamespace:
    hub = MessageHub(f"test_hooks_{id(model)}")
    return SimpleNamespace(model=model, iter=0, message_hub=hub, **attributes)


def test_logs_k_delta_and_the_gate_in_the_interval() -> None:
    detector = build(small_config(FULL).model)
    hook, runner = LogEFPNHook(interval=2), runner_of(detector)
    for runner.iter in range(4):
        hook.before_train_iter(runner, runner.iter)
        loss_of(detector, batch())
        hook.after_train_iter(runner, runner.iter)
        assert not detector.neck.block._forward_hooks
    logged = {key: buffer.data[0] for key, buffer in runner.message_hub.log_scalars.items()}
    heads = ("train/rpn_head", "train/roi_head.bbox_head")
    keys = {f"{head}.{name}" for head in heads for name in ("k", "delta")}
    assert set(logged) == keys | {"train/neck.gate"}
    assert all(len(values) == 2 for values in logged.values())
    assert logged["train/rpn_head.k"][-1] == 10.0

    with GateProbe(detector.neck) as probe:
        loss_of(detector, batch())
    assert logged["train/neck.gate"][-1] == pytest.approx(probe.mask().mean().item(), rel=1e-5)


def test_a_batch_without_positives_trains_every_loss_parameter() -> None:
    detector = build(small_config(FULL).model)
    head = detector.roi_head.bbox_head.loss_bbox
    data = batch(boxes=0)
    loss_of(detector, data)[0].backward()
    assert head.k.grad is None  # mmdet did not call the loss: DDP would wait for this one

    hook, runner = UseDCLossHook(), runner_of(detector)
    hook.before_train(runner)
    with_hook, _ = loss_of(detector, data)
    with_hook.backward()
    assert head.k.grad == 0
    assert head.delta.grad == 0
    hook.after_train(runner)
    without, _ = loss_of(detector, data)
    assert torch.equal(with_hook, without)


def test_fixed_parameters_need_no_graph() -> None:
    detector = build(small_config("delta_sweep/delta_010_aitod.py").model)
    hook, runner = UseDCLossHook(), runner_of(detector)
    hook.before_train(runner)
    assert not detector._forward_hooks
    hook.after_train(runner)


def schedule_runner(lr: float, batch_size: int, accumulated: int = 1) -> SimpleNamespace:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return runner_of(
        model,
        logger=logging.getLogger("test_hooks"),
        train_dataloader=DataLoader(range(8), batch_size=batch_size),
        optim_wrapper=OptimWrapper(optimizer, accumulative_counts=accumulated),
    )


@pytest.mark.parametrize(
    ("lr", "batch_size", "accumulated", "warned"),
    [
        (0.005, 2, 1, False),
        (0.02, 8, 1, False),
        (0.01, 2, 2, False),
        (0.005, 1, 1, True),
        (0.02, 2, 1, True),
    ],
)
def test_schedule(
    caplog: pytest.LogCaptureFixture, lr: float, batch_size: int, accumulated: int, warned: bool
) -> None:
    CheckScheduleHook().before_train(schedule_runner(lr, batch_size, accumulated))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    if warned:
        assert f"learning rate {lr:g} at a total batch of {batch_size}" in caplog.text


@pytest.mark.parametrize(
    ("lr", "batch_size", "processes", "warned"),
    [(0.02, 2, 4, False), (0.005, 1, 2, False), (0.005, 2, 4, True), (0.02, 2, 8, True)],
)
def test_schedule_counts_processes(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    lr: float,
    batch_size: int,
    processes: int,
    warned: bool,
) -> None:
    monkeypatch.setattr(hooks, "get_world_size", lambda: processes)
    CheckScheduleHook().before_train(schedule_runner(lr, batch_size))
    assert len(caplog.records) == warned
    if warned:
        total = batch_size * processes
        assert f"at a total batch of {total}: " in caplog.text
        assert f"optim_wrapper.optimizer.lr={0.005 * total / 2:g}" in caplog.text


def test_schedule_is_that_of_the_config(caplog: pytest.LogCaptureFixture) -> None:
    """Its own rate and batch, not the paper's; and the fastest group counts."""
    CheckScheduleHook(lr=0.02, batch_size=16).before_train(schedule_runner(0.01, 8))
    runner = schedule_runner(0.005, 2)
    slow = {"params": [nn.Parameter(torch.ones(()))], "lr": 0.0005}
    runner.optim_wrapper.optimizer.add_param_group(slow)
    CheckScheduleHook().before_train(runner)
    assert not caplog.records


def test_schedule_sees_through_warm_up_and_batch_samplers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = schedule_runner(0.005, 2)
    group = runner.optim_wrapper.optimizer.param_groups[0]
    group.update(initial_lr=0.005, lr=0.005 * 0.001)
    batches = torch.utils.data.BatchSampler(range(8), batch_size=2, drop_last=False)
    runner.train_dataloader = DataLoader(range(8), batch_sampler=batches)
    CheckScheduleHook().before_train(runner)
    assert not caplog.records


def test_epochs_draw_by_number() -> None:
    hook = ReproducibleEpochsHook()
    loader = DataLoader(range(8), num_workers=2)
    runner = runner_of(nn.Linear(1, 1), seed=3, epoch=0, train_dataloader=loader)

    def draw(epoch: int) -> tuple[float, int]:
        runner.epoch = epoch
        hook.before_train_epoch(runner)
        return torch.rand(()).item(), loader.worker_init_fn.keywords["seed"]

    first, second = draw(0), draw(1)
    assert first != second
    assert first[1] != second[1]
    assert draw(0) == first


def test_every_rank_and_worker_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same again in a second run; another seed of the run draws something else."""
    hook, drawn = ReproducibleEpochsHook(), {}
    for run_seed, epoch, rank in product((3, 4), (0, 1), (0, 1, 2)):
        loader = DataLoader(range(8), num_workers=2)
        runner = runner_of(nn.Linear(1, 1), seed=run_seed, epoch=epoch, train_dataloader=loader)
        monkeypatch.setattr(hooks, "get_rank", lambda rank=rank: rank)
        values = []
        for _ in range(2):
            hook.before_train_epoch(runner)
            seen = [torch.rand(()).item()]
            for worker in range(2):
                loader.worker_init_fn(worker)
                seen.append((torch.initial_seed(), np.random.rand(), random.random()))
            values.append(seen)
        assert values[0] == values[1]
        drawn[run_seed, epoch, rank] = values[0]
    everything = [value for values in drawn.values() for value in values]
    assert len(set(everything)) == len(everything) == 2 * 2 * 3 * 3


def test_workers_that_stay_are_refused() -> None:
    loader = DataLoader(range(8), num_workers=1, persistent_workers=True)
    runner = runner_of(nn.Linear(1, 1), train_dataloader=loader)
    with pytest.raises(ValueError, match=r"persistent_workers: expected False"):
        ReproducibleEpochsHook().before_train(runner)
