"""Annotation files and predictions for the tests of the metric, and a run of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import METRICS

import efpn_mmdet.metric  # noqa: F401  registers it

CLASSES = ("car", "ship")
Box = tuple[float, float, float, float]


def write_truth(path: Path, images: dict[int, list[tuple[str, Box]]]) -> Path:
    """A COCO file; boxes are xywh. Category ids run against the order of ``CLASSES``."""
    ids = {"ship": 1, "car": 2}
    annotations = [
        {
            "id": 0,
            "image_id": image,
            "category_id": ids[name],
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for image, boxes in images.items()
        for name, box in boxes
    ]
    for index, annotation in enumerate(annotations):
        annotation["id"] = index + 1
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 800, "height": 800} for i in images],
        "categories": [{"id": category, "name": name} for name, category in ids.items()],
        "annotations": annotations,
    }
    path.write_text(json.dumps(document))
    return path


def prediction(image: int, rows: list[tuple[str, Box, float]]) -> dict:
    """A data sample as mmdet hands it to a metric; boxes are xywh here, xyxy there."""
    boxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "img_id": image,
        "pred_instances": {
            "bboxes": boxes,
            "scores": torch.tensor([score for *_, score in rows], dtype=torch.float64),
            "labels": torch.tensor([CLASSES.index(name) for name, *_ in rows], dtype=torch.long),
        },
    }


def run_metric(truth: Path, samples: list[dict], **settings: object) -> dict[str, float]:
    metric = METRICS.build({"type": "AITODMetric", "ann_file": str(truth), **settings})
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, samples)
    values = metric.evaluate(size=len(samples))
    return {name.removeprefix("aitod/"): value for name, value in values.items()}


def crowd_of_boxes(seed: int) -> tuple[dict[int, list[tuple[str, Box]]], list[dict]]:
    """Images with boxes in every area, and noisy, missed and invented predictions."""
    rng = np.random.default_rng(seed)
    images, samples = {}, []
    for image in range(6):
        boxes, rows = [], []
        for _ in range(int(rng.integers(0, 60))):
            sides = np.exp(rng.uniform(np.log(3), np.log(60), size=2))
            box = np.concatenate([rng.uniform(0, 740, size=2), sides])
            name = CLASSES[int(rng.integers(2))]
            boxes.append((name, tuple(box.tolist())))
            if rng.random() < 0.8:
                moved = box + rng.normal(0, 0.1, size=4) * np.tile(sides, 2)
                rows.append((name, tuple(moved.tolist()), float(rng.random())))
        for _ in range(int(rng.integers(0, 30))):
            box = np.concatenate([rng.uniform(0, 740, size=2), rng.uniform(3, 60, size=2)])
            rows.append((CLASSES[int(rng.integers(2))], tuple(box.tolist()), float(rng.random())))
        images[image + 1] = boxes
        samples.append(prediction(image + 1, rows))
    return images, samples


def change(truth: Path, edit: Callable[[dict], None]) -> Path:
    document = json.loads(truth.read_text())
    edit(document)
    truth.write_text(json.dumps(document))
    return truth
