"""Images as mmdet's loader reads them, whole or not at all."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
_MAX_PIXELS = 1 << 30  # without the variable
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
LARGE = 1 << 26  # pixels, from which on memory counts


def read_image(path: Path) -> np.ndarray:
    """``[H, W, 3]`` BGR, turned as its EXIF orientation says, with its 8 or 16 bits a channel.

    A large PNG of 8 bits takes the memory of the result, 2.4 GB for 29 200 x 27 620 pixels; OpenCV needs twice
    as much for others, and three times for a TIFF.

    Raises:
        OSError: naming the file: no image, a part of it is missing, another depth, too many pixels.
    """
    width, height = _size(path)
    image = _read_plain_png(path, width, height) if width * height >= LARGE else None
    if image is None:
        image = _read(path)
    if image is None:
        raise OSError(f"{path}: cannot be read as an image, or a part of it is missing")
    if image.dtype not in (np.uint8, np.uint16):
        raise OSError(f"{path}: expected 8 or 16 bits a channel, got {image.dtype}")
    with path.open("rb") as stream:
        if stream.read(len(_JPEG)) == _JPEG:
            _check_jpeg(path)
    return image


def _read(path: Path, *into: np.ndarray) -> np.ndarray | None:
    try:
        return cv2.imread(str(path), *into, flags=cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise OSError(f"{path}: cannot be read as an image: {error}") from error


def _read_plain_png(path: Path, width: int, height: int) -> np.ndarray | None:
    """A PNG of 8 bits, row after row, that nothing turns; ``None`` for other files and incomplete ones.

    Into an array of the right size OpenCV decodes at once; otherwise it holds the image twice for a while. But
    it does not say then whether it succeeded: the last row does, which is random before.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        plain = data[:8] == _PNG and data[24] == 8 and data[28] == 0 and data.find(b"eXIf") < 0
    if not plain:
        return None
    image = np.empty((height, width, 3), np.uint8)
    unread = np.random.default_rng().integers(256, size=(width, 3), dtype=np.uint8)
    image[-1] = unread
    _read(path, image)
    return None if np.array_equal(image[-1], unread) else image


def _size(path: Path) -> tuple[int, int]:
    """Width and height as the file's header says, or 0 and 0 if Pillow cannot read it."""
    limit = int(os.environ.get(_PIXELS_VARIABLE) or _MAX_PIXELS)
    try:
        with _any_size(), Image.open(path) as image:
            width, height = image.size
    except (OSError, SyntaxError):
        return 0, 0  # OpenCV has the last word
    if width * height > limit:
        raise OSError(
            f"{path}: {width} x {height} pixels, OpenCV reads {limit}; cut it into parts, or set "
            f"{_PIXELS_VARIABLE} to more"
        )
    return width, height


def _check_jpeg(path: Path) -> None:
    """OpenCV makes the missing part of a JPEG grey and says nothing; of other formats it reads none."""
    try:
        with _any_size(), Image.open(path) as image:
            image.draft("L", (1, 1))  # all of the file, few of the pixels
            image.load()
    except OSError as error:
        raise OSError(f"{path}: a part of the image is missing: {error}") from error


@contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's guard against images that grow when they are read."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
