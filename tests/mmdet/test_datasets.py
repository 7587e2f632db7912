"""The data sets: class lists, and labels by name whatever the order of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mmdet.registry")

from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from efpn_mmdet import datasets
from efpn_mmdet.classes import category_ids

SIZES = {"AITODDataset": 8, "VisDroneDataset": 10, "DOTA2HBBDataset": 18, "TinyDemoDataset": 7}


def write_coco(path: Path, names: list[str]) -> Path:
    """One image with one 10 x 10 box of every class, at x = 20 * position in the file."""
    document = {
        "images": [{"id": 5, "file_name": "a.png", "width": 800, "height": 800}],
        "categories": [{"id": 100 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 5,
                "category_id": 100 + i,
                "bbox": [20 * i, 0, 10, 10],
                "area": 100,
                "iscrowd": 0,
            }
            for i in range(len(names))
        ],
    }
    path.write_text(json.dumps(document))
    return path


def load(name: str, ann_file: Path, **settings: object) -> BaseDataset:
    prefix = {"img": str(ann_file.parent)}
    return DATASETS.build(
        {"type": name, "ann_file": str(ann_file), "data_prefix": prefix, "pipeline": [], **settings}
    )


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_class_lists(name: str, size: int) -> None:
    metainfo = DATASETS.get(name).METAINFO
    assert len(metainfo["classes"]) == len(set(metainfo["classes"])) == size
    assert len(metainfo["palette"]) == len(set(metainfo["palette"])) == size


@pytest.mark.parametrize("name", SIZES)
def test_labels_follow_the_class_list_not_the_file(tmp_path: Path, name: str) -> None:
    classes = getattr(datasets, name).METAINFO["classes"]
    names = ["something else", *reversed(classes)]
    dataset = load(name, write_coco(tmp_path / "a.json", names))
    instances = dataset.get_data_info(0)["instances"]
    labels = {int(box["bbox"][0] / 20): box["bbox_label"] for box in instances}
    assert labels == {names.index(label): index for index, label in enumerate(classes)}


def test_a_subset_of_the_classes(tmp_path: Path) -> None:
    ann_file = write_coco(tmp_path / "a.json", list(datasets.AITODDataset.METAINFO["classes"]))
    dataset = load("AITODDataset", ann_file, metainfo={"classes": ("person", "ship")})
    assert [box["bbox_label"] for box in dataset.get_data_info(0)["instances"]] == [1, 0]


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    ann_file = write_coco(tmp_path / "a.json", ["airplane", "bridge"])
    with pytest.raises(ValueError, match="missing: storage-tank, ship"):
        load("AITODDataset", ann_file)


def test_category_ids_keep_the_order_of_the_classes() -> None:
    categories = [{"id": 7, "name": "a"}, {"id": 3, "name": "b"}]
    assert category_ids(categories, ["b", "a"]) == [3, 7]
