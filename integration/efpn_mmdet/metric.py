"""The AI-TOD metric: COCO average precision with the benchmark's own parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster, __version__
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from .classes import category_ids

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


@METRICS.register_module()
class AITODMetric(BaseMetric):
    """AP, AP_0.25, AP_0.5, AP_0.75, AP_vt, AP_t, AP_s, AP_m and recalls AR_100 to AR_m.

    AP is the mean over IoU 0.50:0.05:0.95 and the classes at 1500 detections; AP_vt to AP_m are the
    same for boxes of that area (of the annotation's ``area`` field). A value without any ground
    truth is -1, as in COCO. The values are fractions, not percent. oLRP is not among them, because
    the evaluation library does not compute it.

    Args:
        ann_file: COCO json; all of its images count, whether they were visited or not.
        classwise: also log a table with each class, and return ``<class>_AP``.
        backend_args, collect_device, prefix: as for mmdet's ``CocoMetric``.
    """

    default_prefix = "aitod"

    def __init__(
        self,
        ann_file: str,
        classwise: bool = False,
        backend_args: dict | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.classwise = classwise
        with get_local_path(ann_file, backend_args=backend_args) as local_path:
            self._truth = COCO(str(local_path))

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of one batch as ``(image id, [n, 6] xyxy score label)``."""
        for sample in data_samples:
            predicted = sample["pred_instances"]
            columns = (
                predicted["bboxes"],
                predicted["scores"][:, None],
                predicted["labels"][:, None],
            )
            rows = np.concatenate(
                [column.cpu().numpy().astype(float) for column in columns], axis=1
            )
            self.results.append((sample["img_id"], rows))

    def compute_metrics(self, results: list[tuple[int, np.ndarray]]) -> dict[str, float]:
        """The values of all images of the annotation file."""
        logger = MMLogger.get_current_instance()
        classes = self.dataset_meta["classes"]
        ids = category_ids(self._truth.dataset["categories"], classes)
        detections = _coco_detections(results, ids)
        self._log_settings(logger, results, len(detections))
        evaluation = evaluate(self._truth, detections, ids)
        values = summarise(evaluation)
        logger.info("AI-TOD metric: %s", _row(values))
        if self.classwise:
            order = {category: index for index, category in enumerate(evaluation.params.catIds)}
            per_class = {
                name: summarise(evaluation, order[category])
                for name, category in zip(classes, ids, strict=True)
            }
            logger.info("\n%s", _class_table(per_class))
            values |= {f"{name}_AP": value["AP"] for name, value in per_class.items()}
        return values

    def _log_settings(self, logger: MMLogger, results: list, detections: int) -> None:
        images, boxes = len(self._truth.imgs), len(self._truth.anns)
        logger.info(
            "AI-TOD metric: %s; faster-coco-eval %s; %d images, %d boxes, %d detections",
            *(SETTINGS, __version__, images, boxes, detections),
        )
        if len(results) < images:
            logger.warning(
                "AI-TOD metric: %d of %d images have predictions, the others count as missed",
                *(len(results), images),
            )


def _coco_detections(
    results: list[tuple[int, np.ndarray]], ids: Sequence[int]
) -> list[dict[str, object]]:
    """COCO detections from ``(image id, [n, 6])``; label ``i`` becomes category ``ids[i]``."""
    return [
        {
            "image_id": image_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "category_id": ids[int(label)],
        }
        for image_id, rows in results
        for x1, y1, x2, y2, score, label in rows.tolist()
    ]


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


def _row(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _class_table(per_class: dict[str, dict[str, float]]) -> str:
    names = [name for name in next(iter(per_class.values())) if name.startswith("AP")]
    rows = [
        [label, *(f"{values[name]:.3f}" for name in names)] for label, values in per_class.items()
    ]
    return AsciiTable([["class", *names], *rows]).table
