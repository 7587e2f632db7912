"""The converters, on files made here: round trips, drop rules, counts, malformed rows, atomicity."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from mmdet.registry import DATASETS

from efpn_mmdet.convert import dota2, visdrone
from efpn_mmdet.convert.coco import CocoBuilder, MalformedRow, new_directory, write_json
from efpn_mmdet.convert.dota2 import Tiling


def write_image(path: Path, width: int, height: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)
    return image


def write_rows(path: Path, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def run_cli(module: ModuleType, *arguments: object) -> None:
    parser = ArgumentParser()
    module.add_arguments(parser)
    module.main(parser.parse_args([str(argument) for argument in arguments]))


def load(name: str, ann_file: Path, images: Path) -> list[dict]:
    dataset = DATASETS.build(
        {
            "type": name,
            "ann_file": str(ann_file),
            "data_prefix": {"img": str(images)},
            "pipeline": [],
        }
    )
    return [dataset.get_data_info(i) for i in range(len(dataset))]


# Shared


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"old": 1}, path)
    with pytest.raises(TypeError):
        write_json({"new": object()}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_block_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_files_is_never_replaced(tmp_path: Path) -> None:
    write_rows(tmp_path / "out" / "precious.txt", ["data"])
    with (
        pytest.raises(FileExistsError, match="expected a new or empty directory"),
        new_directory(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "precious.txt").exists()


def test_the_report_counts_everything() -> None:
    builder = CocoBuilder(("a", "b"))
    builder.add_box(builder.add_image("x.png", 10, 10), 1, (0, 0, 2, 3))
    builder.dropped["rule"] = 4
    assert [line.split() for line in builder.report().splitlines()] == [
        *(["images", "1"], ["boxes", "1"], ["a", "0"], ["b", "1"], ["dropped", "4"], ["rule", "4"]),
    ]


# VisDrone

VISDRONE_ROWS = (
    "10,20,30,40,1,4,0,0",  # car
    "1,2,3,4,1,1,1,2,",  # pedestrian, trailing comma
    "90,70,30,40,1,10,0,0",  # motor, reaches beyond 100 x 80
    "0,0,50,50,0,0,0,0",
    "5,5,5,5,1,11,0,0",
    "5,5,5,5,0,3,0,0",
    "5,5,0,5,1,3,0,0",
    "200,5,5,5,1,3,0,0",
)


def write_visdrone(folder: Path, rows: Sequence[str] = VISDRONE_ROWS) -> tuple[Path, Path]:
    write_image(folder / "images" / "one.jpg", 100, 80)
    write_image(folder / "images" / "two.jpg", 60, 40)
    write_rows(folder / "annotations" / "one.txt", rows)
    write_rows(folder / "annotations" / "two.txt", [])
    return folder / "images", folder / "annotations"


def test_visdrone_round_trip(tmp_path: Path) -> None:
    images, annotations = write_visdrone(tmp_path)
    out = tmp_path / "json" / "train.json"
    visdrone.convert(images, annotations, out)
    one, two = load("VisDroneDataset", out, images)
    assert Path(one["img_path"]) == images / "one.jpg"
    assert (one["width"], one["height"], two["width"], two["height"]) == (100, 80, 60, 40)
    found = [(box["bbox_label"], box["bbox"]) for box in one["instances"]]
    assert found == [(3, [10, 20, 40, 60]), (0, [1, 2, 4, 6]), (9, [90, 70, 100, 80])]
    assert two["instances"] == []
    first = json.loads(out.read_text())["annotations"][1]
    assert (first["truncation"], first["occlusion"], first["area"]) == (1, 2, 12)


def test_visdrone_counts_every_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_cli(visdrone, *write_visdrone(tmp_path), tmp_path / "out.json")
    printed = capsys.readouterr()
    counts = {" ".join(words[:-1]): words[-1] for words in map(str.split, printed.out.splitlines())}
    assert {rule: counts[rule] for rule in visdrone.DROP_RULES} == dict.fromkeys(
        visdrone.DROP_RULES, "1"
    )
    assert (counts["images"], counts["boxes"], counts["car"], counts["dropped"]) == tuple("2315")
    assert counts[visdrone.CUT] == "1"
    assert "2/2" in printed.err


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,3", "expected 8 integers, got '1,2,3'"),
        ("1,2,3,4,1,1,0,zero", "expected 8 integers"),
        ("1,2,3,4,1,12,0,0", "category: expected 0 to 11, got 12"),
    ],
)
def test_a_malformed_visdrone_row_names_file_and_line(
    tmp_path: Path, row: str, problem: str
) -> None:
    images, annotations = write_visdrone(tmp_path, [*VISDRONE_ROWS[:2], "", row])
    with pytest.raises(MalformedRow, match=f"one.txt:4: {problem}"):
        visdrone.convert(images, annotations, tmp_path / "out" / "a.json")
    assert not (tmp_path / "out").exists()


def test_files_without_their_partner_are_named(tmp_path: Path) -> None:
    images, annotations = write_visdrone(tmp_path)
    (annotations / "two.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"two.jpg: no annotations for it \(1 such files\)"):
        visdrone.convert(images, annotations, tmp_path / "a.json")
    with pytest.raises(NotADirectoryError, match="images: expected a directory"):
        visdrone.convert(tmp_path / "nothing", annotations, tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="images: expected .jpg, .jpeg, .png files"):
        visdrone.convert(annotations, annotations, tmp_path / "a.json")


# DOTA-v2

HEADER = ("imagesource:GoogleEarth", "gsd:0.14")


def quad(
    x: float, y: float, width: float, height: float, name: str = "plane", hard: int = 0
) -> str:
    return f"{x} {y} {x + width} {y} {x + width} {y + height} {x} {y + height} {name} {hard}"


def write_dota(
    folder: Path, rows: Sequence[str], width: int = 150, height: int = 90
) -> tuple[Path, Path]:
    write_image(folder / "images" / "P1.png", width, height)
    write_rows(folder / "labels" / "P1.txt", [*HEADER, *rows])
    return folder / "images", folder / "labels"


def convert_dota(folder: Path, rows: Sequence[str], **settings: object) -> tuple[CocoBuilder, dict]:
    tiling = Tiling(**{"tile": 64, "overlap": 16, **settings})
    out = folder / "out"
    builder = dota2.convert(*write_dota(folder, rows), out, tiling)
    return builder, json.loads((out / "annotations.json").read_text())


@pytest.mark.parametrize(
    ("length", "starts"),
    [(50, [0]), (64, [0]), (65, [0, 1]), (112, [0, 48]), (150, [0, 48, 86]), (160, [0, 48, 96])],
)
def test_tiles_cover_a_side_with_the_overlap(length: int, starts: list[int]) -> None:
    assert Tiling(tile=64, overlap=16).starts(length) == starts
    assert Tiling().starts(3000) == [0, 824, 1648, 1976]


def test_dota_tiles_hold_the_pixels_of_the_image(tmp_path: Path) -> None:
    images, labels = write_dota(tmp_path, [])
    image = cv2.imread(str(images / "P1.png"))
    dota2.convert(images, labels, tmp_path / "out", Tiling(tile=64, overlap=16))
    document = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [row["corner"] for row in document["images"]] == [
        *([0, 0], [48, 0], [86, 0], [0, 26], [48, 26], [86, 26]),
    ]
    for row in document["images"]:
        x, y = row["corner"]
        tile = cv2.imread(str(tmp_path / "out" / "images" / row["file_name"]))
        assert np.array_equal(tile, image[y : y + 64, x : x + 64])
        assert (row["width"], row["height"], row["source"]) == (64, 64, "P1")


def test_a_small_image_is_padded_to_a_tile(tmp_path: Path) -> None:
    images, labels = write_dota(tmp_path, [quad(2, 3, 10, 10)], width=40, height=30)
    dota2.convert(images, labels, tmp_path / "out", Tiling(tile=64, overlap=16))
    tile = cv2.imread(str(tmp_path / "out" / "images" / "P1__0_0.png"))
    assert tile.shape == (64, 64, 3)
    assert np.array_equal(tile[:30, :40], cv2.imread(str(images / "P1.png")))
    assert not tile[30:].any() and not tile[:, 40:].any()


def test_dota_round_trip(tmp_path: Path) -> None:
    _, document = convert_dota(tmp_path, [quad(50, 30, 10, 12, "helipad"), quad(100, 60, 8, 6)])
    data = load("DOTA2HBBDataset", tmp_path / "out" / "annotations.json", tmp_path / "out")
    names = DATASETS.get("DOTA2HBBDataset").METAINFO["classes"]
    corners = {row["id"]: row["corner"] for row in document["images"]}
    in_image = {
        (names[box["bbox_label"]], *(np.tile(corners[image["img_id"]], 2) + box["bbox"]))
        for image in data
        for box in image["instances"]
    }
    assert in_image == {("helipad", 50, 30, 60, 42), ("plane", 100, 60, 108, 66)}
    assert len(document["annotations"]) > len(in_image)  # the helipad lies in four tiles


@pytest.mark.parametrize(("inside", "kept"), [(7, True), (6.9, False)])
def test_a_tile_keeps_objects_from_70_percent_of_their_area(inside: float, kept: bool) -> None:
    quads = np.array([[[64 - inside, 0], [74 - inside, 0], [74 - inside, 10], [64 - inside, 10]]])
    indices, boxes, cut = dota2.boxes_inside(quads, (0, 0), Tiling(tile=64, overlap=16))
    assert indices.tolist() == ([0] if kept else [])
    assert cut == (0 if kept else 1)
    if kept:
        assert boxes.tolist() == [[57, 0, 7, 10]]


def test_a_rotated_object_gets_the_box_of_its_part_inside() -> None:
    diamond = np.array([[[60.0, 10], [70, 20], [60, 30], [50, 20]]])
    indices, boxes, _ = dota2.boxes_inside(diamond, (0, 0), Tiling(tile=64, overlap=16))
    assert indices.tolist() == [0]  # 1 - 0.18 of it lies inside
    np.testing.assert_allclose(boxes, [[50, 10, 14, 20]])


def test_crossed_corners_are_an_ordinary_object() -> None:
    bow_tie = np.array([[[0.0, 0], [10, 10], [10, 0], [0, 10]]])
    _, boxes, _ = dota2.boxes_inside(bow_tie, (0, 0), Tiling(tile=64, overlap=16))
    assert boxes.tolist() == [[0, 0, 10, 10]]


def test_dota_counts_every_rule(tmp_path: Path) -> None:
    rows = [
        quad(10, 10, 8, 8),
        quad(20, 10, 8, 8, hard=1),
        "5 5 9 9 5 5 9 9 ship 0",  # no area
        quad(0, 0, 150, 90, "airport"),  # larger than every tile
    ]
    builder, document = convert_dota(tmp_path, rows, drop_difficult=True)
    assert builder.dropped == {"no area": 1, "difficult": 1, "in no tile": 1}
    assert builder.noted["left out of a tile at its border"] == 6
    assert len(document["annotations"]) == 1
    assert document["info"]["settings"]["overlap"] == 16
    assert "in no tile" in builder.report()


def test_difficult_objects_are_marked_unless_dropped(tmp_path: Path) -> None:
    _, document = convert_dota(tmp_path, [quad(10, 10, 8, 8, hard=1)])
    assert [row["difficult"] for row in document["annotations"]] == [1]


def test_tiles_without_objects_can_be_skipped(tmp_path: Path) -> None:
    builder, document = convert_dota(tmp_path, [quad(2, 2, 8, 8)], skip_empty=True)
    files = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert files == [row["file_name"] for row in document["images"]] == ["P1__0_0.png"]
    assert builder.noted["tiles without objects, skipped"] == 5


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1 2 3 4 5 6 7 plane 0", "expected 8 numbers, category and difficulty"),
        ("1 2 3 4 5 6 7 x plane 0", "expected numbers"),
        (quad(1, 2, 3, 4, "car"), "category: expected one of DOTA-v2, got 'car'"),
        ("gsd:0.2", "expected 8 numbers"),  # a header in the middle
    ],
)
def test_a_malformed_dota_row_names_file_and_line(tmp_path: Path, row: str, problem: str) -> None:
    images, labels = write_dota(tmp_path, [quad(1, 1, 5, 5), row])
    with pytest.raises(MalformedRow, match=f"P1.txt:4: {problem}"):
        dota2.convert(images, labels, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    images, labels = write_dota(tmp_path, [])
    (images / "P1.png").write_text("not an image")
    with pytest.raises(OSError, match=r"P1.png: cannot be read as an image"):
        dota2.convert(images, labels, tmp_path / "out")


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "images" / f"P{index}.png", 80, 70, seed=index)
        write_rows(tmp_path / "labels" / f"P{index}.txt", [quad(index, 5, 20, 20)])
    results = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        arguments = ("--tile", 64, "--overlap", 16, "--workers", workers)
        run_cli(dota2, tmp_path / "images", tmp_path / "labels", out, *arguments)
        results.append({path.name: path.read_bytes() for path in out.rglob("*.*")})
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 64, "overlap": 64}, r"overlap: expected 0 <= overlap < tile \(64\), got 64"),
        ({"min_part": 0.0}, "min_part: expected 0 < min_part <= 1, got 0.0"),
    ],
)
def test_bad_tilings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiling(**settings)
