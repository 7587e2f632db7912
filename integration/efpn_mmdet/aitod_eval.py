"""Average precision and recall with AI-TOD's parameters, from COCO annotations and detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
LOOSE_IOU = 0.25
MAX_DETECTIONS = (100, 300, 1500)
AREAS = {
    "all": (0.0, 1e10),
    "verytiny": (0.0, 8.0**2),
    "tiny": (8.0**2, 16.0**2),
    "small": (16.0**2, 32.0**2),
    "medium": (32.0**2, 1e10),
}
AREA_SUFFIXES = {"vt": "verytiny", "t": "tiny", "s": "small", "m": "medium"}
SETTINGS = (
    f"IoU 0.50:0.05:0.95 (AP_0.25: {LOOSE_IOU}), at most {MAX_DETECTIONS[-1]} detections an image "
    f"and class (recalls at {', '.join(map(str, MAX_DETECTIONS))}), "
    "areas verytiny [0, 8^2], tiny [8^2, 16^2], small [16^2, 32^2], medium [32^2, 1e10]"
)


def evaluate(truth: COCO, detections: list[dict], category_ids: Sequence[int]) -> COCOeval_faster:
    """Match and accumulate with the benchmark's parameters; IoU 0.25 is the first threshold."""
    nothing = {**truth.dataset, "annotations": []}  # loadRes of 1.6 and 1.7 refuses an empty list
    found = truth.loadRes(detections) if detections else COCO(nothing)
    evaluation = COCOeval_faster(truth, found, iouType="bbox")
    parameters = evaluation.params
    parameters.catIds = list(category_ids)
    parameters.iouThrs = np.concatenate([[LOOSE_IOU], IOU_THRESHOLDS])
    parameters.maxDets = list(MAX_DETECTIONS)
    parameters.areaRng = [list(area) for area in AREAS.values()]
    parameters.areaRngLbl = list(AREAS)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def summarise(evaluation: COCOeval_faster, category: int | slice = slice(None)) -> dict[str, float]:
    """The named values of all categories, or of the one at that position of ``params.catIds``."""
    precision = evaluation.eval["precision"][:, :, category]  # [T, R, (K,) A, M]
    recall = evaluation.eval["recall"][:, category]  # [T, (K,) A, M]
    areas = {name: index for index, name in enumerate(AREAS)}
    values = {"AP": _mean(precision[1:, ..., areas["all"], -1])}
    for threshold in (0.25, 0.5, 0.75):
        at = int(np.flatnonzero(np.isclose(evaluation.params.iouThrs, threshold))[0])
        values[f"AP_{threshold}"] = _mean(precision[at, ..., areas["all"], -1])
    for suffix, name in AREA_SUFFIXES.items():
        values[f"AP_{suffix}"] = _mean(precision[1:, ..., areas[name], -1])
    for index, limit in enumerate(MAX_DETECTIONS):
        values[f"AR_{limit}"] = _mean(recall[1:, ..., areas["all"], index])
    for suffix, name in AREA_SUFFIXES.items():
        values[f"AR_{suffix}"] = _mean(recall[1:, ..., areas[name], -1])
    return values


def _mean(values: np.ndarray) -> float:
    """The mean of the values that have ground truth (COCO marks the others -1), or -1."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
