"""RFLA's anchors and distances, by hand, by the plain formulas and by torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps
from mmengine.structures import InstanceData
from rfla_boxes import SCORES, SIMILARITIES, STRIDES, grid_anchors, random_boxes
from torch import Tensor

from efpn_mmdet.rfla import RFAnchorGenerator
from efpn_mmdet.similarity import BoxSimilarity

# Anchors


def test_anchors_have_the_size_of_the_effective_receptive_field() -> None:
    generator = TASK_UTILS.build({"type": "RFAnchorGenerator", "strides": STRIDES})
    assert generator.num_base_priors == [3] * 5
    for base, field in zip(generator.base_anchors, (35, 91, 267, 427, 555), strict=True):
        width, height = base[:, 2] - base[:, 0], base[:, 3] - base[:, 1]
        torch.testing.assert_close((width * height).sqrt(), torch.full((3,), field / 2))
        torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]))
        torch.testing.assert_close(base[:, :2] + base[:, 2:], torch.zeros(3, 2))
    second_cell = generator.grid_priors([(2, 2)] * 5, device="cpu")[0][4]
    torch.testing.assert_close(second_cell, torch.tensor([4 - 8.75, -8.75, 4 + 8.75, 8.75]))


def test_one_stage_levels_take_their_own_receptive_fields() -> None:
    generator = RFAnchorGenerator([8, 16, 32, 64, 128], ratios=[1.0])
    sides = [float(base[0, 2] - base[0, 0]) for base in generator.base_anchors]
    assert sides == [45.5, 133.5, 213.5, 277.5, 405.5]


def test_unknown_strides_need_receptive_fields() -> None:
    with pytest.raises(ValueError, match="receptive_fields: required for strides other than"):
        RFAnchorGenerator([2, 4])
    with pytest.raises(ValueError, match="one for each of the 2 strides, got 1"):
        RFAnchorGenerator([2, 4], receptive_fields=[11])
    generator = RFAnchorGenerator([2], receptive_fields=[11], fraction=1.0, ratios=[1.0])
    assert generator.base_anchors[0].tolist() == [[-5.5, -5.5, 5.5, 5.5]]


# Distances


@pytest.mark.parametrize("distance", SCORES)
def test_score_is_one_for_equal_boxes_and_falls_with_the_offset(distance: str) -> None:
    box = torch.tensor([[10.0, 10.0, 30.0, 20.0]])
    shifted = box + torch.tensor([[0.0], [4.0], [16.0]])
    scores = SCORES[distance](box, shifted)[0]
    assert scores[0] == pytest.approx(1, abs=1e-3)
    assert scores[0] > scores[1] > scores[2] > 0


def test_scores_by_hand() -> None:
    gt = torch.tensor([[0.0, 0.0, 4.0, 8.0]])  # centre (2, 4), sides (4, 8)
    anchor = torch.tensor([[1.0, 2.0, 9.0, 6.0]])  # centre (5, 4), sides (8, 4)
    kl = (4 + 0.25 + 4 * 9 / 16 + 0 + math.log(16 / 64) + math.log(64 / 16) - 2) / 2
    squared = 9 + (16 + 16) / 4
    expected = {
        "kl": 1 / (1 + kl),
        "exp_kl": math.exp(-kl / 10),
        "wasserstein": 1 / (1 + squared),
        "nwd": math.exp(-math.sqrt(squared) / 12.8),
    }
    for distance, value in expected.items():
        assert SCORES[distance](gt, anchor).item() == pytest.approx(value, rel=1e-5)


def test_scores_have_the_bits_of_the_plain_formulas() -> None:
    """The order of operations of the published equations, written out without chunks."""
    gts, anchors = random_boxes(60, 128, 24, seed=11), grid_anchors()
    gt, anchor = gts[:, None], anchors[None]
    dx, dy = (((gt[..., :2] + gt[..., 2:]) / 2) - (anchor[..., :2] + anchor[..., 2:]) / 2).unbind(
        -1
    )
    w1, h1 = (gt[..., 2:] - gt[..., :2] + 1e-6).unbind(-1)
    w2, h2 = (anchor[..., 2:] - anchor[..., :2] + 1e-6).unbind(-1)
    squares = w2**2 / w1**2 + h2**2 / h1**2 + 4 * dx**2 / w1**2 + 4 * dy**2 / h1**2
    kl = (squares + torch.log(w1**2 / w2**2) + torch.log(h1**2 / h2**2) - 2) / 2
    wasserstein = (dx * dx + dy * dy + 1e-6) + ((w1 - w2) ** 2 + (h1 - h2) ** 2) / 4
    assert torch.equal(SCORES["kl"](gts, anchors), 1 / (1 + kl))
    assert torch.equal(SCORES["exp_kl"](gts, anchors), torch.exp(-kl / 10))
    assert torch.equal(SCORES["wasserstein"](gts, anchors), 1 / (1 + wasserstein))


def test_kl_matches_torch_distributions() -> None:
    gts, anchors = random_boxes(5, 64, 20, seed=1).double(), random_boxes(7, 64, 20, 2).double()

    def gaussians(boxes: Tensor) -> torch.distributions.Independent:
        normal = torch.distributions.Normal(
            (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        )
        return torch.distributions.Independent(normal, 1)

    for row, gt in enumerate(gts.split(1)):
        kl = torch.distributions.kl_divergence(gaussians(anchors), gaussians(gt.expand(7, 4)))
        torch.testing.assert_close(SCORES["kl"](gts, anchors)[row], 1 / (1 + kl), rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", SCORES)
def test_empty_boxes_give_finite_scores(distance: str) -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 9.0, 9.0]])
    assert SCORES[distance](boxes, boxes).isfinite().all()


def test_the_distance_is_an_iou_calculator() -> None:
    calculator = TASK_UTILS.build({"type": "BoxSimilarity", "similarity": "nwd"})
    boxes = random_boxes(3, 64, 20, seed=0)
    assert torch.equal(calculator(HorizontalBoxes(boxes), boxes), SCORES["nwd"](boxes, boxes))
    assert "nwd" in repr(calculator)


@pytest.mark.parametrize("distance", SCORES)
def test_aligned_scores_are_the_matrix_diagonal(distance: str) -> None:
    calculator = BoxSimilarity(SIMILARITIES[distance])
    gts, anchors = random_boxes(40, 64, 20, seed=1), random_boxes(40, 64, 20, seed=2)
    aligned = calculator(gts, anchors, is_aligned=True)
    assert torch.equal(aligned, calculator(gts, anchors).diagonal())
    assert calculator(gts[:0], anchors[:0], is_aligned=True).shape == (0,)


def test_intersection_over_foreground_is_itself() -> None:
    """It says how much of an anchor an ignored region covers."""
    calculator = BoxSimilarity("nwd")
    boxes, regions = random_boxes(9, 64, 20, seed=1), random_boxes(9, 64, 40, seed=2)
    assert torch.equal(calculator(boxes, regions, mode="iof"), bbox_overlaps(boxes, regions, "iof"))
    aligned = calculator(boxes, regions, mode="iof", is_aligned=True)
    assert torch.equal(aligned, bbox_overlaps(boxes, regions, "iof", is_aligned=True))


def test_ignored_regions_hide_anchors_from_max_iou_assigner() -> None:
    assigner = TASK_UTILS.build(
        {
            "type": "MaxIoUAssigner",
            **{"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3, "ignore_iof_thr": 0.5},
            "iou_calculator": {"type": "BoxSimilarity", "similarity": "nwd"},
        }
    )
    anchors = torch.tensor([[0.0, 0, 8, 8], [40, 40, 48, 48], [41, 41, 47, 47]])
    truth = InstanceData(bboxes=anchors[:1], labels=torch.zeros(1, dtype=torch.long))
    region = InstanceData(bboxes=torch.tensor([[40.0, 40, 48, 47]]))
    result = assigner.assign(InstanceData(priors=anchors), truth, region)
    assert result.gt_inds.tolist() == [1, -1, -1]


def test_what_is_no_calculation_is_refused() -> None:
    calculator = BoxSimilarity()
    boxes = random_boxes(3, 64, 20, seed=0)
    with pytest.raises(ValueError, match="mode: expected 'iou' or 'iof', got 'giou'"):
        calculator(boxes, boxes, mode="giou")
    with pytest.raises(ValueError, match="is_aligned: expected as many boxes in both, got 3 and 2"):
        calculator(boxes, boxes[:2], is_aligned=True)
