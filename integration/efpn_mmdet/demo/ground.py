"""The ground of a scene: a photograph seen from above, tinted, perhaps with a road, and lit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.transform import resize

from .objects import Colour

PATCH = 128  # pixels of a photograph that are woven into a larger texture


@dataclass(frozen=True)
class Photograph:
    """A grey photograph and how it becomes ground.

    Attributes:
        grey: half of the photograph, ``[H, W]`` in [0, 1].
        dark, bright: the colours of its darkest and brightest pixels.
        woven: a texture, woven from random patches so that it can be seen from further away;
            otherwise a plain part of the photograph is used.
    """

    grey: np.ndarray
    dark: Colour
    bright: Colour
    woven: bool


# Names in skimage.data (all four ship inside the package): dark, bright, woven.
STYLES: dict[str, tuple[Colour, Colour, bool]] = {
    "grass": ((38, 54, 24), (150, 164, 92), True),
    "gravel": ((74, 68, 62), (196, 188, 176), True),
    "brick": ((104, 82, 70), (190, 168, 152), False),
    "moon": ((128, 104, 76), (222, 200, 164), False),
}


def photographs(split: str) -> list[tuple[str, Photograph]]:
    """The left halves of the photographs for "train", the right halves for "test"."""
    halves = []
    for name, style in STYLES.items():
        grey = getattr(data, name)().astype(np.float32) / 255
        middle = grey.shape[1] // 2
        half = grey[:, :middle] if split == "train" else grey[:, middle:]
        halves.append((name, Photograph(half, *style)))
    return halves


@dataclass
class Ground:
    """What objects are put on.

    Attributes:
        picture: ``[S, S, 3]`` in [0, 1].
        road: ``[S, S]``, True on asphalt.
        lanes: ``[n, 3]``, points ``x, y`` on a lane's middle and the heading there.
    """

    picture: np.ndarray
    road: np.ndarray
    lanes: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def size(self) -> int:
        return len(self.road)


def plain_ground(photograph: Photograph, size: int, rng: np.random.Generator) -> Ground:
    """A tinted part of the photograph."""
    if photograph.woven:
        grey = _weave(photograph.grey, int(rng.uniform(1.3, 2.2) * size), rng)
    else:
        grey = _random_square(
            photograph.grey, int(rng.uniform(0.7, 1) * min(photograph.grey.shape)), rng
        )
    grey = resize(grey, (size, size), anti_aliasing=True)
    level = (0.5 + (grey - grey.mean()) / (5 * grey.std())).clip(0, 1)[..., None]
    dark, bright = np.float32(photograph.dark) / 255, np.float32(photograph.bright) / 255
    return Ground(dark + (bright - dark) * level, np.zeros((size, size), dtype=bool))


def _random_square(grey: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of the photograph, turned and mirrored at random."""
    top, left = (int(rng.integers(length - side + 1)) for length in grey.shape)
    square = np.rot90(grey[top : top + side, left : left + side], int(rng.integers(4)))
    return square[:, ::-1] if rng.random() < 0.5 else square


def _weave(grey: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A texture ``[side, side]`` of overlapping random patches with narrow soft seams."""
    ramp = np.hanning(PATCH + 2)[1:-1] ** 3
    window = np.outer(ramp, ramp)
    step = PATCH // 2
    cells = -(-side // step) + 1
    total = np.zeros(((cells + 1) * step,) * 2)
    weight = np.full_like(total, 1e-9)
    for row in range(cells):
        for column in range(cells):
            at = np.s_[row * step : row * step + PATCH, column * step : column * step + PATCH]
            total[at] += window * _random_square(grey, PATCH, rng)
            weight[at] += window
    return (total / weight)[step : step + side, step : step + side]


def with_road(ground: Ground, rng: np.random.Generator) -> Ground:
    """A bent strip of asphalt with a dashed line; the photograph shows through a little."""
    size = ground.size
    y, x = np.mgrid[:size, :size] - size / 2
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1) / size
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle) + bend * along**2 + rng.uniform(-0.3, 0.3) * size
    slope = np.hypot(1, 2 * bend * along)
    across /= slope
    half_width = rng.uniform(10, 16)
    asphalt = np.clip(half_width - np.abs(across), 0, 1)[..., None]
    dashes = np.clip(1 - np.abs(across), 0, 1) * (np.mod(along, 14) < 6)
    road = 0.32 + 0.25 * (ground.picture - ground.picture.mean()) + 0.45 * dashes[..., None]
    heading = angle - np.arctan(2 * bend * along) + np.pi * (across < 0)
    middle = np.abs(np.abs(across) - half_width / 2) < 0.5
    lanes = np.stack([values[middle] for values in (x + size / 2, y + size / 2, heading)], axis=1)
    return Ground(ground.picture * (1 - asphalt) + road * asphalt, asphalt[..., 0] > 0, lanes)


def illumination(size: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness ``[S, S, 1]``: a slope and soft clouds, around one exposure."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    slope = rng.uniform(-0.15, 0.15) * x + rng.uniform(-0.15, 0.15) * y
    clouds = gaussian_filter(rng.normal(size=(size, size)), size / 6)
    clouds *= 0.06 / clouds.std()
    return (rng.uniform(0.8, 1.1) * (1 + slope + clouds))[..., None]
