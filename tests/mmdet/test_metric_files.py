"""The metric's annotation file, whatever its ids, and the detections that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mmdet.registry")

from metric_data import change, crowd_of_boxes, prediction, run_metric, write_truth

from efpn_mmdet.metric import AITODMetric


def test_ids_are_names(tmp_path: Path) -> None:
    """Numbers from 0, strings or a mixture: the values stay the same."""
    images, samples = crowd_of_boxes(seed=5)
    truth = write_truth(tmp_path / "truth.json", images)
    expected = run_metric(truth, samples)

    def rename(document: dict) -> None:
        for number, one in enumerate(document["annotations"]):
            one.update(
                id=number, image_id=f"img{one['image_id']}", category_id=f"c{one['category_id']}"
            )
        for one in document["images"]:
            one["id"] = f"img{one['id']}"
        for one in document["categories"]:
            one["id"] = f"c{one['id']}"

    change(truth, rename)
    renamed = [{**one, "img_id": f"img{one['img_id']}"} for one in samples]
    assert run_metric(truth, renamed) == expected
    change(truth, lambda document: [one.update(id=7) for one in document["annotations"]])
    assert run_metric(truth, renamed) == expected


def test_the_first_annotation_counts_whatever_its_id(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {0: [("car", (1, 1, 9, 9))]})
    change(truth, lambda document: document["annotations"][0].update(id=0))
    assert run_metric(truth, [prediction(0, [("car", (1, 1, 9, 9), 0.5)])])["AP"] == 1


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {1: [("car", (1, 1, 9, 9))]})
    with pytest.raises(ValueError, match=r"img_id: expected an image of .*truth\.json, got 2"):
        run_metric(truth, [prediction(2, [])])
    wrong = prediction(1, [("car", (1, 1, 9, 9), 0.5)])
    wrong["pred_instances"]["labels"] += 5
    with pytest.raises(
        ValueError, match=r"labels: expected 0 to 1 .* 2 classes, got 5; num_classes"
    ):
        run_metric(truth, [wrong])
    change(truth, lambda document: document["categories"].append({"id": 9, "name": "car"}))
    with pytest.raises(
        ValueError, match="expected one category 'car', it has 2 and 9 of that name"
    ):
        run_metric(truth, [prediction(1, [])])
    change(truth, lambda document: document["images"].append(document["images"][0]))
    with pytest.raises(
        ValueError, match=r"ann_file: expected an id for each image, .* has 1 twice"
    ):
        run_metric(truth, [])


def test_detections_are_written_as_coco(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json", {3: [("car", (10, 10, 10, 10))]})
    samples = [prediction(3, [("ship", (1, 2, 3, 4), 0.5)])]
    prefix = str(tmp_path / "new" / "run")
    assert "AP" in run_metric(truth, samples, outfile_prefix=prefix)
    written = Path(f"{prefix}.bbox.json")
    detection = {"image_id": 3, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    assert json.loads(written.read_text()) == [detection]
    written.unlink()
    change(truth, lambda document: document.pop("annotations"))
    assert run_metric(truth, samples, outfile_prefix=prefix, format_only=True) == {}
    assert json.loads(written.read_text()) == [detection]
    with pytest.raises(
        ValueError, match="outfile_prefix: expected a path with format_only, got None"
    ):
        AITODMetric(str(truth), format_only=True)


def test_a_file_that_is_no_coco_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    for text, message in (
        ("{", r"expected json, .*broken\.json is none"),
        ("[]", "expected images"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"ann_file: {message}"):
            AITODMetric(str(path))
