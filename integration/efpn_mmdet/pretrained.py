"""Weights of a checkpoint and the model they go into: plain necks, EFPNBSNeck, other models.

An ``EFPNBSNeck`` keeps the weights of its base below ``neck.base``, a plain detector below ``neck``. Each
takes the other's: :func:`take_plain_neck` while a neck loads, :class:`MatchCheckpointHook` for plain necks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

BASE, BLOCK = "base.", "block."


def take_plain_neck(neck: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Load-state pre-hook of an ``EFPNBSNeck``: a plain neck's keys become those of the base.

    Args:
        neck: the neck that loads.
        state: the checkpoint; changed in place if it has weights below ``prefix`` and none of a base.
        prefix: ``"neck."`` in a detector.
    """
    found = [key for key in state if key.startswith(prefix)]
    plain = [key for key in found if not key.startswith((prefix + BASE, prefix + BLOCK))]
    if not plain or any(key.startswith(prefix + BASE) for key in found):
        return
    for key in plain:
        state[prefix + BASE + key.removeprefix(prefix)] = state.pop(key)
    own = neck.state_dict(prefix=prefix)
    _report("EFPNBSNeck.base", own, state, prefix + BASE, "a plain neck's")


def to_plain_neck(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A copy of ``state`` where keys of an ``EFPNBSNeck``'s base have the names of a plain neck.

    Args:
        state: weights by key.
        wanted: keys of the model that they go into; only a key that it lacks is renamed, and only to one
            that it has.
    """
    wanted = set(wanted)
    renamed = {}
    for key, value in state.items():
        plain = key.replace(f".{BASE}", ".", 1)
        renamed[plain if key not in wanted and plain in wanted else key] = value
    return renamed


def _report(
    name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str, whose: str
) -> None:
    own = {key: value for key, value in own.items() if key.startswith(prefix)}
    fitting = sum(_fits(key, value, state) for key, value in own.items())
    print_log(
        f"{name}: takes {fitting} of its {len(own)} tensors from {whose} checkpoint", "current"
    )


def _fits(key: str, value: Tensor, state: Mapping[str, Tensor]) -> bool:
    return key in state and state[key].shape == value.shape


@HOOKS.register_module()
class MatchCheckpointHook(Hook):
    """Compares a checkpoint with the model before it is loaded.

    To resume, it must be the same model's, otherwise ``ValueError`` before anything is trained. With
    ``load_from``, a plain detector takes the neck of a checkpoint with an ``EFPNBSNeck``; the log says how
    many tensors that filled.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check or rename, before mmengine copies the weights into the model."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        saved = checkpoint.get("state_dict", checkpoint)
        state = {key.removeprefix("module."): value for key, value in saved.items()}
        own = model.state_dict()
        if runner._resume:
            _check_same_model(own, state)
            return
        plain = to_plain_neck(state, own)
        renamed = {key: own[key] for key in plain.keys() - state.keys()}
        if renamed:
            _report("neck", renamed, plain, "", "the EFPNBSNeck's base in the")
            saved.clear()
            saved.update(plain)


def _check_same_model(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    wrong = sorted(key for key, value in own.items() if not _fits(key, value, state))
    wrong += sorted(state.keys() - own.keys())
    if wrong:
        raise ValueError(
            f"resume: expected a checkpoint of the config's model; {len(wrong)} tensors are missing, of "
            f"another shape or not the model's, such as {', '.join(wrong[:3])}. Resume from another "
            "checkpoint or with its config; load_from takes the weights that fit"
        )
