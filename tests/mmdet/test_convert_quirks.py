"""What folders, images and label files out in the world look like: read, or refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from convert_both import BOTH, CAR, TILING, Convert, by_dota2, by_visdrone, prepared, refusal
from convert_files import quad, run_cli, write_image, write_rows

from efpn_mmdet.convert import dota2, visdrone
from efpn_mmdet.convert.coco import MalformedRow
from efpn_mmdet.convert.dota2 import Tiling

TWIN = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X  \xb0"


# What is read


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "\ufeff{row}\r\n",
        "\n \n{row}\n\n",
        "{row}\r{row}",
        "\u2028{row}",
        "\ufeffgsd:null\nimagesource:GoogleEarth\nacquisition dates: 2016-05-04\n{row}",
    ],
    ids=["byte order mark", "blank lines", "old line ends", "unicode space", "header lines"],
)
def test_harmless_text_is_read(tmp_path: Path, convert: Convert, row: str, text: str) -> None:
    if "gsd" in text and convert is by_visdrone:
        text = "\ufeff<bbox_left>,<bbox_top>,<bbox_width>\n{row}"
    prepared(tmp_path)
    path = tmp_path / "labels" / "one.txt"
    path.write_bytes(text.format(row=row).encode())
    boxes = convert(tmp_path).annotations
    assert [box["bbox"] for box in boxes] == [boxes[0]["bbox"]] * text.count("{row}")


@BOTH
def test_twins_and_folders_of_archives_are_left_out(
    tmp_path: Path, convert: Convert, row: str
) -> None:
    prepared(tmp_path, row)
    for folder, name in (("images", "one.png"), ("labels", "one.txt")):
        for path in (f"._{name}", f"__MACOSX/{name}", f".cache/{name}"):
            target = tmp_path / folder / path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(TWIN)
    assert len(convert(tmp_path).annotations) == 1


@pytest.mark.parametrize(
    "row",
    ["10.0,20,30.0,40,1.0,4.0,0,0", "10,20,30,40,1,4,0,0,7", " 10, 20, 30, 40, 1, 4, 0, 0,"],
)
def test_visdrone_numbers_as_people_write_them(tmp_path: Path, row: str) -> None:
    (box,) = by_visdrone(prepared(tmp_path, row)).annotations
    assert box["bbox"] == [10, 20, 30, 30]  # cut at the image's border
    assert box["category_id"] == 4


def test_dota_rows_as_people_write_them(tmp_path: Path) -> None:
    row = quad(1, 1, 9, 9)
    rows = (row, row.removesuffix(" 0"), row.removesuffix("0") + "1.0")
    boxes = by_dota2(prepared(tmp_path, *rows)).annotations
    assert [box["difficult"] for box in boxes] == [0, 0, 1]


def test_dota_folders_as_they_are_distributed(tmp_path: Path) -> None:
    row, folder = quad(1, 1, 9, 9), tmp_path / "labels"
    for part, stem in (("part4", "P2805"), ("part5", "P2900"), ("part5", "P2901")):
        write_image(tmp_path / "images" / part / f"{stem}.png", 64, 64)
    for stem in ("P2805", "P2900"):
        write_rows(folder / "DOTA-v2.0_train" / f"{stem}.txt", [row])
        write_rows(folder / "DOTA-v2.0_train_hbb" / f"{stem}.txt", [row, row])
    (folder / "DOTA-v2.0_train.zip").write_bytes(b"PK")
    builder = by_dota2(tmp_path)
    assert (len(builder.images), len(builder.annotations)) == (3, 2)
    assert len(dota2.convert(tmp_path / "images", None, tmp_path / "test", TILING).images) == 3
    horizontal = folder / "DOTA-v2.0_train_hbb"
    boxes = dota2.convert(tmp_path / "images", horizontal, tmp_path / "hbb", TILING).annotations
    assert len(boxes) == 4


@pytest.mark.parametrize("tile", [128, 48])
def test_objects_beyond_the_image_are_dropped_from_any_tile(tmp_path: Path, tile: int) -> None:
    """The image is 60 x 50; the last object has 60 % of its area on it, the one before 80 %."""
    rows = (quad(70, 10, 9, 9), quad(5, 55, 9, 9), quad(2, 2, 9, 9), quad(52, 5, 10, 8))
    prepared(tmp_path, *rows, quad(54, 20, 10, 8))
    tiling = Tiling(tile=tile, overlap=8)
    folders = (tmp_path / "images", tmp_path / "labels", tmp_path / "out")
    builder = dota2.convert(*folders, tiling)
    corners = {image["id"]: image["corner"] for image in builder.images}
    boxes = {
        tuple(np.add(box["bbox"], [*corners[box["image_id"]], 0, 0])) for box in builder.annotations
    }
    assert boxes == {(2, 2, 9, 9), (52, 5, 8, 8)}
    assert builder.dropped["in no tile"] == 3


# What is refused


@BOTH
def test_two_files_of_one_stem_are_named(tmp_path: Path, convert: Convert, row: str) -> None:
    prepared(tmp_path, row)
    write_rows(tmp_path / "labels" / "one.TXT", [row])
    assert "labels/one.TXT and " in refusal(convert, tmp_path)
    (tmp_path / "labels" / "one.TXT").unlink()
    write_image(tmp_path / "images" / "part2" / "one.jpg", 20, 20)
    message = refusal(convert, tmp_path)
    assert message.startswith("images: expected one file of each stem")
    assert "images/one.png and " in message and "part2/one.jpg" in message


@BOTH
@pytest.mark.parametrize(
    ("encoding", "line"), [("utf-16", 1), ("utf-16-be", 2), ("gb18030", 2)], ids=str
)
def test_text_that_is_not_utf8_is_named(
    tmp_path: Path, convert: Convert, row: str, encoding: str, line: int
) -> None:
    prepared(tmp_path)
    text = f"{row}\n{row} \u8f66\n"
    (tmp_path / "labels" / "one.txt").write_bytes(text.encode(encoding))
    assert f"one.txt:{line}: expected " in refusal(convert, tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "1_0", "0x1", "?"])
def test_what_is_no_finite_number_is_named(tmp_path: Path, value: str) -> None:
    bad = quad(1, 1, 9, 9).replace("1 1 ", f"{value} 1 ", 1)
    prepared(tmp_path, quad(1, 1, 9, 9), bad)
    assert "one.txt:2: expected numbers" in refusal(by_dota2, tmp_path)
    prepared(tmp_path, CAR, CAR.replace("20", value))
    assert "one.txt:2: expected 8 integers" in refusal(by_visdrone, tmp_path)


# Keeping going


@BOTH
def test_keep_going_collects_every_malformed_row(
    tmp_path: Path, convert: Convert, row: str
) -> None:
    prepared(tmp_path, row, "wrong", row, "nan")
    write_image(tmp_path / "images" / "two.png", 60, 50)
    (tmp_path / "labels" / "two.txt").write_bytes(row.encode("utf-16"))
    assert "one.txt:2: " in refusal(convert, tmp_path)
    builder = convert(tmp_path, keep_going=True)
    places = [Path(str(problem).split(": ")[0]).name for problem in builder.malformed]
    assert places == ["one.txt:2", "one.txt:4", "two.txt:1"]
    assert len(builder.annotations) == 2
    assert (builder.dropped["malformed row"], len(builder.images)) == (2, 1)
    assert builder.dropped["image whose labels cannot be read"] == 1


def test_keep_going_prints_them_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, CAR, "wrong", "1,2,3,4,1,12,0,0")
    folders = (tmp_path / "images", tmp_path / "labels")
    assert run_cli(visdrone, *folders, tmp_path / "a.json", "--keep-going") == 1
    printed = capsys.readouterr()
    assert "one.txt:2: expected 8 integers" in printed.err
    assert printed.err.rstrip().endswith("one.txt:3: category: expected 0 to 11, got 12")
    assert len(json.loads((tmp_path / "a.json").read_text())["annotations"]) == 1
    write_rows(tmp_path / "labels" / "one.txt", [CAR])
    assert run_cli(visdrone, *folders, tmp_path / "b.json", "--keep-going") == 0


def test_a_malformed_row_passes_between_processes() -> None:
    problem = pickle.loads(pickle.dumps(MalformedRow(Path("one.txt"), 3, "expected more")))
    assert str(problem) == "one.txt:3: expected more"
