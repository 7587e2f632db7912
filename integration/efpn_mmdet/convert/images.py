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


class LargeImage:
    """A PNG of 8 bits in Pillow's four bytes a pixel; of an array it has the shape, the type and windows.

    OpenCV would hold it twice for a while: six bytes a pixel.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.shape = (image.height, image.width, 3)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """``[h, w, 3]`` BGR of ``[top:bottom, left:right]``."""
        (top, bottom, _), (left, right, _) = (
            one.indices(length) for one, length in zip(window, self.shape, strict=False)
        )
        part = np.asarray(self._image.crop((left, top, right, bottom)))
        return np.ascontiguousarray(part[..., ::-1])


def read_image(path: Path) -> np.ndarray | LargeImage:
    """``[H, W, 3]`` BGR, turned as its EXIF orientation says, with its 8 or 16 bits a channel.

    Raises:
        OSError: naming the file: no image, a part of it is missing, another depth, too many pixels.
    """
    width, height = _size(path)
    if width * height >= LARGE and _is_plain_png(path):
        return _read_large(path)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise OSError(f"{path}: cannot be read as an image: {error}") from error
    if image is None:
        raise OSError(f"{path}: cannot be read as an image, or a part of it is missing")
    if image.dtype not in (np.uint8, np.uint16):
        raise OSError(f"{path}: expected 8 or 16 bits a channel, got {image.dtype}")
    with path.open("rb") as stream:
        if stream.read(len(_JPEG)) == _JPEG:
            _check_jpeg(path)
    return image


def _is_plain_png(path: Path) -> bool:
    """Whether it has three channels of 8 bits, and nothing that turns it."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data[:8] == _PNG and data[24:26] == b"\x08\x02" and data.find(b"eXIf") < 0


def _read_large(path: Path) -> LargeImage:
    try:
        with _any_size(), Image.open(path) as image:
            image.load()
            return LargeImage(image)
    except (OSError, SyntaxError) as error:
        raise OSError(f"{path}: cannot be read as an image: {error}") from error


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
