"""The AI-TOD metric: COCO average precision with the benchmark's own parameters."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, __version__
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from .aitod_eval import MAX_DETECTIONS, SETTINGS, evaluate, summarise
from .classes import category_ids
from .olrp import mean_lrp, optimal_lrp

Results = list[tuple[Hashable, np.ndarray]]


@METRICS.register_module()
class AITODMetric(BaseMetric):
    """AP, AP_0.25, AP_0.5, AP_0.75, AP_vt, AP_t, AP_s, AP_m, recalls AR_100 to AR_m, and oLRP.

    AP is the mean over IoU 0.50:0.05:0.95 and the classes at 1500 detections; AP_vt to AP_m are the
    same for boxes of that area (of the annotation's ``area`` field). A value without any ground
    truth is -1, as in COCO. oLRP and its parts oLRP_Loc, oLRP_FP and oLRP_FN are errors, see
    :mod:`efpn_mmdet.olrp`. The values are fractions, not percent. Every AP is there as mAP too, the
    name that mmengine's and mmdet's tools look for.

    Args:
        ann_file: COCO json; all of its images count, whether they were visited or not. Ids may be numbers
            or strings, from 0 or from 1.
        classwise: also log a table with each class, and return ``<class>_AP`` and ``<class>_oLRP``.
        outfile_prefix: also write the detections to ``<outfile_prefix>.bbox.json``, with the ids of
            ``ann_file``.
        format_only: write them and evaluate nothing, for images without annotations.
        backend_args, collect_device, prefix: as for mmdet's ``CocoMetric``.

    Raises:
        ValueError: ``format_only`` without ``outfile_prefix``; an ``ann_file`` that is no COCO json or has two
            images of one id; later, classes that it does not have, predictions of another image or of a
            label without a class.
    """

    default_prefix = "aitod"

    def __init__(
        self,
        ann_file: str,
        classwise: bool = False,
        outfile_prefix: str | None = None,
        format_only: bool = False,
        backend_args: dict | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and outfile_prefix is None:
            raise ValueError("outfile_prefix: expected a path with format_only, got None")
        self.classwise = classwise
        self.outfile_prefix = outfile_prefix
        self.format_only = format_only
        self.ann_file = ann_file
        with get_local_path(ann_file, backend_args=backend_args) as local_path:
            self._document = _coco_document(Path(local_path), ann_file)
        self._numbers = _image_numbers(self._document["images"], ann_file)

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
            self._check(sample["img_id"], rows[:, 5])
            self.results.append((sample["img_id"], rows))

    def _check(self, image_id: Hashable, labels: np.ndarray) -> None:
        if image_id not in self._numbers:
            raise ValueError(
                f"img_id: expected an image of {self.ann_file}, got {image_id!r}; is the metric's "
                "ann_file the data set's?"
            )
        classes = self.dataset_meta["classes"]
        if labels.size and labels.max() >= len(classes):
            raise ValueError(
                f"labels: expected 0 to {len(classes) - 1} for the data set's {len(classes)} classes, got "
                f"{int(labels.max())}; num_classes of the head has to be {len(classes)}"
            )

    def compute_metrics(self, results: Results) -> dict[str, float]:
        """The values of all images of the annotation file; none with ``format_only``."""
        logger = MMLogger.get_current_instance()
        classes = self.dataset_meta["classes"]
        ids = category_ids(self._document["categories"], classes)
        if self.outfile_prefix is not None:
            path = Path(f"{self.outfile_prefix}.bbox.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(_detections(results, ids)))
            logger.info("AI-TOD metric: detections written to %s", path)
        if self.format_only:
            return {}
        detections = _detections(
            [(self._numbers[image], rows) for image, rows in results], range(1, len(classes) + 1)
        )
        self._log_settings(logger, results, len(detections))
        evaluation = evaluate(self._truth(ids), detections, range(1, len(classes) + 1))
        lrp = optimal_lrp(evaluation, MAX_DETECTIONS[-1])
        values = summarise(evaluation) | mean_lrp(lrp)
        logger.info("AI-TOD metric: %s", _row(values))
        values = {f"m{name}": value for name, value in values.items() if name[:2] == "AP"} | values
        if self.classwise:
            per_class = {
                name: summarise(evaluation, i) | mean_lrp(lrp[i : i + 1])
                for i, name in enumerate(classes)
            }
            logger.info("\n%s", _class_table(per_class))
            for name, value in per_class.items():
                values |= {f"{name}_AP": value["AP"], f"{name}_oLRP": value["oLRP"]}
        return values

    def _truth(self, ids: Sequence[Hashable]) -> COCO:
        """The annotations with ids that the evaluation can use.

        It takes whole numbers only, and an annotation of id 0 for none. Images get their place in the order
        of their ids, which breaks ties between detections; categories their label + 1.
        """
        labels = {category: label for label, category in enumerate(ids, start=1)}
        annotations = [
            {
                **one,
                "id": number,
                "image_id": self._numbers[one["image_id"]],
                "category_id": labels[one["category_id"]],
            }
            for number, one in enumerate(self._document.get("annotations", ()), start=1)
            if one["category_id"] in labels and one["image_id"] in self._numbers
        ]
        images = [{"id": number} for number in self._numbers.values()]
        categories = [{"id": label, "name": str(label)} for label in labels.values()]
        document = {"images": images, "categories": categories, "annotations": annotations}
        return COCO(document)

    def _log_settings(self, logger: MMLogger, results: Results, detections: int) -> None:
        annotations = self._document.get("annotations", ())
        images, boxes = len(self._numbers), len(annotations)
        logger.info(
            "AI-TOD metric: %s; faster-coco-eval %s; %d images, %d boxes, %d detections",
            *(SETTINGS, __version__, images, boxes, detections),
        )
        strays = sum(one["image_id"] not in self._numbers for one in annotations)
        if strays:
            logger.warning(
                "AI-TOD metric: %d boxes are of images that %s lacks", strays, self.ann_file
            )
        if len(results) < images:
            logger.warning(
                "AI-TOD metric: %d of %d images have predictions, the others count as missed",
                *(len(results), images),
            )


def _coco_document(path: Path, ann_file: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"ann_file: expected json, {ann_file} is none: {error}") from error
    if not isinstance(document, dict) or not {"images", "categories"} <= document.keys():
        raise ValueError(f"ann_file: expected images and categories, as in COCO, in {ann_file}")
    return document


def _image_numbers(images: Sequence[dict[str, Any]], ann_file: str) -> dict[Hashable, int]:
    """The place of every image id, from 1, in ascending order; numbers before strings."""
    ids = sorted((image["id"] for image in images), key=lambda one: (isinstance(one, str), one))
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    if len(numbers) < len(ids):
        twice = next(one for one, other in pairwise(ids) if one == other)
        raise ValueError(f"ann_file: expected an id for each image, {ann_file} has {twice!r} twice")
    return numbers


def _detections(results: Results, ids: Sequence[Hashable]) -> list[dict[str, Any]]:
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


def _row(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _class_table(per_class: dict[str, dict[str, float]]) -> str:
    names = [name for name in next(iter(per_class.values())) if name.startswith(("AP", "oLRP"))]
    rows = [
        [label, *(f"{values[name]:.3f}" for name in names)] for label, values in per_class.items()
    ]
    return AsciiTable([["class", *names], *rows]).table
