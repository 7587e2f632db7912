"""DOTA-v2 images and labelTxt to square tiles with horizontal boxes in COCO json.

A row is ``x1 y1 x2 y2 x3 y3 x4 y4 category difficult`` in pixels, after header lines such as
``imagesource:`` and ``gsd:``. Images and labels are found at any depth (``part1``, ``DOTA-v2.0_train``), so the
folders can be given as they are distributed. Images are cut into tiles of ``tile`` pixels, which overlap by
``overlap`` pixels; the last tile of a row or column ends at the image's border, and images smaller than a tile
are padded with black on the right and below. Tiles have the 8 or 16 bits of their image.

A tile keeps an object if at least ``min_part`` of its quadrilateral's area lies in it, on pixels of the image;
the box is the horizontal bounding box of that part. An object can be in several tiles. Dropped, with the count
printed: quadrilaterals without area, difficult objects (only if asked), objects that no tile keeps. Tiles
without objects are kept unless asked otherwise.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import shapely
from tqdm import tqdm

from ..classes import DOTA2
from .coco import CocoBuilder, new_directory, write_json
from .command import add_shared_arguments, print_result
from .dota2_labels import NO_OBJECTS, Objects, parse_labels
from .files import files_by_stem, pairs
from .images import read_image
from .labels import MALFORMED, UNREADABLE, Problems, UnreadableLabels, refuse

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
HORIZONTAL = "_hbb"


@dataclass(frozen=True)
class Tiling:
    """How images are cut and which objects are kept; see the module's text."""

    tile: int = 1024
    overlap: int = 200
    min_part: float = 0.7
    drop_difficult: bool = False
    skip_empty: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"overlap: expected 0 <= overlap < tile ({self.tile}), got {self.overlap}"
            )
        if not 0 < self.min_part <= 1:
            raise ValueError(f"min_part: expected 0 < min_part <= 1, got {self.min_part}")

    def starts(self, length: int) -> list[int]:
        """First pixels of the tiles along a side of ``length`` pixels."""
        last = max(length - self.tile, 0)
        return [*range(0, last, self.tile - self.overlap), last]


class Tile(NamedTuple):
    """A written tile: its file, its corner in the image, and its boxes (label, difficult, xywh)."""

    file_name: str
    corner: tuple[int, int]
    boxes: list[tuple[int, int, list[float]]]


@dataclass
class TiledImage:
    """All tiles of one image, and the counts of the drop rules."""

    source: str
    tiles: list[Tile] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    malformed: Problems = field(default_factory=list)


