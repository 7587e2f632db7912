"""Runner hooks: logging, distributed training, reproducibility and the schedule's check."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine import hooks as mmengine_hooks
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .loss import dc_losses
from .neck import GateProbe, gated_necks


def _bare_model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


# Names of AITODMetric, where mmengine knows only "mAP" and its like.
_LARGER_IS_BETTER = ["/AP", "_AP", "/AR"]
_SMALLER_IS_BETTER = ["oLRP"]


@HOOKS.register_module()
class CheckpointHook(mmengine_hooks.CheckpointHook):
    """mmengine's, with the direction of AITODMetric's values known to ``save_best``."""

    _default_greater_keys = mmengine_hooks.CheckpointHook._default_greater_keys + _LARGER_IS_BETTER
    _default_less_keys = mmengine_hooks.CheckpointHook._default_less_keys + _SMALLER_IS_BETTER


@HOOKS.register_module()
class EarlyStoppingHook(mmengine_hooks.EarlyStoppingHook):
    """mmengine's, with the direction of AITODMetric's values known to ``monitor``."""

    _default_greater_keys = (
        mmengine_hooks.EarlyStoppingHook._default_greater_keys + _LARGER_IS_BETTER
    )
    _default_less_keys = mmengine_hooks.EarlyStoppingHook._default_less_keys + _SMALLER_IS_BETTER


@HOOKS.register_module()
class LogEFPNHook(Hook):
    """Logs ``k`` and ``delta`` of every DCLoss and the mean of every gate M.

    The keys are the head's name with ``.k`` or ``.delta`` (``rpn_head.k``), and the neck's with
    ``.gate``. The gate is computed in the logged iterations only.

    Args:
        interval: iterations between two logs.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._probes: dict[str, GateProbe] = {}
        self._attached = ExitStack()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Attach the probes where this iteration is logged."""
        if self.every_n_train_iters(runner, self.interval):
            self._probes = {
                name: self._attached.enter_context(GateProbe(neck))
                for name, neck in gated_necks(_bare_model(runner)).items()
            }

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Log, before the logger hook prints."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        self._attached.close()
        # mmengine averages keys that contain "loss" over a window; these are states, not losses.
        for name, loss in dc_losses(_bare_model(runner)).items():
            head = name.rpartition(".loss")[0] or name
            runner.message_hub.update_scalar(f"train/{head}.k", loss.k.item())
            runner.message_hub.update_scalar(f"train/{head}.delta", loss.delta.item())
        for name, probe in self._probes.items():
            runner.message_hub.update_scalar(f"train/{name}.gate", probe.mask().mean().item())
        self._probes.clear()  # they hold feature maps


@HOOKS.register_module()
class UseDCLossHook(Hook):
    """Keeps ``k`` and ``delta`` in every training step's graph, so that DDP waits for nothing.

    mmdet's RoI heads do not call their regression loss on a batch without positive samples. Its
    parameters would then have no gradient on that rank, and ``DistributedDataParallel`` would stop
    with an error or hang. This hook adds ``0 * (k + delta)`` to the losses, which costs nothing
    compared with ``find_unused_parameters=True``.
    """

    def __init__(self) -> None:
        self._watching = ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Watch the detector's outputs."""
        model = _bare_model(runner)
        parameters = [
            parameter
            for loss in dc_losses(model).values()
            for parameter in loss.parameters()
            if parameter.requires_grad
        ]
        if parameters:
            handle = model.register_forward_hook(partial(_add_zero, parameters))
            self._watching.callback(handle.remove)

    def after_train(self, runner: Runner) -> None:
        """Stop watching."""
        self._watching.close()


def _add_zero(parameters: list[Tensor], model: nn.Module, inputs: tuple, outputs: object) -> object:
    """Forward hook of a detector; in the mode "loss" its outputs are a dict of losses."""
    if not (model.training and isinstance(outputs, dict)):
        return outputs
    zero = 0 * torch.stack(parameters).sum()
    name = next(name for name in outputs if "loss" in name)
    loss = outputs[name]
    added = loss + zero if isinstance(loss, Tensor) else [loss[0] + zero, *loss[1:]]
    return {**outputs, name: added}


@HOOKS.register_module()
class ReproducibleEpochsHook(Hook):
    """Seeds every epoch from the run's seed, the epoch and the rank.

    A resumed run then draws the same augmentations and samples as the uninterrupted one, without
    random states in the checkpoint. The data loader must start its workers anew in each epoch.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data loader."""
        if runner.train_dataloader.persistent_workers:
            raise ValueError(
                "train_dataloader.persistent_workers: expected False with ReproducibleEpochsHook, "
                "whose workers are seeded in every epoch, got True"
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process, and the workers that it is about to start."""
        state = np.random.SeedSequence([runner.seed, runner.epoch, get_rank()]).generate_state(1)
        seed = int(state[0]) // 2  # leaves room for the workers' numbers below 2**32
        set_random_seed(seed)
        loader = runner.train_dataloader
        loader.worker_init_fn = partial(
            worker_init_fn, num_workers=loader.num_workers, rank=0, seed=seed
        )


@HOOKS.register_module()
class CheckScheduleHook(Hook):
    """Warns when the learning rate does not fit the total batch by the linear rule.

    At another ratio the AP moves by points, or the loss becomes NaN.

    Args:
        lr: learning rate of the schedule.
        batch_size: images per step, over all processes, that ``lr`` is meant for.
    """

    def __init__(self, lr: float = 0.005, batch_size: int = 2) -> None:
        self.lr = lr
        self.batch_size = batch_size

    def before_train(self, runner: Runner) -> None:
        """Compare."""
        # Groups with a multiplier of their own are slower; a warm-up has already begun.
        groups = runner.optim_wrapper.optimizer.param_groups
        lr = max(group.get("initial_lr", group["lr"]) for group in groups)
        total = _total_batch(runner)
        expected = self.lr * total / self.batch_size
        if abs(lr - expected) > 0.01 * expected:
            runner.logger.warning(
                "learning rate %g at a total batch of %d: the schedule means %g at %d, which is %g "
                "here by the linear rule. Set optim_wrapper.optimizer.lr=%g, or "
                "auto_scale_lr.enable=True",
                *(lr, total, self.lr, self.batch_size, expected, expected),
            )


def _total_batch(runner: Runner) -> int:
    """Images per optimiser step, over all processes and accumulated iterations."""
    loader: DataLoader = runner.train_dataloader
    # A loader that was built with a batch sampler of its own has no batch_size.
    per_process = loader.batch_size or loader.batch_sampler.batch_size
    return per_process * get_world_size() * runner.optim_wrapper._accumulative_counts
