"""The optimiser's settings for DCLoss: no weight decay on ``k`` and ``delta``."""

from __future__ import annotations

from typing import Any

from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from .loss import dc_losses


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DCLossOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's, which also spares ``k`` and ``delta`` of every DCLoss the weight decay.

    Decay would pull both to zero whatever the errors are. They are found in the model, so it does not matter
    what the head calls its loss. Of ``paramwise_cfg`` everything else holds for them as for other parameters.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The optimiser of ``model``, or of the model in its wrapper."""
        keys = self.paramwise_cfg.get("custom_keys", {})
        spared = {
            name: {**_custom(name, keys), "decay_mult": 0.0}
            for loss_name, loss in dc_losses(getattr(model, "module", model)).items()
            for name in (f"{loss_name}.{one}" for one, _ in loss.named_parameters())
        }
        if spared:
            self.paramwise_cfg = {**self.paramwise_cfg, "custom_keys": {**keys, **spared}}
        return super().__call__(model)


def _custom(name: str, keys: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What ``custom_keys`` say of a parameter: mmengine takes the longest key that is in the name."""
    matching = sorted((key for key in keys if key in name), key=lambda key: (-len(key), key))
    return keys[matching[0]] if matching else {}
