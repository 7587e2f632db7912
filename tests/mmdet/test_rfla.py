"""RFLA's chunked assigner against naive loops."""

from __future__ import annotations

import math
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from rfla_boxes import SCORES, SIMILARITIES, grid_anchors, random_boxes
from torch import Tensor

from efpn_mmdet.rfla import HierarchicalAssigner
from efpn_mmdet.similarity.ranking import rank_anchors, scaled_about_centre


def naive_ranking(scores: Tensor, k: int) -> Tensor:
    """Ground truth by ground truth, score by score, as RFLA describes it."""
    best = scores.max(0).values
    gt_inds = torch.full_like(best, -1, dtype=torch.long)
    gt_inds[(best >= 0) & (best < 0.8)] = 0
    top = scores.topk(k, dim=1).values
    for gt in range(scores.shape[0]):
        for j in range(k):
            gt_inds[scores[gt] == top[gt, j]] = gt + 1
    return gt_inds


def naive_assignment(
    gts: Tensor, anchors: Tensor, distance: str = "kl", topk: tuple[int, int] = (3, 1)
) -> tuple[Tensor, Tensor]:
    first = naive_ranking(SCORES[distance](gts, anchors), topk[0])
    second_scores = SCORES[distance](gts, scaled_about_centre(anchors, 0.9))
    second = naive_ranking(second_scores, topk[1])
    return torch.where(first > 0, first, second), second_scores.max(0).values


def instances(anchors: Tensor, gts: Tensor) -> tuple[InstanceData, InstanceData]:
    labels = torch.arange(len(gts)) % 8
    return InstanceData(priors=anchors), InstanceData(bboxes=gts, labels=labels)


def test_everything_is_registered() -> None:
    for name in ("RFAnchorGenerator", "HierarchicalAssigner", "BoxSimilarity"):
        assert TASK_UTILS.get(name) is not None


# Assignment


@pytest.mark.parametrize("distance", SCORES)
@pytest.mark.parametrize("gt_count", [1, 7, 150])
def test_the_assigner_equals_the_naive_loop(distance: str, gt_count: int) -> None:
    anchors, gts = grid_anchors(), random_boxes(gt_count, 128, 24, seed=gt_count)
    gts[gt_count // 2 :] = gts[: gt_count - gt_count // 2].clone()  # ties between ground truths
    assigner = HierarchicalAssigner(SIMILARITIES[distance], chunk_elements=5 * len(anchors))
    result = assigner.assign(*instances(anchors, gts))
    gt_inds, best = naive_assignment(gts, anchors, distance)
    assert torch.equal(result.gt_inds, gt_inds)
    assert torch.equal(result.max_overlaps, best)
    positive = gt_inds > 0
    assert torch.equal(result.labels[positive], (gt_inds[positive] - 1) % 8)
    assert (result.labels[~positive] == -1).all()
    assert result.num_gts == gt_count


@pytest.mark.parametrize("chunk_elements", [1, 4_000, 1 << 30])
def test_the_chunk_size_does_not_change_the_result(chunk_elements: int) -> None:
    anchors, gts = grid_anchors(), random_boxes(40, 128, 24, seed=3)
    ranking = rank_anchors(gts, anchors, 3, SCORES["kl"], chunk_elements=chunk_elements)
    scores = SCORES["kl"](gts, anchors)
    assert torch.equal(ranking.gt_inds, naive_ranking(scores, 3))
    assert torch.equal(ranking.best_scores, scores.max(0).values)


def test_every_ground_truth_takes_all_anchors_tied_at_its_best_scores() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8]] * 4 + [[1.0, 0, 9, 8], [100.0, 0, 108, 8]])
    gts = torch.tensor([[0.0, 0, 8, 8]])
    ranking = rank_anchors(gts, anchors, 2, SCORES["kl"])
    assert ranking.gt_inds.tolist() == [1, 1, 1, 1, -1, 0]


def test_later_ground_truths_win_ties() -> None:
    box = torch.tensor([[0.0, 0, 8, 8]])
    assert rank_anchors(box.repeat(3, 1), box, 1, SCORES["kl"]).gt_inds.tolist() == [3]


def test_second_ranking_labels_only_anchors_without_a_positive() -> None:
    anchors, gts = grid_anchors(), random_boxes(30, 128, 24, seed=5)
    first = rank_anchors(gts, anchors, 1, SCORES["kl"]).gt_inds
    only_first = HierarchicalAssigner(topk=(1, 0)).assign(*instances(anchors, gts)).gt_inds
    both = HierarchicalAssigner(topk=(1, 3)).assign(*instances(anchors, gts)).gt_inds
    assert torch.equal(only_first, first)
    assert torch.equal(both[first > 0], first[first > 0])
    assert (both > 0).sum() > (first > 0).sum()
    assert torch.equal(both, naive_assignment(gts, anchors, topk=(1, 3))[0])


