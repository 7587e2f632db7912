"""Optimal localisation-recall-precision error (Oksuz et al.), as AI-TOD's evaluator reports it.

With the ``s`` detections of the highest scores, matched at IoU 0.5::

    LRP(s) = (sum over true positives of (1 - IoU) / (1 - 0.5) + FP + FN) / (TP + FP + FN)

oLRP is the least LRP over all ``s``, 0 for perfect detections and 1 for none. Its parts, at that ``s``: the mean
1 - IoU of the true positives, the share of detections that are false, the share of objects that are missed.
"""

from __future__ import annotations

import numpy as np
from faster_coco_eval import COCOeval_faster

TAU = 0.5
NAMES = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")


def optimal_lrp(evaluation: COCOeval_faster, max_detections: int) -> np.ndarray:
    """``[K, 4]``: the error and its parts for every category of ``evaluation.params.catIds``.

    NaN where there is none: everything for a category without objects, the first two parts for one of which
    nothing was found.

    Args:
        evaluation: whose ground truth and detections are matched anew, at IoU 0.5 and without bounds of area.
        max_detections: an image and category.
    """
    truth, found = evaluation.cocoGt, evaluation.cocoDt
    matching = COCOeval_faster(truth, found, iouType="bbox")
    matching.params.catIds = list(evaluation.params.catIds)
    matching.params.iouThrs = np.array([TAU])
    matching.params.maxDets = [max_detections]
    matching.params.areaRng, matching.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    matching.evaluate()
    matching.accumulate()

    crowds = {one["id"] for one in truth.dataset["annotations"] if one["iscrowd"]}
    matches = {}  # by detection: the IoU, or NaN for a crowd's
    for ids, iou in matching.eval["matched"].items():
        detection, annotation = map(int, ids.split("_"))
        matches[detection] = np.nan if annotation in crowds else iou
    columns = [
        (one["category_id"], one["image_id"], one["score"], matches.get(one["id"], 0.0))
        for one in found.dataset["annotations"]
    ]
    table = np.array(columns, dtype=float).reshape(-1, 4)
    objects = [one["category_id"] for one in truth.dataset["annotations"] if not one["iscrowd"]]
    return np.array(
        [
            _category(table[table[:, 0] == category, 1:], objects.count(category), max_detections)
            for category in matching.params.catIds
        ]
    ).reshape(-1, len(NAMES))


def _category(table: np.ndarray, objects: int, max_detections: int) -> tuple[float, ...]:
    """The values of one category from its detections' ``[n, 3]`` image, score, IoU of the match or 0."""
    if objects == 0:
        return (np.nan,) * len(NAMES)
    image, score, iou = table[np.lexsort((-table[:, 1], table[:, 0]))].T
    _, first, counts = np.unique(image, return_index=True, return_counts=True)
    rank = np.arange(len(image)) - np.repeat(first, counts)
    counted = (rank < max_detections) & ~np.isnan(iou)
    score, iou = score[counted], iou[counted]
    iou = iou[np.argsort(-score, kind="stable")]
    true = np.cumsum(iou > 0)
    if not true.size or true[-1] == 0:
        return 1.0, np.nan, np.nan, 1.0
    false, missed = np.cumsum(iou == 0), objects - true
    location = true - np.cumsum(iou)
    error = (location / (1 - TAU) + false + missed) / (true + false + missed)
    best = int(np.argmin(error))
    return (
        float(error[best]),
        float(location[best] / true[best]) if true[best] else np.nan,
        float(false[best] / (true[best] + false[best])),
        float(missed[best] / objects),
    )


def mean_lrp(values: np.ndarray) -> dict[str, float]:
    """The named means of ``[K, 4]`` over the categories that have a value, or -1."""
    present = [column[~np.isnan(column)] for column in values.T]
    return {
        name: float(column.mean()) if column.size else -1.0
        for name, column in zip(NAMES, present, strict=True)
    }
