"""Anchors of the size of a feature's effective receptive field (RFLA)."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.registry import TASK_UTILS

# Theoretical receptive fields of ResNet-50-FPN P2..P7, in pixels, by the level's stride.
RESNET50_FPN_RECEPTIVE_FIELDS = {4: 35, 8: 91, 16: 267, 32: 427, 64: 555, 128: 811}


@TASK_UTILS.register_module()
class RFAnchorGenerator(AnchorGenerator):
    """One anchor per ratio and cell, as large as the effective receptive field.

    The anchor's area is ``(fraction * receptive_field)^2``, centred on the cell's corner.

    Args:
        strides: stride of every level.
        fraction: effective over theoretical receptive field.
        receptive_fields: theoretical receptive field of every level in pixels; by default those of
            ResNet-50-FPN at these strides.
        ratios: height over width.
    """

    def __init__(
        self,
        strides: Sequence[int],
        fraction: float = 0.5,
        receptive_fields: Sequence[float] | None = None,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        use_box_type: bool = False,
    ) -> None:
        fields = _default_fields(strides) if receptive_fields is None else receptive_fields
        if len(fields) != len(strides):
            raise ValueError(
                f"receptive_fields: expected one for each of the {len(strides)} strides, "
                f"got {len(fields)}"
            )
        self.fraction = fraction
        self.receptive_fields = tuple(fields)
        super().__init__(
            strides=list(strides),
            ratios=list(ratios),
            scales=[1.0],
            base_sizes=[field * fraction for field in fields],
            use_box_type=use_box_type,
        )


def _default_fields(strides: Sequence[int]) -> list[int]:
    known = RESNET50_FPN_RECEPTIVE_FIELDS
    unknown = [stride for stride in strides if stride not in known]
    if unknown:
        raise ValueError(
            f"receptive_fields: required for strides other than {list(known)}, got strides "
            f"{list(strides)}"
        )
    return [known[stride] for stride in strides]
