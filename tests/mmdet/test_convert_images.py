"""Images that the converters read as the loader does, or refuse by name; the memory that it takes."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet.registry")

from convert_both import BOTH, Convert, by_dota2, by_visdrone, prepared, refusal
from convert_files import quad, write_rows
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from efpn_mmdet.convert import images


@pytest.fixture(params=["small", "large"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every image is read as small and as large ones are."""
    if request.param == "large":
        monkeypatch.setattr(images, "LARGE", 1)
    return request.param


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


def test_tiles_hold_the_pixels_of_the_image(tmp_path: Path, kind: str) -> None:
    prepared(tmp_path)
    path = tmp_path / "images" / "one.png"
    colours = np.random.default_rng(1).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    cv2.imwrite(str(path), colours)
    assert isinstance(images.read_image(path), images.LargeImage) == (kind == "large")
    by_dota2(tmp_path)
    for corner in ((0, 0), (48, 36), (66, 36)):
        x, y = corner
        tile = cv2.imread(str(tmp_path / "out" / "images" / f"one__{x}_{y}.png"))
        assert np.array_equal(tile, colours[y : y + 64, x : x + 64])


def test_tiles_keep_16_bits(tmp_path: Path) -> None:
    prepared(tmp_path)
    deep = np.random.default_rng(0).integers(0, 1 << 16, (50, 60, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "images" / "one.png"), deep)
    by_dota2(tmp_path)
    tile = cv2.imread(str(tmp_path / "out" / "images" / "one__0_0.png"), cv2.IMREAD_UNCHANGED)
    assert tile.dtype == np.uint16 and np.array_equal(tile[:50, :60], deep)


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


PEAK = """
import importlib.util, re, sys
from pathlib import Path


def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


spec = importlib.util.spec_from_file_location("images", sys.argv[1])
images = importlib.util.module_from_spec(spec)
spec.loader.exec_module(images)
images.LARGE = int(sys.argv[3])
before = peak()
image = images.read_image(Path(sys.argv[2]))
print((peak() - before) / (3 * image.shape[0] * image.shape[1]))
"""


def test_a_large_png_takes_four_bytes_a_pixel(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((4000, 4000, 3), np.uint8))
    command = [sys.executable, "-c", PEAK, images.__file__, str(path), str(images.LARGE)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(result.stdout) < (1.5 if kind == "large" else 2.3)
