"""The AI-TOD metric by hand, and against pycocotools with the same parameters."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from metric_data import CLASSES, crowd_of_boxes, prediction, run_metric, write_truth
from mmengine.logging import MMLogger
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from efpn_mmdet.metric import AITODMetric


def test_perfect_predictions_score_one_in_every_area_that_has_boxes(tmp_path: Path) -> None:
    boxes = [("car", (10, 10, 6, 6)), ("ship", (100, 100, 12, 12)), ("car", (200, 200, 40, 40))]
    truth = write_truth(tmp_path / "truth.json", {1: boxes})
    values = run_metric(truth, [prediction(1, [(*box, 0.9) for box in boxes])])
    present = ("AP", "AP_0.25", "AP_0.5", "AP_0.75", "AP_vt", "AP_t", "AP_m", "AR_1500", "AR_vt")
    assert all(values[name] == pytest.approx(1) for name in present)
    assert values["AP_s"] == values["AR_s"] == -1


def test_the_names_and_their_order(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (10, 10, 6, 6))]})
    assert list(run_metric(truth, [prediction(1, [])])) == [
        *("mAP", "mAP_0.25", "mAP_0.5", "mAP_0.75", "mAP_vt", "mAP_t", "mAP_s", "mAP_m"),
        *("AP", "AP_0.25", "AP_0.5", "AP_0.75", "AP_vt", "AP_t", "AP_s", "AP_m"),
        *("AR_100", "AR_300", "AR_1500", "AR_vt", "AR_t", "AR_s", "AR_m"),
        *("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN"),
    ]


def test_a_shifted_box_counts_below_its_iou_only(tmp_path: Path) -> None:
    """A 10 x 10 box moved by 4 has IoU 60 / 140 = 0.43; by 2, 80 / 120 = 0.67."""
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (10, 10, 10, 10))]})
    loose = run_metric(truth, [prediction(1, [("car", (14, 10, 10, 10), 0.9)])])
    assert (loose["AP_0.25"], loose["AP_0.5"], loose["AP"]) == (pytest.approx(1), 0, 0)
    closer = run_metric(truth, [prediction(1, [("car", (12, 10, 10, 10), 0.9)])])
    assert (closer["AP_0.5"], closer["AP_0.75"]) == (pytest.approx(1), 0)
    assert closer["AP"] == pytest.approx(4 / 10)  # 0.50, 0.55, 0.60 and 0.65 of ten thresholds


def test_a_false_positive_ranked_first_halves_the_precision(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (10, 10, 10, 10))]})
    rows = [("car", (300, 300, 10, 10), 0.9), ("car", (10, 10, 10, 10), 0.5)]
    assert run_metric(truth, [prediction(1, rows)])["AP"] == pytest.approx(0.5)


def test_half_of_the_boxes_found(tmp_path: Path) -> None:
    """Precision 1 up to recall 0.5: 51 of the 101 recall points."""
    boxes = [("car", (10, 10, 10, 10)), ("car", (50, 50, 10, 10))]
    truth = write_truth(tmp_path / "truth.json", {1: boxes})
    values = run_metric(truth, [prediction(1, [(*boxes[0], 0.9)])])
    assert values["AP"] == pytest.approx(51 / 101)
    assert values["AR_1500"] == pytest.approx(0.5)


def test_up_to_1500_detections_of_an_image_count(tmp_path: Path) -> None:
    grid = [("car", (12.0 * (i % 40), 12.0 * (i // 40), 8, 8)) for i in range(1600)]
    truth = write_truth(tmp_path / "truth.json", {1: grid})
    values = run_metric(
        truth, [prediction(1, [(*box, 1 - i / 2000) for i, box in enumerate(grid)])]
    )
    assert values["AR_100"] == pytest.approx(100 / 1600)
    assert values["AR_300"] == pytest.approx(300 / 1600)
    assert values["AR_1500"] == pytest.approx(1500 / 1600)


def test_no_predictions_score_zero(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (1, 1, 9, 9))], 2: []})
    values = run_metric(truth, [prediction(1, []), prediction(2, [])])
    assert values["AP"] == values["AR_1500"] == 0


def pycocotools_values(truth: Path, samples: list[dict]) -> dict[str, float]:
    """The same numbers by pycocotools' own evaluation and summary."""
    coco = COCO(str(truth))
    detections = []
    for sample in samples:
        predicted = sample["pred_instances"]
        columns = (predicted["bboxes"], predicted["scores"], predicted["labels"])
        for (x1, y1, x2, y2), score, label in zip(*(c.tolist() for c in columns), strict=True):
            category = coco.getCatIds(catNms=[CLASSES[label]])[0]
            box = [x1, y1, x2 - x1, y2 - y1]
            detections.append(
                {
                    "image_id": sample["img_id"],
                    "category_id": category,
                    "bbox": box,
                    "score": score,
                }
            )
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.maxDets = [100, 300, 1500]
    evaluation.params.areaRng = [[0, 1e10], [0, 64], [64, 256], [256, 1024], [1024, 1e10]]
    evaluation.params.areaRngLbl = ["all", "vt", "t", "s", "m"]

    def values(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        evaluation.params.iouThrs = thresholds
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"], evaluation.eval["recall"]

    def mean(array: np.ndarray) -> float:
        return float(np.mean(array[array > -1])) if (array > -1).any() else -1.0

    precision, recall = values(np.linspace(0.5, 0.95, 10))
    result = {"AP": mean(precision[..., 0, 2])}
    result["AP_0.25"] = mean(values(np.array([0.25]))[0][..., 0, 2])
    result |= {"AP_0.5": mean(precision[0, ..., 0, 2]), "AP_0.75": mean(precision[5, ..., 0, 2])}
    result |= {f"AR_{n}": mean(recall[..., 0, i]) for i, n in enumerate((100, 300, 1500))}
    for index, label in enumerate(("vt", "t", "s", "m"), start=1):
        result[f"AP_{label}"] = mean(precision[..., index, 2])
        result[f"AR_{label}"] = mean(recall[..., index, 2])
    return result


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools_with_the_same_parameters(tmp_path: Path, seed: int) -> None:
    images, samples = crowd_of_boxes(seed)
    truth = write_truth(tmp_path / "truth.json", images)
    values, expected = run_metric(truth, samples), pycocotools_values(truth, samples)
    expected |= {f"m{name}": value for name, value in expected.items() if name[:2] == "AP"}
    values = {name: value for name, value in values.items() if "oLRP" not in name}
    assert set(values) == set(expected)
    assert values == pytest.approx(expected, abs=1e-12)
    assert 0.05 < values["AP"] < 0.95


def test_classwise_values_average_to_the_total(tmp_path: Path) -> None:
    images, samples = crowd_of_boxes(seed=3)
    truth = write_truth(tmp_path / "truth.json", images)
    values = run_metric(truth, samples, classwise=True)
    assert values["AP"] == pytest.approx((values["car_AP"] + values["ship_AP"]) / 2)
    only_cars = {image: [row for row in rows if row[0] == "car"] for image, rows in images.items()}
    cars = run_metric(write_truth(tmp_path / "cars.json", only_cars), samples)
    assert values["car_AP"] == pytest.approx(cars["AP"])  # ships have no truth there: -1, left out


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger=logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_the_settings_are_logged_with_the_values(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (1, 1, 9, 9))], 2: []})
    run_metric(truth, [prediction(1, [("car", (1, 1, 9, 9), 0.5)])], classwise=True)
    for text in (
        "IoU 0.50:0.05:0.95",
        "at most 1500 detections",
        "verytiny [0, 8^2]",
        "faster-coco-eval",
        "2 images, 1 boxes, 1 detections",
        "1 of 2 images have predictions",
        "AP_vt",
        "| car ",
    ):
        assert text in log.text


def test_a_metric_can_be_evaluated_again(tmp_path: Path) -> None:
    images, samples = crowd_of_boxes(seed=4)
    metric = AITODMetric(str(write_truth(tmp_path / "truth.json", images)))
    metric.dataset_meta = {"classes": CLASSES}
    values = []
    for _ in range(2):
        metric.process({}, samples)
        values.append(metric.evaluate(size=len(samples)))
    assert values[0] == values[1]


def test_a_class_that_the_file_does_not_know_is_an_error(tmp_path: Path) -> None:
    metric = AITODMetric(str(write_truth(tmp_path / "truth.json", {1: []})))
    metric.dataset_meta = {"classes": ("car", "plane")}
    metric.process({}, [prediction(1, [])])
    with pytest.raises(ValueError, match="it has ship, car; missing: plane"):
        metric.evaluate(size=1)
