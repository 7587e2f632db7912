"""FSANet: published values of the neck and of the centreness, the assignment by hand, losses without boxes."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from small_detectors import BACKBONE_CHANNELS, CHANNELS, one_thread  # noqa: F401

from efpn_mmdet.fsanet import AlignFPN, FSANetHead
from efpn_mmdet.fsanet.neck import AlignedMerge, sample_shifted
from efpn_mmdet.fsanet.targets import assign_points, distances, gaussian_centreness

GROUPS = {"type": "GN", "num_groups": 2}
HIGH = torch.tensor([[[[1.0, 2], [3, 4]]]])
SHIFTED = {
    (0, 0): [1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4],
    (1, 0): [1.1667, 1.6667, 1.6667, 2.1667, 2.6667, 2.5, 3.1667, 3.6667, 3.3333],
    (0, -1): [0.8333, 1.25, 1.6667, 1.6667, 2.1667, 2.6667, 2.6667, 3.1667, 3.6667],
}


@pytest.mark.parametrize("offset", SHIFTED, ids=str)
def test_published_samples(offset: tuple[float, float]) -> None:
    offsets = torch.tensor(offset).float().reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
    found = sample_shifted(HIGH, offsets).flatten()
    torch.testing.assert_close(found, torch.tensor(SHIFTED[offset]), rtol=0, atol=5e-5)


def test_an_offset_is_a_part_of_its_own_axis() -> None:
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    for axis, ramp, step in ((0, columns, 4 / 5 / 2), (1, rows, 2 / 3 / 2)):
        offset = torch.zeros(1, 2, 3, 5)
        offset[:, axis] = 1
        found = sample_shifted(ramp[None, None], offset)[0, 0]
        torch.testing.assert_close(found[:2, :4], ramp[:2, :4] + step)


def test_without_an_offset_a_merge_is_a_sum() -> None:
    merge = AlignedMerge(4)
    assert [tuple(one.shape) for one in merge.parameters()] == [(8, 1, 3, 3), (2, 8, 1, 1)]
    merge.offset[1].weight.data.zero_()
    low, high = torch.randn(2, 4, 6, 10), torch.randn(2, 4, 3, 5)
    stretched = torch.nn.functional.interpolate(high, (6, 10), mode="bilinear", align_corners=True)
    torch.testing.assert_close(merge(low, high), low + stretched)


def test_the_neck_gives_three_levels_and_can_be_a_base() -> None:
    config = {"type": "AlignFPN", "in_channels": BACKBONE_CHANNELS, "out_channels": CHANNELS}
    config["norm_cfg"] = GROUPS
    inputs = tuple(torch.randn(1, c, 32 >> i, 32 >> i) for i, c in enumerate(BACKBONE_CHANNELS))
    levels = MODELS.build(config)(inputs)
    assert [tuple(one.shape[1:]) for one in levels] == [(8, 16, 16), (8, 8, 8), (8, 4, 4)]
    neck = MODELS.build({"type": "EFPNBSNeck", "base": config, "low_level": 0, "high_level": 2})
    assert isinstance(neck.base, AlignFPN)
    assert [one.shape for one in neck(inputs)] == [one.shape for one in levels]


def test_published_centreness() -> None:
    sides = torch.tensor([[4.0, 4, 4, 4], [2, 4, 6, 4], [1, 1, 7, 7], [0.5, 3, 9.5, 5]])
    expected = torch.tensor([1, 0.778800783, 0.324652467, 0.417905479])
    torch.testing.assert_close(gaussian_centreness(sides), expected)


def test_the_first_assignment_is_fcos() -> None:
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(300, 2, generator=generator) * 100
    corners = torch.rand(12, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + torch.rand(12, 2, generator=generator) * 90 + 1], 1)
    ranges = torch.tensor([[-1.0, 40], [40, math.inf]])[torch.arange(300) % 2]
    head = FCOSHead(12, 4, norm_cfg=None)
    truth = InstanceData(bboxes=boxes, labels=torch.arange(12))
    labels, sides = head._get_targets_single(truth, points, ranges, [300])
    index, found = assign_points(points, points, ranges, boxes)
    assert torch.equal(torch.where(index < 0, 12, index), labels)
    assert 30 < (index >= 0).sum() < 270
    torch.testing.assert_close(found[index >= 0], sides[index >= 0])


def test_the_second_assignment_goes_by_the_predicted_centre() -> None:
    points = torch.tensor([[10.0, 10], [10, 10], [30, 30]])
    centres = torch.tensor([[22.0, 22], [10, 10], [50, 50]])
    ranges = torch.tensor([[-1.0, 64]]).expand(3, 2)
    box = torch.tensor([[20.0, 20, 36, 40]])
    index, sides = assign_points(points, centres, ranges, box)
    assert index.tolist() == [0, -1, -1]
    assert sides[0].tolist() == [-10, -10, 26, 30]  # of the point, which lies outside
    assert torch.equal(sides, distances(points, box)[:, 0])
    index, sides = assign_points(points, centres, ranges, box[:0])
    assert index.tolist() == [-1] * 3 and sides.shape == (3, 4)


def head() -> FSANetHead:
    torch.manual_seed(0)
    settings = {"feat_channels": CHANNELS, "stacked_convs": 1, "norm_cfg": GROUPS}
    return MODELS.build(
        {"type": "FSANetHead", "num_classes": 2, "in_channels": CHANNELS, **settings}
    )


def test_the_second_box_adds_to_the_first_and_may_be_negative() -> None:
    module = head()
    torch.nn.init.constant_(module.conv_reg.bias, -3.0)
    torch.nn.init.constant_(module.conv_reg.weight, 0.0)
    levels = tuple(torch.randn(1, CHANNELS, size, size) for size in (8, 4, 2))
    scores, boxes, centreness, first = module(levels)
    for second, one in zip(boxes, first, strict=True):
        torch.testing.assert_close(second, one - 3)
        assert (one > 0).all()
    assert [tuple(one.shape) for one in centreness] == [(1, 1, 8, 8), (1, 1, 4, 4), (1, 1, 2, 2)]
    assert scores[0].shape[1] == 2
    assert module.conv_offset.weight.shape == (72, 4, 1, 1) and module.conv_offset.bias is None


def test_every_parameter_learns_with_and_without_boxes() -> None:
    from mmengine.structures import InstanceData

    module = head()
    levels = tuple(torch.randn(2, CHANNELS, size, size) for size in (8, 4, 2))
    boxes = torch.tensor([[5.0, 5, 40, 30], [0, 0, 64, 64]])
    full = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
    empty = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
    for truths in ([full, empty], [empty, empty]):
        module.zero_grad()
        losses = module.loss_by_feat(*module(levels), truths, [{}, {}])
        assert set(losses) == {"loss_cls", "loss_bbox_init", "loss_bbox", "loss_centerness"}
        assert (losses["loss_bbox_init"] > 0) == (truths[0] is full)
        sum(losses.values()).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_range_for_each_level() -> None:
    with pytest.raises(ValueError, match="regress_ranges: expected one for each of the 2 strides"):
        FSANetHead(2, CHANNELS, strides=(8, 16))


def test_a_loss_of_encoded_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="loss_bbox: expected a head that regresses encoded boxes"):
        FSANetHead(2, CHANNELS, norm_cfg=GROUPS, feat_channels=8, loss_bbox={"type": "DCLoss"})
