"""What folders, images and label files out in the world look like: read, or refused by name."""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from convert_files import quad, run_cli, write_image, write_rows
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations  # noqa: F401  registers the loaders
from PIL import Image

from efpn_mmdet.convert import dota2, visdrone
from efpn_mmdet.convert.coco import CocoBuilder, MalformedRow
from efpn_mmdet.convert.dota2 import Tiling

CAR = "10,20,30,40,1,4,0,0"
TILING = Tiling(tile=64, overlap=16)
TWIN = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X  \xb0"


def by_visdrone(folder: Path, **settings: object) -> CocoBuilder:
    return visdrone.convert(folder / "images", folder / "labels", folder / "out.json", **settings)


def by_dota2(folder: Path, **settings: object) -> CocoBuilder:
    arguments = (folder / "images", folder / "labels", folder / "out", TILING)
    return dota2.convert(*arguments, **settings)


BOTH = pytest.mark.parametrize(
    ("convert", "row"),
    [(by_visdrone, CAR), (by_dota2, quad(1, 1, 9, 9))],
    ids=["visdrone", "dota2"],
)
Convert = Callable[..., CocoBuilder]


def prepared(folder: Path, *rows: str, image: str = "one.png") -> Path:
    """A folder with one image and its rows."""
    write_image(folder / "images" / image, 60, 50)
    write_rows(folder / "labels" / "one.txt", rows)
    return folder


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


def exif(path: Path, orientation: int) -> None:
    image = Image.open(path)
    tags = Image.Exif()
    tags[0x0112] = orientation
    image.save(path, exif=tags.tobytes())


@pytest.mark.parametrize("name", ["one.jpg", "one.png"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_images_are_turned_as_the_loader_turns_them(
    tmp_path: Path, name: str, orientation: int
) -> None:
    prepared(tmp_path, "5,50,20,8,1,4,0,0", image=name)
    path = tmp_path / "images" / name
    exif(path, orientation)
    loaded = LoadImageFromFile()({"img_path": str(path)})["img"]
    (image,) = by_visdrone(tmp_path).images
    assert (image["height"], image["width"]) == loaded.shape[:2]
    write_rows(tmp_path / "labels" / "one.txt", [quad(5, 50, 20, 8)])
    builder = by_dota2(tmp_path)
    tile = cv2.imread(str(tmp_path / "out" / "images" / "one__0_0.png"))
    assert np.array_equal(tile[: loaded.shape[0], : loaded.shape[1]], loaded)
    assert len(builder.annotations) == (1 if orientation == 6 else 0)


def test_tiles_keep_16_bits(tmp_path: Path) -> None:
    prepared(tmp_path)
    deep = np.random.default_rng(0).integers(0, 1 << 16, (50, 60, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "images" / "one.png"), deep)
    by_dota2(tmp_path)
    tile = cv2.imread(str(tmp_path / "out" / "images" / "one__0_0.png"), cv2.IMREAD_UNCHANGED)
    assert tile.dtype == np.uint16 and np.array_equal(tile[:50, :60], deep)


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


def refusal(convert: Convert, folder: Path, **settings: object) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        convert(folder, **settings)
    assert not (folder / "out").exists() and not (folder / "out.json").exists()
    return str(raised.value)


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


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


@BOTH
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_cut_image_is_named(
    tmp_path: Path, convert: Convert, row: str, suffix: str, part: float
) -> None:
    name = f"one.{suffix}"
    prepared(tmp_path, row, image=name)
    cut(tmp_path / "images" / name, part)
    assert refusal(convert, tmp_path).startswith(str(tmp_path / "images" / name))


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_a_cut_tile_source_is_named(tmp_path: Path, suffix: str) -> None:
    prepared(tmp_path, image=f"one.{suffix}")
    cut(tmp_path / "images" / f"one.{suffix}", 0.9)
    assert f"one.{suffix}: cannot be read" in refusal(by_dota2, tmp_path)


def test_a_depth_that_no_png_has_is_named(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "images" / "one.png").unlink()
    cv2.imwrite(str(tmp_path / "images" / "one.tif"), np.ones((9, 9, 3), np.float32))
    assert "one.tif: expected 8 or 16 bits a channel, got float32" in refusal(by_dota2, tmp_path)


@BOTH
def test_more_pixels_than_opencv_reads_are_named(
    tmp_path: Path, convert: Convert, row: str
) -> None:
    prepared(tmp_path, row)
    header = struct.pack(">IIBBBBB", 40_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(100)), b"IEND"):
        png += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "images" / "one.png").write_bytes(png)
    assert "one.png: 40000 x 30000 pixels, OpenCV reads 1073741824" in refusal(convert, tmp_path)


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
