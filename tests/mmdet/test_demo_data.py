"""The demo data: deterministic, exact boxes, halves apart, sources of the sky."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet.registry")
pytest.importorskip("skimage")

from mmdet.registry import DATASETS
from PIL import Image
from skimage import data

from efpn_mmdet import demo_data
from efpn_mmdet.classes import DEMO
from efpn_mmdet.demo import sky
from efpn_mmdet.demo.ground import STYLES, photographs
from efpn_mmdet.demo.layer import SUPERSAMPLING, Layer, extent
from efpn_mmdet.demo.objects import KINDS, Part, rotation
from efpn_mmdet.demo.scene import compose


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    demo_data.build(out, images=10, size=128, seed=3)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_same_seed_gives_the_same_files(built: Path, tmp_path: Path) -> None:
    demo_data.build(tmp_path / "again", images=10, size=128, seed=3)
    assert files(tmp_path / "again") == files(built)
    demo_data.build(tmp_path / "other", images=10, size=128, seed=4)
    other = files(tmp_path / "other")
    changed = {name for name, content in files(built).items() if other[name] != content}
    assert {name for name in other if "hubble" not in name} == changed


def test_the_data_set_loads(built: Path) -> None:
    for split, scenes in (("train", 8), ("test", 2)):
        dataset = DATASETS.build(
            {
                "type": "TinyDemoDataset",
                "ann_file": str(built / f"{split}.json"),
                "data_prefix": {"img": str(built / "images")},
                "pipeline": [],
            }
        )
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        assert sum("hubble" not in info["img_path"] for info in infos) == scenes
        assert all(Image.open(info["img_path"]).size == (128, 128) for info in infos)
        document = json.loads((built / f"{split}.json").read_text())
        assert sum(len(info["instances"]) for info in infos) == len(document["annotations"])


def test_boxes_are_tiny_and_inside(built: Path) -> None:
    document = json.loads((built / "train.json").read_text())
    boxes = np.array([row["bbox"] for row in document["annotations"]])
    scenes = {row["id"] for row in document["images"] if "hubble" not in row["file_name"]}
    composed = np.array([row["image_id"] in scenes for row in document["annotations"]])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 128).all()
    longest = boxes[composed, 2:].max(1)
    assert composed.sum() > 20 and longest.min() >= 3 and longest.max() <= 33
    assert np.median(longest) < 20
    names = {DEMO[row["category_id"] - 1] for row in document["annotations"]}
    assert names == set(DEMO)


def test_train_and_test_take_the_two_halves_of_a_photograph() -> None:
    train, test = (dict(photographs(split)) for split in demo_data.SPLITS)
    for name in STYLES:
        whole = np.concatenate([train[name].grey, test[name].grey], axis=1)
        assert np.array_equal(whole, getattr(data, name)().astype(np.float32) / 255)
        assert train[name].grey.shape == test[name].grey.shape


def test_train_and_test_share_no_part_of_the_sky(built: Path) -> None:
    field = sky.deep_field()
    for split, columns in (("train", field[:, :872]), ("test", field[:, 872:])):
        for path in sorted((built / "images").glob(f"{split}_hubble_*.png")):
            left, top = map(int, path.stem.split("_")[2:])
            assert left + 128 <= 872 if split == "train" else left >= 872
            part = columns[top : top + 128, left % 872 : left % 872 + 128]
            assert np.array_equal(np.asarray(Image.open(path)), part)


@pytest.mark.parametrize("name", KINDS)
def test_boxes_are_the_painted_pixels(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        turn = rotation(rng.uniform(0, 2 * np.pi)).T * KINDS[name].longest
        parts = [
            Part(part.polygon @ turn + (32.3, 31.6), part.colour) for part in KINDS[name].draw(rng)
        ]
        layer = Layer(64)
        for part in parts:
            layer.fill(part.polygon, part.colour)
        painted = layer.over(np.full((64, 64, 3), 9.0), darkness=0).mean(2) < 9
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        outer = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(extent(parts) - outer).max() < 1 + 1 / SUPERSAMPLING


def test_objects_of_different_groups_never_overlap() -> None:
    rng = np.random.default_rng(1)
    _, boxes = compose(photographs("train")[0][1], 256, rng)
    singles = [np.array(box.extent) for box in boxes if box.name in ("swimming-pool", "person")]
    for index, one in enumerate(singles):
        for other in singles[:index]:
            assert (one[:2] >= other[2:]).any() or (other[:2] >= one[2:]).any()


def test_sources_of_a_made_sky_are_found() -> None:
    y, x = np.mgrid[:200, :200]
    rng = np.random.default_rng(0)
    image = rng.normal(20, 2, (200, 200))
    centres = [(40, 50), (120, 60), (133, 60), (90, 150)]  # the second and the third nearly touch
    for cx, cy in centres:
        image += 150 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.5**2))
    boxes = sky.find_sources(np.repeat(image[..., None], 3, axis=2).clip(0, 255).astype(np.uint8))
    found = sorted(map(tuple, ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()))
    assert np.abs(np.array(found) - sorted(centres)).max() <= 2
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 7).all() and (boxes[:, 2:] - boxes[:, :2] <= 19).all()


def test_the_deep_field_has_hundreds_of_sources() -> None:
    assert 300 < len(sky.find_sources(sky.deep_field())) < 1500


def test_a_tile_keeps_boxes_that_lie_in_it_by_seventy_percent() -> None:
    boxes = np.array([[10, 10, 20, 20], [93, 0, 103, 10], [94, 0, 104, 10], [200, 0, 210, 10]])
    assert sky.boxes_in(boxes, 0, 0, 100).tolist() == [[10, 10, 20, 20], [93, 0, 100, 10]]
    assert sky.boxes_in(boxes, 94, 0, 100).tolist() == [[0, 0, 9, 10], [0, 0, 10, 10]]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    demo_data.add_arguments(parser)
    arguments = [str(tmp_path / "out"), "--images", "2", "--size", "128", "--seed", "1"]
    demo_data.main(parser.parse_args(arguments))
    printed = capsys.readouterr()
    assert "galaxy" in printed.out and "2/2" in printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("train.json", "test.json", "images"),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": -1}, "images: expected 0 or more, got -1"),
        ({"size": 32}, "size: expected 64 to 500, got 32"),
        ({"size": 512}, "size: expected 64 to 500, got 512"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo_data.build(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
