"""The Hubble deep field: its own sources, boxed by classical segmentation."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.measure import label, regionprops
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

SMOOTHING = 1.0
DETECTION_SIGMAS = 9.0
PEAK_CONTRAST = 20.0  # grey levels by which a peak must rise to be a source of its own
SIDES = (4, 48)
MIN_PART = 0.7  # part of a box's area that a tile must hold to keep it


def deep_field() -> np.ndarray:
    """The photograph that ships inside scikit-image, ``[872, 1000, 3]`` uint8."""
    return data.hubble_deep_field()


def find_sources(image: np.ndarray) -> np.ndarray:
    """Boxes ``[n, 4]`` (xyxy, whole pixels) of the sources of ``image [H, W, 3]``.

    The sky's level and noise are the median and the median absolute deviation; what rises above
    them by ``DETECTION_SIGMAS`` after smoothing is split at its separate peaks by a watershed.
    """
    grey = image.astype(np.float64).mean(axis=2)
    smooth = gaussian_filter(grey, SMOOTHING)
    sky = np.median(smooth)
    noise = 1.4826 * np.median(np.abs(smooth - sky))
    bright = smooth > sky + DETECTION_SIGMAS * noise
    peaks = label(h_maxima(smooth, PEAK_CONTRAST)) * bright
    regions = regionprops(watershed(-smooth, peaks, mask=bright))
    boxes = np.array([region.bbox for region in regions]).reshape(-1, 4)[:, [1, 0, 3, 2]]
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[(sides.max(1) >= SIDES[0]) & (sides.min(1) >= 3) & (sides.max(1) <= SIDES[1])]


def boxes_in(boxes: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    """The boxes of a tile, cut at its border and in its pixels, that keep ``MIN_PART`` of them."""
    corner = np.array([left, top, left, top])
    cut = (boxes - corner).clip(0, size)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return cut[np.prod(cut[:, 2:] - cut[:, :2], axis=1) >= MIN_PART * area]


def tile_corners(width: int, height: int, size: int, step: int) -> list[tuple[int, int]]:
    """Left top corners of the tiles that fit, every ``step`` pixels, row by row."""
    return [
        (left, top)
        for top in range(0, height - size + 1, step)
        for left in range(0, width - size + 1, step)
    ]
