"""Images as mmdet's loader reads them, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
_MAX_PIXELS = 1 << 30  # without the variable
_JPEG = b"\xff\xd8"


def read_image(path: Path) -> np.ndarray:
    """``[H, W, 3]`` BGR, turned as its EXIF orientation says, with its 8 or 16 bits a channel.

    Raises:
        OSError: naming the file: no image, a part of it is missing, another depth, too many pixels.
    """
    _check_size(path)
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


def _check_size(path: Path) -> None:
    limit = int(os.environ.get(_PIXELS_VARIABLE) or _MAX_PIXELS)
    try:
        with _any_size(), Image.open(path) as image:
            width, height = image.size
    except (OSError, SyntaxError):
        return  # OpenCV has the last word
    if width * height > limit:
        raise OSError(
            f"{path}: {width} x {height} pixels, OpenCV reads {limit}; cut it into parts, or set "
            f"{_PIXELS_VARIABLE} to more"
        )


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
