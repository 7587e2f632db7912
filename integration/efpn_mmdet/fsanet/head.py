"""FSANet's head: a first box moves the features and the assignment of the second."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import Scale, build_norm_layer
from mmcv.ops import DeformConv2d
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, reduce_mean
from torch import Tensor, nn

from .targets import assign_points, gaussian_centreness

DEFORM_GROUPS = 4


class _Aligned(nn.Module):
    """Deformable 3x3 convolution, normalisation, ReLU."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = DeformConv2d(channels, channels, 3, padding=1, deform_groups=DEFORM_GROUPS)
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return self.norm(self.conv(x, offset)).relu()


@MODELS.register_module()
class FSANetHead(AnchorFreeHead):
    """Boxes as distances in pixels to a point's four sides, found twice.

    The first box is FCOS's. Its four raw values give the offsets of a deformable convolution in both branches, and
    the point is then assigned by the first box's centre. The second box adds to the first, without an exponential:
    a side may be negative where the point lies outside of its box.

    Args:
        num_classes, in_channels: as elsewhere in mmdet.
        strides: of the levels.
        regress_ranges: for each level, between what the largest of a box's distances lies.
        loss_bbox_init: of the first box.
        loss_bbox: of the second, weighted by the centreness.
        loss_centerness: of the centreness.
        norm_cfg: of all convolutions but the last ones.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        strides: Sequence[int] = (8, 16, 32),
        regress_ranges: Sequence[tuple[float, float]] = ((-1, 64), (64, 128), (128, math.inf)),
        stacked_convs: int = 3,
        loss_bbox_init: dict | None = None,
        loss_bbox: dict | None = None,
        loss_centerness: dict | None = None,
        norm_cfg: dict | None = None,
        **settings,
    ) -> None:
        if len(strides) != len(regress_ranges):
            raise ValueError(
                f"regress_ranges: expected one for each of the {len(strides)} strides, got "
                f"{len(regress_ranges)}"
            )
        self.regress_ranges = regress_ranges
        super().__init__(
            num_classes,
            in_channels,
            strides=strides,
            stacked_convs=stacked_convs,
            loss_bbox=loss_bbox or {"type": "IoULoss", "loss_weight": 1.0},
            norm_cfg=norm_cfg or {"type": "GN", "num_groups": 32},
            **settings,
        )
        self.loss_bbox_init = MODELS.build(
            loss_bbox_init or {"type": "IoULoss", "loss_weight": 0.2}
        )
        self.loss_centerness = MODELS.build(
            loss_centerness or {"type": "CrossEntropyLoss", "use_sigmoid": True}
        )

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = self.feat_channels
        self.conv_reg_init = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv_offset = nn.Conv2d(4, 2 * 9 * DEFORM_GROUPS, 1, bias=False)
        self.align_cls = _Aligned(channels, self.norm_cfg)
        self.align_reg = _Aligned(channels, self.norm_cfg)
        self.conv_centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.strides)
        self.scales_init = nn.ModuleList(Scale(1.0) for _ in self.strides)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
        """For each level class scores, second boxes, centreness and first boxes ``[N, ., H, W]``."""
        return multi_apply(self.forward_single, x, self.scales, self.scales_init)

    def forward_single(self, x: Tensor, scale: Scale, scale_init: Scale) -> tuple[Tensor, ...]:
        """One level."""
        cls_feat, reg_feat = x, x
        for layer in self.cls_convs:
            cls_feat = layer(cls_feat)
        for layer in self.reg_convs:
            reg_feat = layer(reg_feat)
        raw = self.conv_reg_init(reg_feat)
        init = scale_init(raw).float().exp()
        offset = self.conv_offset(raw)
        cls_feat = self.align_cls(cls_feat, offset)
        reg_feat = self.align_reg(reg_feat, offset)
        boxes = init + scale(self.conv_reg(reg_feat)).float()
        return self.conv_cls(cls_feat), boxes, self.conv_centerness(cls_feat), init

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        inits: list[Tensor],
        **settings,
    ) -> InstanceList:
        """mmdet's, of the second boxes; a score is that of the class times the centreness."""
        return super().predict_by_feat(cls_scores, bbox_preds, centernesses, **settings)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        inits: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: InstanceList | None = None,
    ) -> dict[str, Tensor]:
        """The four losses; without a box in the batch the last three are zeros with a graph."""
        sizes = [one.shape[-2:] for one in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, inits[0].dtype, inits[0].device)
        points = torch.cat(levels)
        ranges = torch.cat(
            [
                one.new_tensor(limits).expand(len(one), 2)
                for one, limits in zip(levels, self.regress_ranges)
            ]
        )
        scores = _flatten(cls_scores, self.cls_out_channels)
        boxes, first = _flatten(bbox_preds, 4), _flatten(inits, 4)
        centreness = _flatten(centernesses, 1)[..., 0]

        labels, targets, first_found, first_targets = self.get_targets(
            points, ranges, first.detach(), batch_gt_instances
        )
        found = labels < self.num_classes
        count = _mean_count(found.sum())
        loss_cls = self.loss_cls(
            scores.reshape(-1, self.cls_out_channels), labels.flatten(), avg_factor=count
        )
        at = points.expand(len(first), -1, -1)
        weights = gaussian_centreness(targets[found])
        return {
            "loss_cls": loss_cls,
            "loss_bbox_init": self._box_loss(
                *(self.loss_bbox_init, at[first_found], first[first_found]),
                *(first_targets[first_found], None, _mean_count(first_found.sum())),
            ),
            "loss_bbox": self._box_loss(
                *(self.loss_bbox, at[found], boxes[found], targets[found]),
                *(weights, _mean_count(weights.sum(), least=1e-6)),
            ),
            "loss_centerness": self.loss_centerness(centreness[found], weights, avg_factor=count)
            if len(weights) > 0
            else centreness[found].sum(),
        }

    def get_targets(
        self, points: Tensor, ranges: Tensor, first: Tensor, batch_gt_instances: InstanceList
    ) -> tuple[Tensor, ...]:
        """What the points ``[P, 2]`` of each image are to find, given the first boxes ``[N, P, 4]``.

        Returns:
            Labels ``[N, P]``, ``num_classes`` for the background, and distances ``[N, P, 4]`` of the second boxes;
            which points have a first box ``[N, P]``, and its distances ``[N, P, 4]``.
        """
        images = []
        for truth, one in zip(batch_gt_instances, first):
            first_index, first_sides = assign_points(points, points, ranges, truth.bboxes)
            centres = points + (one[:, 2:] - one[:, :2]) / 2
            index, sides = assign_points(points, centres, ranges, truth.bboxes)
            labels = torch.full_like(index, self.num_classes)
            labels[index >= 0] = truth.labels[index[index >= 0]]
            images.append((labels, sides, first_index >= 0, first_sides))
        return tuple(torch.stack(one) for one in zip(*images))

    def _box_loss(
        self,
        loss: nn.Module,
        points: Tensor,
        sides: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        avg_factor: float,
    ) -> Tensor:
        if len(points) == 0:
            return sides.sum()
        decoded = (self.bbox_coder.decode(points, one) for one in (sides, targets))
        return loss(*decoded, weight=weights, avg_factor=avg_factor)


def _flatten(levels: list[Tensor], channels: int) -> Tensor:
    """``[N, P, channels]`` of all levels' ``[N, channels, H, W]``."""
    return torch.cat(
        [one.permute(0, 2, 3, 1).reshape(len(one), -1, channels) for one in levels], dim=1
    )


def _mean_count(count: Tensor, least: float = 1.0) -> float:
    """Over the processes."""
    return max(reduce_mean(count.float()).item(), least)