def test_no_ground_truth_means_background() -> None:
    result = HierarchicalAssigner().assign(*instances(grid_anchors(), torch.zeros(0, 4)))
    assert (result.gt_inds == 0).all() and (result.labels == -1).all()
    assert (
        HierarchicalAssigner().assign(*instances(torch.zeros(0, 4), torch.ones(2, 4))).num_gts == 2
    )


def test_more_ranks_than_anchors() -> None:
    anchors, gts = random_boxes(2, 16, 8, seed=0), random_boxes(1, 16, 8, seed=1)
    result = HierarchicalAssigner(topk=(3, 1)).assign(*instances(anchors, gts))
    assert result.gt_inds.tolist() == [1, 1]


def test_ignored_regions_hide_their_anchors() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [1.0, 1, 9, 9], [40.0, 40, 48, 48]])
    gts = torch.tensor([[0.0, 0, 8, 8]])
    regions = InstanceData(bboxes=torch.tensor([[0.0, 0, 8.5, 8.5]]))
    assigner = HierarchicalAssigner(topk=(1, 1), ignore_iof_thr=0.5)
    result = assigner.assign(*instances(anchors, gts), regions)
    assert result.gt_inds.tolist() == [-1, -1, 1]
    without = assigner.assign(*instances(anchors, gts[:0]), regions)
    assert without.gt_inds.tolist() == [-1, -1, 0]


def test_half_precision_boxes_are_ranked_in_single() -> None:
    anchors, gts = grid_anchors().half(), random_boxes(10, 128, 24, seed=6)
    result = HierarchicalAssigner().assign(*instances(anchors, gts))
    assert torch.equal(result.gt_inds, naive_assignment(gts, anchors.float())[0])


@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_switch_scales_the_priors_in_place(published: bool) -> None:
    anchors, gts = grid_anchors(), random_boxes(20, 128, 24, seed=7)
    before = anchors.clone()
    predictions, truths = instances(anchors, gts)
    result = HierarchicalAssigner(published_rescale=published).assign(predictions, truths)
    after = scaled_about_centre(before, 0.9) if published else before
    assert torch.equal(predictions.priors, after)
    assert torch.equal(result.gt_inds, naive_assignment(gts, before)[0])


def test_the_published_switch_follows_the_published_cpu_copy() -> None:
    assigner = HierarchicalAssigner(published_rescale=True, gpu_assign_thr=512)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert assigner._rescale_reaches(cuda, 512)
    assert not assigner._rescale_reaches(cuda, 513)
    assert assigner._rescale_reaches(cpu, 513)
    assert HierarchicalAssigner(gpu_assign_thr=-1)._rescale_reaches(cuda, 10_000)


def test_the_published_switch_changes_the_regression_targets_of_an_rpn() -> None:
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
    from mmdet.models.task_modules.samplers import PseudoSampler

    gts = random_boxes(5, 128, 24, seed=8)
    targets = {}
    for published in (False, True):
        predictions, truths = instances(grid_anchors(), gts)
        result = HierarchicalAssigner(published_rescale=published).assign(predictions, truths)
        sample = PseudoSampler().sample(result, predictions, truths)
        targets[published] = DeltaXYWHBBoxCoder().encode(sample.pos_priors, sample.pos_gt_bboxes)
    growth = targets[True][:, 2:] - targets[False][:, 2:]
    torch.testing.assert_close(
        growth, torch.full_like(growth, -math.log(0.9)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topk": (0, 1)}, r"topk: expected \(k1 >= 1, k2 >= 0\), got \(0, 1\)"),
        ({"ratio": 0.0}, "ratio: expected a positive number, got 0.0"),
        ({"similarity": "iou"}, "similarity: expected one of kl"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HierarchicalAssigner(**settings)


def assign_a_crowd() -> tuple[int, Tensor, Tensor]:
    """Peak memory growth in bytes, the labels, and every 500th ground truth's best anchor."""
    gts, anchors = random_boxes(5_000, 1_000, 24, seed=9), random_boxes(200_000, 1_000, 40, seed=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = HierarchicalAssigner().assign(*instances(anchors, gts))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return growth, result.gt_inds, SCORES["kl"](gts[::500], anchors).argmax(1)


@pytest.mark.slow
def test_five_thousand_ground_truths_against_two_hundred_thousand_anchors_fit_in_2_gb() -> None:
    """In a process of its own, for its peak memory; the score matrix alone would be 4 GB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        growth, gt_inds, best_anchors = pool.submit(assign_a_crowd).result()
    assert growth < 2 * 1024**3
    assert (gt_inds[best_anchors] > 0).all()
    assert gt_inds.unique().numel() > 4_000
