"""DOTA-v2 to tiles: pixels, the boxes that a tile keeps, counts, malformed rows, workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from convert_files import load, quad, run_cli, write_image, write_rows

from efpn_mmdet.classes import DOTA2
from efpn_mmdet.convert import dota2
from efpn_mmdet.convert.coco import CocoBuilder, MalformedRow
from efpn_mmdet.convert.dota2 import Tiling

HEADER = ("imagesource:GoogleEarth", "gsd:0.14")


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
    corners = {row["id"]: row["corner"] for row in document["images"]}
    in_image = {
        (DOTA2[box["bbox_label"]], *(np.tile(corners[image["img_id"]], 2) + box["bbox"]))
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
