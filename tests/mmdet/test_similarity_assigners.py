"""Similarities in assigners and in the suppression of proposals: published results, brute force, memory."""

from __future__ import annotations

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from rfla_boxes import SCORES, SIMILARITIES, random_boxes
from torch import Tensor

from efpn_mmdet.similarity import ChunkedMaxIoUAssigner
from efpn_mmdet.similarity.nms import similarity_nms
from efpn_mmdet.similarity.scores import build_similarity

GTS = torch.tensor([[10.0, 10, 18, 18], [14, 10, 24, 22]])
ANCHORS = torch.tensor(
    [
        *([8.0, 8, 24, 24], [12, 8, 28, 24], [8, 12, 24, 28], [40, 40, 56, 56]),
        *([10, 10, 18, 18], [16, 12, 22, 20], [60, 60, 64, 64]),
    ]
)
THRESHOLDS = {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}


def assign(config: dict, anchors: Tensor, gts: Tensor, ignored: Tensor | None = None):
    truth = InstanceData(bboxes=gts, labels=torch.arange(len(gts)) % 8)
    ignored = None if ignored is None else InstanceData(bboxes=ignored)
    return TASK_UTILS.build(config).assign(InstanceData(priors=anchors), truth, ignored)


# NWD-RKA: the k most alike anchors of each ground truth, one ranking


@pytest.mark.parametrize(
    ("k", "background_below", "expected"),
    [
        (2, 0.3, [-1, 2, -1, 0, 1, 2, 0]),
        (3, 0.3, [2, 2, -1, 0, 1, 2, 0]),
        (2, 1.0, [0, 2, 0, 0, 1, 2, 0]),
    ],
)
def test_published_rankings(k: int, background_below: float, expected: list[int]) -> None:
    result = assign(
        {
            "type": "HierarchicalAssigner",
            "similarity": {"type": "nwd", "constant": 12.7},
            "topk": (k, 0),
            "background_below": background_below,
        },
        ANCHORS,
        GTS,
    )
    assert result.gt_inds.tolist() == expected
    best = [0.691201, 0.744816, 0.615459, 0.032966, 1, 0.800346, 0.006917]
    torch.testing.assert_close(result.max_overlaps, torch.tensor(best), rtol=0, atol=1e-6)


# Thresholds


@pytest.mark.parametrize("kind", ["MaxIoUAssigner", "ChunkedMaxIoUAssigner"])
@pytest.mark.parametrize(
    ("similarity", "expected"),
    [("nwd", [-1, 2, -1, 0, 1, 2, 0]), (SIMILARITIES["dotd"], [1, 2, -1, 0, 1, 2, 0])],
)
def test_published_thresholds(kind: str, similarity: object, expected: list[int]) -> None:
    calculator = {"type": "BoxSimilarity", "similarity": similarity}
    result = assign({"type": kind, **THRESHOLDS, "iou_calculator": calculator}, ANCHORS, GTS)
    assert result.gt_inds.tolist() == expected