def windows(tiling: Tiling, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Left top corners ``(x, y)`` of the tiles, row by row."""
    for y in tiling.starts(height):
        for x in tiling.starts(width):
            yield x, y


def boxes_inside(
    quads: np.ndarray,
    corner: tuple[int, int],
    tiling: Tiling,
    size: tuple[float, float] = (np.inf, np.inf),
) -> tuple[np.ndarray, np.ndarray, int]:
    """What the tile at ``corner`` keeps of ``quads [n, 4, 2]`` in an image of ``size`` (width, height).

    Returns:
        The kept indices ``[m]``, their boxes xywh in the tile's pixels ``[m, 4]``, and how many
        objects lie in the tile by less than ``min_part``.
    """
    shapes = shapely.convex_hull(shapely.polygons(quads))
    x, y = corner
    right, bottom = (min(at + tiling.tile, end) for at, end in zip(corner, size, strict=True))
    parts = shapely.intersection(shapes, shapely.box(x, y, right, bottom))
    fraction = shapely.area(parts) / shapely.area(shapes)
    kept = np.flatnonzero(fraction >= tiling.min_part)
    bounds = shapely.bounds(parts[kept]) - (x, y, x, y)
    boxes = np.concatenate([bounds[:, :2], bounds[:, 2:] - bounds[:, :2]], axis=1)
    return kept, boxes, int(((fraction > 0) & (fraction < tiling.min_part)).sum())


def tile_image(
    paths: tuple[Path, Path | None], folder: Path, tiling: Tiling, keep_going: bool = False
) -> TiledImage:
    """Cut one ``(image, labels)`` into tiles under ``folder`` and find their boxes."""
    image_path, label_path = paths
    result = TiledImage(image_path.stem)
    try:
        objects = _objects(label_path, result.malformed if keep_going else None)
    except UnreadableLabels as problem:
        refuse(problem, result.malformed if keep_going else None)
        result.dropped[UNREADABLE] += 1
        return result
    if result.malformed:
        result.dropped[MALFORMED] += len(result.malformed)
    objects = _usable(objects, tiling, result.dropped)
    image = read_image(image_path)
    size = (image.shape[1], image.shape[0])
    in_some_tile = np.zeros(len(objects.labels), dtype=bool)
    for corner in windows(tiling, *size):
        kept, boxes, cut = boxes_inside(objects.quads, corner, tiling, size)
        in_some_tile[kept] = True
        result.noted["left out of a tile at its border"] += cut
        if tiling.skip_empty and len(kept) == 0:
            result.noted["tiles without objects, skipped"] += 1
            continue
        name = f"{image_path.stem}__{corner[0]}_{corner[1]}.png"
        _write_tile(image, corner, tiling.tile, folder / name)
        columns = (objects.labels[kept].tolist(), objects.difficult[kept].tolist(), boxes.tolist())
        result.tiles.append(Tile(name, corner, list(zip(*columns, strict=True))))
    result.dropped["in no tile"] += int((~in_some_tile).sum())
    return result


def _objects(path: Path | None, problems: Problems | None) -> Objects:
    return parse_labels(path, problems) if path else NO_OBJECTS


def _usable(objects: Objects, tiling: Tiling, dropped: Counter[str]) -> Objects:
    flat = shapely.area(shapely.convex_hull(shapely.polygons(objects.quads))) == 0
    unwanted = ~flat & (objects.difficult > 0) & tiling.drop_difficult
    dropped["no area"] += int(flat.sum())
    dropped["difficult"] += int(unwanted.sum())
    return objects.only(~(flat | unwanted))


def _write_tile(image: np.ndarray, corner: tuple[int, int], size: int, path: Path) -> None:
    x, y = corner
    crop = image[y : y + size, x : x + size]
    missing = (size - crop.shape[0], size - crop.shape[1])
    padded = cv2.copyMakeBorder(crop, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
    if not cv2.imwrite(str(path), padded):
        raise OSError(f"{path}: cannot be written")


def convert(
    images: Path,
    labels: Path | None,
    out: Path,
    tiling: Tiling | None = None,
    workers: int = 1,
    keep_going: bool = False,
) -> CocoBuilder:
    """Write ``out/images/*.png`` and ``out/annotations.json``; ``out`` must be new or empty.

    Nothing is left behind if anything fails, and the result does not depend on ``workers``.

    Args:
        images, labels: folders, searched at any depth; ``None`` for images without labels.
        out: folder to write.
        tiling: how images are cut.
        workers: processes; each holds one whole image.
        keep_going: leave malformed rows out, and images whose whole label file cannot be read; the result's
            ``malformed`` has them all.

    Raises:
        MalformedRow, FileNotFoundError, NotADirectoryError, ValueError, OSError: naming the file, and the
            line.
    """
    tiling = tiling or Tiling()
    builder = CocoBuilder(DOTA2, settings={"source": "DOTA-v2", **asdict(tiling)})
    found = pairs(
        files_by_stem("images", images, IMAGE_SUFFIXES),
        _label_files(labels) if labels else {},
        lambda path: parse_labels(path, []).labels,
        builder.noted,
    )
    processes = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    with new_directory(out) as folder, processes as pool:
        (folder / "images").mkdir()
        work = partial(tile_image, folder=folder / "images", tiling=tiling, keep_going=keep_going)
        tiled = pool.map(work, found) if workers > 1 else map(work, found)
        for image in tqdm(tiled, total=len(found), desc="DOTA-v2", unit="image"):
            _add_tiles(builder, image, tiling.tile)
        write_json(builder.document(), folder / "annotations.json")
    return builder


def _label_files(labels: Path) -> dict[str, Path]:
    """The oriented labels: DOTA-v2 has horizontal ones of the same names in a folder beside them."""
    horizontal = [path for path in labels.rglob(f"*{HORIZONTAL}") if path.is_dir()]
    return files_by_stem("labels", labels, (".txt",), without=horizontal)


def _add_tiles(builder: CocoBuilder, image: TiledImage, size: int) -> None:
    for tile in image.tiles:
        origin = {"source": image.source, "corner": list(tile.corner)}
        image_id = builder.add_image(tile.file_name, size, size, **origin)
        for label, difficult, box in tile.boxes:
            builder.add_box(image_id, label, box, difficult=difficult)
    builder.dropped.update(image.dropped)
    builder.noted.update(image.noted)
    builder.malformed += image.malformed


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn convert dota2``."""
    defaults = Tiling()
    add_shared_arguments(parser, "labels")
    parser.add_argument("out", type=Path, help="new folder for the tiles and annotations.json")
    parser.add_argument("--tile", type=int, default=defaults.tile, help="side of a tile in pixels")
    parser.add_argument("--overlap", type=int, default=defaults.overlap, help="in pixels")
    parser.add_argument(
        "--min-part",
        type=float,
        default=defaults.min_part,
        help="part of an object's area that a tile must hold to keep it",
    )
    parser.add_argument("--drop-difficult", action="store_true", help="drop difficult objects")
    parser.add_argument("--skip-empty", action="store_true", help="no tiles without objects")
    parser.add_argument("--workers", type=int, default=1, help="processes")


def main(args: Namespace) -> int:
    """Convert and print the counts."""
    names = ("tile", "overlap", "min_part", "drop_difficult", "skip_empty")
    tiling = Tiling(**{name: getattr(args, name) for name in names})
    folders = (args.images, args.labels, args.out)
    return print_result(convert(*folders, tiling, args.workers, args.keep_going))
