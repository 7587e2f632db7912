"""Scenes: tiny objects with light, shadow, blur and clutter on a photograph, with exact boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from .ground import Ground, Photograph, illumination, plain_ground, with_road
from .layer import Layer, extent
from .objects import KINDS, Kind, Part, blob, rotation, shade

MARGIN = 1.5  # pixels between two groups of objects, and to the border
ATTEMPTS = 12
ON_ROADS = ("vehicle", "person")


class Box(NamedTuple):
    """An object's class and extent ``(left, top, right, bottom)`` in pixels."""

    name: str
    extent: tuple[float, float, float, float]


@dataclass
class Scene:
    """A scene in the making.

    Attributes:
        sun: shadow of a body of height 1, in pixels.
        taken: extents ``[4]`` of the groups so far, which do not touch.
    """

    ground: Ground
    layer: Layer
    sun: np.ndarray
    rng: np.random.Generator
    boxes: list[Box] = field(default_factory=list)
    taken: list[np.ndarray] = field(default_factory=list)

    def is_free(self, place: np.ndarray, on_road: bool) -> bool:
        """Whether a group of that extent fits: inside, clear of the others, and off the road."""
        inside = (place[:2] >= MARGIN).all() and (place[2:] <= self.ground.size - MARGIN).all()
        if not inside or any(_touch(place, other) for other in self.taken):
            return False
        left, top, right, bottom = place.astype(int).tolist()
        return on_road or not self.ground.road[top : bottom + 1, left : right + 1].any()


def compose(
    photograph: Photograph, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[Box]]:
    """A picture ``[size, size, 3]`` uint8, and the boxes of its objects."""
    ground = plain_ground(photograph, size, rng)
    if rng.random() < 0.5:
        ground = with_road(ground, rng)
    sun = rng.uniform(0.25, 0.8) * rotation(rng.uniform(0, 2 * np.pi))[0]
    scene = Scene(ground, Layer(size), sun, rng)
    for _ in range(int(rng.integers(2, 14))):
        _add_clutter(scene, photograph)
    for _ in range(int(rng.integers(8, 20))):
        _add_group(scene)
    picture = scene.layer.over(ground.picture, darkness=rng.uniform(0.4, 0.65))
    picture *= illumination(size, rng)
    picture = gaussian_filter(picture, (*(rng.uniform(0.35, 0.75),) * 2, 0))
    picture += rng.normal(0, rng.uniform(0.008, 0.02), picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), scene.boxes


def _add_clutter(scene: Scene, photograph: Photograph) -> None:
    """A bush, a rock or a patch of bare ground: something that is no object, off the road."""
    rng = scene.rng
    radius = np.exp(rng.uniform(np.log(1.5), np.log(10)))
    outline = blob(rng) * radius + rng.uniform(radius, scene.ground.size - radius, size=2)
    x, y = outline.mean(0).astype(int)
    if scene.ground.road[y, x]:
        return
    if rng.random() < 0.6:
        scene.layer.cast([outline], scene.sun * radius)
    tint = photograph.dark if rng.random() < 0.5 else photograph.bright
    colour = shade(tint, rng.uniform(0.7, 1.1))
    scene.layer.fill(outline, colour)
    scene.layer.fill(outline.mean(0) + 0.6 * (outline - outline.mean(0)), shade(colour, 1.1))


def _add_group(scene: Scene) -> None:
    """One object, or a row of a class that comes in rows, where there is room for it."""
    rng = scene.rng
    name = list(KINDS)[int(rng.integers(len(KINDS)))]
    kind = KINDS[name]
    length = float(np.exp(rng.uniform(np.log(kind.shortest), np.log(kind.longest))))
    driving = name == "vehicle" and len(scene.ground.lanes) > 0 and rng.random() < 0.7
    in_row = kind.row is not None and not driving and rng.random() < 0.45
    group = _row(kind, int(rng.integers(2, 6)) if in_row else 1, rng)
    for _ in range(ATTEMPTS):
        if driving:
            *position, heading = scene.ground.lanes[int(rng.integers(len(scene.ground.lanes)))]
        else:
            position = rng.uniform(0, scene.ground.size, size=2)
            heading = rng.uniform(0, 2 * np.pi)
        turn = length * rotation(heading).T
        placed = [
            [Part(part.polygon @ turn + position, part.colour) for part in member]
            for member in group
        ]
        place = extent([part for member in placed for part in member])
        if scene.is_free(place, on_road=name in ON_ROADS):
            scene.taken.append(place)
            for member in placed:
                _draw(scene, member, kind, length)
                scene.boxes.append(Box(name, tuple(extent(member).tolist())))
            return


def _row(kind: Kind, count: int, rng: np.random.Generator) -> list[list[Part]]:
    """``count`` objects beside or behind each other, around the origin, in units of length."""
    members = [kind.draw(rng) for _ in range(count)]
    left, top, right, bottom = extent(members[0])
    gap = kind.row or 0.0
    step = np.array([0, bottom - top + gap] if kind.sideways else [right - left + gap, 0])
    return [
        [Part(part.polygon + (place - (count - 1) / 2) * step, part.colour) for part in member]
        for place, member in enumerate(members)
    ]


def _draw(scene: Scene, parts: list[Part], kind: Kind, length: float) -> None:
    shift = scene.sun * kind.height * length
    polygons = [part.polygon for part in parts]
    if kind.on_mast:
        scene.layer.cast_mast(polygons, shift, width=0.08 * length)
    elif kind.height > 0:
        scene.layer.cast(polygons, shift)
    exposure = scene.rng.uniform(0.85, 1.1)
    for part in parts:
        scene.layer.fill(part.polygon, shade(part.colour, exposure))


def _touch(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[:2] < other[2:] + MARGIN).all() and (other[:2] < one[2:] + MARGIN).all())
