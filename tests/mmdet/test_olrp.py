"""oLRP by hand, and against a sweep over pycocotools' own matches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from metric_data import CLASSES, change, crowd_of_boxes, prediction, run_metric, write_truth
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
CAR = ("car", (10, 10, 10, 10))


def lrp(truth: Path, samples: list[dict]) -> list[float]:
    values = run_metric(truth, samples)
    return [values[name] for name in NAMES]


def test_perfect_detections_have_no_error(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [CAR]})
    assert lrp(truth, [prediction(1, [(*CAR, 0.9)])]) == [0, 0, 0, 0]


def test_what_is_not_found_is_all_error(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [CAR]})
    assert lrp(truth, [prediction(1, [])]) == [1, -1, -1, 1]
    elsewhere = prediction(1, [("car", (300, 300, 9, 9), 0.9)])
    assert lrp(truth, [elsewhere]) == [1, -1, -1, 1]


def test_no_objects_have_no_value(tmp_path: Path) -> None:
    assert lrp(write_truth(tmp_path / "t.json", {1: []}), [prediction(1, [])]) == [-1] * 4


def test_the_best_threshold_is_taken(tmp_path: Path) -> None:
    """IoU 0.8 first, then a false one, then IoU 1, of three objects.

    After one detection (0.2 / 0.5 + 2) / 3 = 0.8, after two (0.4 + 1 + 2) / 4 = 0.85, after all three
    (0.4 + 1 + 1) / 4 = 0.6.
    """
    objects = [CAR, ("car", (50, 50, 10, 10)), ("car", (90, 90, 10, 10))]
    truth = write_truth(tmp_path / "truth.json", {1: objects})
    rows = [("car", (10, 10, 10, 8), 0.9), ("car", (300, 300, 9, 9), 0.8), (*objects[1], 0.7)]
    expected = [0.6, 0.2 / 2, 1 / 3, 1 / 3]
    assert lrp(truth, [prediction(1, rows)]) == pytest.approx(expected)
    only_first = [0.8, 0.2, 0, 2 / 3]
    assert lrp(truth, [prediction(1, rows[:2])]) == pytest.approx(only_first)


def pycocotools_lrp(truth: Path, samples: list[dict]) -> list[float]:
    """Sweeps the score over the matches of ``COCOeval.evaluateImg``, threshold by threshold."""
    coco = COCO(str(truth))
    detections = []
    for sample in samples:
        found = sample["pred_instances"]
        for box, score, label in zip(found["bboxes"], found["scores"], found["labels"]):
            x1, y1, x2, y2 = box.tolist()
            category = coco.getCatIds(catNms=[CLASSES[int(label)]])[0]
            one = {"image_id": sample["img_id"], "category_id": category, "score": score.item()}
            detections.append({**one, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.maxDets = [1500]
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.evaluate()
    rows = []
    for category in evaluation.params.catIds:
        scored, objects = [], 0
        for one in evaluation.evalImgs:
            if one is None or one["category_id"] != category:
                continue
            objects += sum(not ignored for ignored in one["gtIgnore"])
            ious = evaluation.ious[one["image_id"], category]
            numbers = {
                annotation: index
                for index, annotation in enumerate(
                    annotation["id"] for annotation in evaluation._gts[one["image_id"], category]
                )
            }
            matched, ignored = one["dtMatches"][0], one["dtIgnore"][0]
            for index, (score, other) in enumerate(zip(one["dtScores"], matched)):
                if not ignored[index]:
                    iou = ious[index][numbers[int(other)]] if other else 0.0
                    scored.append((score, iou))
        best = (math.inf,)
        for threshold, _ in scored:
            chosen = [iou for score, iou in scored if score >= threshold]
            true = [iou for iou in chosen if iou > 0]
            false, missed = len(chosen) - len(true), objects - len(true)
            location = sum(1 - iou for iou in true)
            error = (location / 0.5 + false + missed) / (len(true) + false + missed)
            if true:
                parts = (location / len(true), false / len(chosen), missed / objects)
                best = min(best, (error, *parts))
        rows.append(best)
    return np.mean(rows, axis=0).tolist()


@pytest.mark.parametrize("seed", range(2))
def test_equal_to_a_sweep_over_pycocotools_matches(tmp_path: Path, seed: int) -> None:
    images, samples = crowd_of_boxes(seed)
    truth = write_truth(tmp_path / "truth.json", images)
    values = lrp(truth, samples)
    assert values == pytest.approx(pycocotools_lrp(truth, samples), abs=1e-9)
    assert all(0.02 < value < 0.98 for value in values)


def test_a_crowds_detections_count_neither_way(tmp_path: Path) -> None:
    images, samples = crowd_of_boxes(seed=2)
    truth = write_truth(tmp_path / "truth.json", images)
    change(truth, lambda document: [one.update(iscrowd=1) for one in document["annotations"][:9]])
    assert lrp(truth, samples) == pytest.approx(pycocotools_lrp(truth, samples), abs=1e-9)


def test_every_class_has_its_own(tmp_path: Path) -> None:
    images, samples = crowd_of_boxes(seed=3)
    truth = write_truth(tmp_path / "truth.json", images)
    values = run_metric(truth, samples, classwise=True)
    assert values["oLRP"] == pytest.approx((values["car_oLRP"] + values["ship_oLRP"]) / 2)
