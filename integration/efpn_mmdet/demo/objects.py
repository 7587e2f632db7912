"""Tiny objects seen from above, as coloured polygons in units of their long side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Colour = tuple[int, int, int]
PAINTS: tuple[Colour, ...] = (
    (236, 236, 232),
    (176, 180, 184),
    (44, 46, 52),
    (176, 38, 34),
    (38, 70, 140),
    (214, 172, 44),
    (62, 96, 74),
)
CLOTHES: tuple[Colour, ...] = ((200, 44, 52), (44, 66, 160), (232, 226, 90), (240, 240, 240))
GLASS: Colour = (34, 40, 48)


class Part(NamedTuple):
    """A filled polygon ``[P, 2]``; the object's heading is +x, its long side is 1."""

    polygon: np.ndarray
    colour: Colour


@dataclass(frozen=True)
class Kind:
    """How a class looks: its sides in pixels, its height over its long side, and its drawing.

    Attributes:
        shortest, longest: range of the long side in pixels.
        height: of the object over its long side; the shadow's length follows from it.
        draw: the parts, drawn in their order.
        row: gap between neighbours in a group, over the long side; None: stands alone.
        sideways: whether the neighbours stand side by side rather than one behind the other.
        on_mast: whether it sits on top of a thin mast, which shows in its shadow.
    """

    shortest: float
    longest: float
    height: float
    draw: Callable[[np.random.Generator], list[Part]]
    row: float | None = None
    sideways: bool = False
    on_mast: bool = False


def ellipse(length: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + length / 2 * np.cos(angles), y + width / 2 * np.sin(angles)], axis=1)


def rounded(length: float, width: float, x: float = 0.0, power: float = 0.35) -> np.ndarray:
    """A rectangle with round corners (a superellipse)."""
    unit = ellipse(2, 2)
    return np.sign(unit) * np.abs(unit) ** power * (length / 2, width / 2) + (x, 0)


def blob(rng: np.random.Generator) -> np.ndarray:
    """A round, uneven outline of radius about 1."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radius = 1 + sum(
        rng.normal(0, 0.16 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
        for wave in range(2, 7)
    )
    return radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def mirrored(points: list[tuple[float, float]]) -> np.ndarray:
    """The polygon of an outline above the x axis and its mirror image below."""
    upper = np.array(points)
    return np.concatenate([upper, (upper * (1, -1))[::-1]])


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(np.clip(value * factor, 0, 255)) for value in colour)
    return red, green, blue


def vehicle(rng: np.random.Generator) -> list[Part]:
    paint = pick(rng, PAINTS)
    if rng.random() < 0.25:  # a lorry: a cab and a box
        box = pick(rng, PAINTS[:2])
        return [Part(rounded(0.24, 0.34, 0.38), paint), Part(rounded(0.7, 0.38, -0.15, 0.2), box)]
    return [
        Part(rounded(1.0, 0.46), shade(paint, 0.8)),
        Part(rounded(0.56, 0.38, -0.06), GLASS),
        Part(rounded(0.34, 0.36, -0.08), paint),
    ]


def person(rng: np.random.Generator) -> list[Part]:
    skin: Colour = (88, 62, 48)
    return [Part(ellipse(0.8, 1.0), pick(rng, CLOTHES)), Part(ellipse(0.42, 0.42, 0.06), skin)]


def airplane(rng: np.random.Generator) -> list[Part]:
    body = shade((238, 240, 242), rng.uniform(0.85, 1.0))
    wings = [(0.14, 0.0), (0.1, 0.06), (-0.14, 0.47), (-0.22, 0.47), (-0.1, 0.06), (-0.1, 0.0)]
    tail = [(-0.36, 0.0), (-0.4, 0.05), (-0.47, 0.17), (-0.5, 0.17), (-0.48, 0.0)]
    nose = [(0.5, 0.0), (0.45, 0.05), (0.3, 0.065), (-0.3, 0.06), (-0.5, 0.015), (-0.5, 0.0)]
    engines = [Part(ellipse(0.1, 0.05, 0.05, side * 0.2), (90, 94, 100)) for side in (-1, 1)]
    return [
        *engines,
        Part(mirrored(wings), shade(body, 0.88)),
        Part(mirrored(tail), shade(body, 0.84)),
        Part(mirrored(nose), body),
    ]


def storage_tank(rng: np.random.Generator) -> list[Part]:
    roof = pick(rng, ((226, 224, 216), (198, 200, 200), (206, 186, 156)))
    light = rng.uniform(-0.06, 0.06, size=2)
    return [
        Part(ellipse(1.0, 1.0), shade(roof, 0.62)),
        Part(ellipse(0.86, 0.86, *light), roof),
        Part(ellipse(0.3, 0.3, *(2 * light)), shade(roof, 1.1)),
    ]


def swimming_pool(rng: np.random.Generator) -> list[Part]:
    width = rng.uniform(0.5, 0.75)
    water = shade((58, 176, 206), rng.uniform(0.85, 1.15))
    return [
        Part(rounded(1.0, width), (222, 214, 198)),
        Part(rounded(0.84, width - 0.16), water),
        Part(rounded(0.3, width - 0.18, -0.22), shade(water, 1.15)),
    ]


def wind_mill(rng: np.random.Generator) -> list[Part]:
    white: Colour = (244, 244, 244)
    start = rng.uniform(0, 2 * np.pi / 3)
    blade = np.array([(0.0, 0.05), (0.5, 0.012), (0.5, -0.012), (0.0, -0.05)])
    turns = [start + turn * 2 * np.pi / 3 for turn in range(3)]
    blades = [Part(blade @ rotation(turn).T, white) for turn in turns]
    return [*blades, Part(ellipse(0.15, 0.15), shade(white, 0.8))]


def rotation(angle: float) -> np.ndarray:
    """``[2, 2]``: turns column vectors by ``angle``."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


KINDS: dict[str, Kind] = {
    "airplane": Kind(13, 32, 0.12, airplane, row=0.25, sideways=True),
    "storage-tank": Kind(6, 28, 0.4, storage_tank, row=0.25),
    "swimming-pool": Kind(7, 22, 0.0, swimming_pool),
    "vehicle": Kind(6, 18, 0.28, vehicle, row=0.2, sideways=True),
    "person": Kind(4, 8, 1.6, person),
    "wind-mill": Kind(14, 32, 0.9, wind_mill, on_mast=True),
}
