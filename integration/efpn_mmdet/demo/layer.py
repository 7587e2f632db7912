"""What is drawn over the ground: paint with its coverage, and shadows, all supersampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from .objects import Colour, Part, rotation

SUPERSAMPLING = 4
SHADOW_STEP = 0.5  # pixels between the copies that sweep out a shadow


class Layer:
    """A transparent square of ``size`` pixels; coordinates are in pixels, from its corner."""

    def __init__(self, size: int) -> None:
        side = (size * SUPERSAMPLING,) * 2
        self.size = size
        self._paint = Image.new("RGB", side)
        self._coverage = Image.new("L", side)
        self._shadow = Image.new("L", side)

    def fill(self, polygon: np.ndarray, colour: Colour) -> None:
        """Paint a polygon ``[P, 2]``, its rim exact to a quarter of a pixel."""
        corners = _corners(polygon)
        ImageDraw.Draw(self._paint).polygon(corners, fill=colour)
        ImageDraw.Draw(self._coverage).polygon(corners, fill=255)

    def cast(self, polygons: Sequence[np.ndarray], shift: np.ndarray) -> None:
        """Shadow of a body whose top throws its shadow ``shift`` away from its foot."""
        draw = ImageDraw.Draw(self._shadow)
        for step in np.linspace(0, 1, 2 + int(np.hypot(*shift) / SHADOW_STEP)):
            for polygon in polygons:
                draw.polygon(_corners(polygon + step * shift), fill=255)

    def cast_mast(self, polygons: Sequence[np.ndarray], shift: np.ndarray, width: float) -> None:
        """Shadow of polygons on top of a thin mast that stands in their middle."""
        foot = np.concatenate(polygons).mean(0)
        side = rotation(np.pi / 2) @ (shift / np.hypot(*shift)) * width / 2
        mast = np.stack([foot - side, foot + side, foot + shift + side, foot + shift - side])
        draw = ImageDraw.Draw(self._shadow)
        for polygon in (mast, *(polygon + shift for polygon in polygons)):
            draw.polygon(_corners(polygon), fill=255)

    def over(self, ground: np.ndarray, darkness: float) -> np.ndarray:
        """``ground [S, S, 3]`` in shadow, which takes ``darkness`` of its light, and under paint."""
        paint, coverage, shadow = (
            _shrink(np.asarray(image, dtype=np.float32) / 255)
            for image in (self._paint, self._coverage, self._shadow)
        )
        shadow = gaussian_filter(shadow, 0.6)[..., None] * darkness
        return ground * (1 - shadow) * (1 - coverage[..., None]) + paint


def extent(parts: Sequence[Part]) -> np.ndarray:
    """``left, top, right, bottom`` of all polygons."""
    points = np.concatenate([part.polygon for part in parts])
    return np.concatenate([points.min(0), points.max(0)])


def _corners(polygon: np.ndarray) -> list[tuple[float, float]]:
    """Supersampled coordinates for Pillow, whose pixel centres are whole numbers."""
    return [(x, y) for x, y in (polygon * SUPERSAMPLING - 0.5).tolist()]


def _shrink(image: np.ndarray) -> np.ndarray:
    side = len(image) // SUPERSAMPLING
    blocks = image.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING, *image.shape[2:])
    return blocks.mean(axis=(1, 3))