SETTINGS = {
    "rpn": THRESHOLDS,
    "retina": {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0},
    "rcnn": {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "match_low_quality": False},
    "range": {"pos_iou_thr": 0.5, "neg_iou_thr": (0.1, 0.4), "gt_max_assign_all": False},
    "ignored": {**THRESHOLDS, "ignore_iof_thr": 0.5},
    "ignored_regions": {**THRESHOLDS, "ignore_iof_thr": 0.5, "ignore_wrt_candidates": False},
    "nwd": {**THRESHOLDS, "iou_calculator": {"type": "BoxSimilarity", "similarity": "nwd"}},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("chunk_elements", [1, 7 * 500])
def test_slices_give_mmdets_result(settings: dict, chunk_elements: int) -> None:
    gts, anchors = random_boxes(60, 100, 24, seed=1), random_boxes(500, 100, 24, seed=2)
    gts[30:40] = gts[:10].clone()  # ties between ground truths
    anchors[100:110], anchors[200:210] = gts[:10], gts[:10]
    ignored = random_boxes(20, 100, 40, seed=3)
    whole = assign({"type": "MaxIoUAssigner", **settings}, anchors, gts, ignored)
    sliced = assign(
        {"type": "ChunkedMaxIoUAssigner", "chunk_elements": chunk_elements, **settings},
        *(anchors, gts, ignored),
    )
    assert (whole.gt_inds > 0).any() and (whole.gt_inds == 0).any()
    assert torch.equal(sliced.gt_inds, whole.gt_inds)
    assert torch.equal(sliced.max_overlaps, whole.max_overlaps)
    assert torch.equal(sliced.labels, whole.labels)


def test_slices_of_nothing() -> None:
    config = {"type": "ChunkedMaxIoUAssigner", **THRESHOLDS}
    assert assign(config, ANCHORS, GTS[:0]).gt_inds.tolist() == [0] * 7
    assert assign(config, ANCHORS[:0], GTS).gt_inds.tolist() == []
    with pytest.raises(ValueError, match="perm_repeat_gt_cfg: expected None"):
        ChunkedMaxIoUAssigner(0.5, 0.5, perm_repeat_gt_cfg={"iou_thr": 0.7})


def assign_a_crowd() -> tuple[int, int]:
    """Peak memory growth in bytes, and how many ground truths have an anchor."""
    gts, anchors = random_boxes(5_000, 1_000, 24, seed=9), random_boxes(160_000, 1_000, 40, seed=10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = {"type": "ChunkedMaxIoUAssigner", **SETTINGS["nwd"]}
    result = assign(config, anchors, gts)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return growth, result.gt_inds.unique().numel()


@pytest.mark.slow
def test_a_crowd_fits_in_2_gb() -> None:
    """5 000 x 160 000 in a process of its own; the matrix alone would be 3.2 GB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        growth, matched = pool.submit(assign_a_crowd).result()
    assert growth < 2 * 1024**3
    assert matched > 4_000


# Suppression of proposals

PROPOSALS = torch.tensor(
    [
        *([10.0, 10, 18, 26], [10, 10, 18, 26], [12, 10, 20, 26], [13, 10, 21, 26]),
        *([10, 10, 22, 22], [40, 40, 52, 52], [41, 40.5, 53, 52.5]),
    ]
)
SCORE = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
NWD_NMS = {"type": "similarity", "similarity": {"type": "nwd"}, "threshold": 0.85}


def naive_nms(boxes: Tensor, scores: Tensor, similarity, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda one: -scores[one].item()):
        alike = [similarity(boxes[[one]], boxes[[index]]).item() > threshold for one in kept]
        if not any(alike):
            kept.append(index)
    return kept


@pytest.mark.parametrize("block", [1, 2, 1024])
def test_published_suppression(block: int) -> None:
    kept = similarity_nms(PROPOSALS, SCORE, build_similarity("nwd"), 0.85, block)
    assert kept.tolist() == [0, 3, 4, 5]


@pytest.mark.parametrize("block", [1, 7, 64, 1024])
@pytest.mark.parametrize("name", ["nwd", "simd"])
def test_suppression_equals_the_naive_loop(block: int, name: str) -> None:
    boxes = random_boxes(150, 60, 20, seed=4)
    scores = (torch.rand(150, generator=torch.Generator().manual_seed(5)) * 20).round()  # ties
    kept = similarity_nms(boxes, scores, SCORES[name], 0.6, block)
    assert kept.tolist() == naive_nms(boxes, scores, SCORES[name], 0.6)
    assert 20 < len(kept) < 150


def test_suppression_of_nothing() -> None:
    kept = similarity_nms(torch.zeros(0, 4), torch.zeros(0), SCORES["nwd"], 0.85)
    assert kept.shape == (0,) and kept.dtype == torch.long


def rpn_head(nms: dict) -> tuple[torch.nn.Module, ConfigDict]:
    config = ConfigDict(nms_pre=100, max_per_img=5, nms=nms, min_bbox_size=0)
    head = {
        **{"type": "SimilarityRPNHead", "in_channels": 4, "feat_channels": 4, "test_cfg": config},
        "anchor_generator": {"type": "AnchorGenerator", "strides": [4], "ratios": [1.0]},
    }
    head["anchor_generator"]["scales"] = [2]
    return MODELS.build(head), config


def results(boxes: Tensor, levels: list[int]) -> InstanceData:
    level_ids = torch.tensor(levels, dtype=torch.long)
    return InstanceData(bboxes=boxes, scores=SCORE[: len(boxes)], level_ids=level_ids)


def test_the_rpn_suppresses_within_each_level() -> None:
    head, config = rpn_head(NWD_NMS)
    flat = PROPOSALS.clone()
    flat[4, 3] = flat[4, 1]  # no height: not larger than min_bbox_size
    found = head._bbox_post_process(results(flat, [0, 1, 0, 0, 0, 2, 2]), config)
    assert torch.equal(found.bboxes, PROPOSALS[[0, 1, 3, 5]])
    assert torch.equal(found.scores, SCORE[[0, 1, 3, 5]])
    assert found.labels.tolist() == [0] * 4 and "level_ids" not in found
    config.max_per_img = 2
    found = head._bbox_post_process(results(PROPOSALS, [0] * 7), config)
    assert torch.equal(found.bboxes, PROPOSALS[[0, 3]])


@pytest.mark.parametrize("nms", [NWD_NMS, {"type": "nms", "iou_threshold": 0.7}], ids=str)
def test_no_proposal_is_no_trouble(nms: dict) -> None:
    head, config = rpn_head(nms)
    found = head._bbox_post_process(results(PROPOSALS[:0], []), config)
    assert len(found) == 0 and found.bboxes.shape == (0, 4)


def test_the_config_can_be_written_down(tmp_path) -> None:
    from mmengine.config import Config

    Config({"nms": NWD_NMS}).dump(tmp_path / "config.py")
    assert Config.fromfile(tmp_path / "config.py").nms.threshold == 0.85


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["nwd", "dotd", "simd"])
def test_a_gpu_keeps_the_same_proposals(name: str) -> None:
    boxes = random_boxes(3_000, 300, 20, seed=6)
    scores = torch.rand(3_000, generator=torch.Generator().manual_seed(7))
    on_cpu = similarity_nms(boxes, scores, SCORES[name], 0.85)
    on_gpu = similarity_nms(boxes.cuda(), scores.cuda(), SCORES[name], 0.85)
    assert torch.equal(on_gpu.cpu(), on_cpu)
