"""A small tiny-object data set from photographs that ship inside scikit-image.

Two kinds of pictures, in one COCO data set with the classes of ``TinyDemoDataset``:

- composed scenes: airplanes, storage tanks, swimming pools, vehicles, persons and wind mills of 4
  to 32 pixels on photographs of grass, gravel, brick and the moon (left halves to train, right
  halves to test), with exact boxes;
- tiles of the Hubble deep field, whose own sources are the class "galaxy" (left part to train,
  right part to test).

The same arguments give the same files, with the same versions of the libraries.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .classes import DEMO
from .convert.coco import CocoBuilder, new_directory, write_json
from .demo import sky
from .demo.ground import Photograph, photographs
from .demo.scene import compose

SPLITS = ("train", "test")
TEST_PART = 0.2
SIZES = (64, 500)  # half of the deep field's width


def build(
    out_dir: Path, images: int = 240, size: int = 256, seed: int = 0
) -> dict[str, CocoBuilder]:
    """Write ``out_dir/{train,test}.json`` and ``out_dir/images/*.png``.

    Args:
        out_dir: new or empty folder; nothing is left in it if anything fails.
        images: composed scenes, a fifth of them to test; the tiles of the sky come on top.
        size: side of every picture in pixels.
        seed: of the scenes.

    Returns:
        What was written, by split.
    """
    if images < 0:
        raise ValueError(f"images: expected 0 or more, got {images}")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size: expected {SIZES[0]} to {SIZES[1]}, got {size}")
    test = round(images * TEST_PART)
    counts = {"train": images - test, "test": test}
    builders = {split: CocoBuilder(DEMO, {"size": size, "seed": seed}) for split in SPLITS}
    with new_directory(Path(out_dir)) as folder:
        (folder / "images").mkdir()
        with tqdm(total=images, desc="demo scenes", unit="image") as progress:
            for split in SPLITS:
                halves = photographs(split)
                for index in range(counts[split]):
                    rng = np.random.default_rng([seed, SPLITS.index(split), index])
                    name, half = halves[index % len(halves)]
                    file_name = f"{split}_{name}_{index:04d}.png"
                    _add_scene(builders[split], folder, file_name, half, size, rng)
                    progress.update()
        _add_sky(builders, folder, size)
        for split in SPLITS:
            write_json(builders[split].document(), folder / f"{split}.json")
    return builders


def _add_scene(
    builder: CocoBuilder,
    folder: Path,
    file_name: str,
    photograph: Photograph,
    size: int,
    rng: np.random.Generator,
) -> None:
    picture, boxes = compose(photograph, size, rng)
    image_id = _add_picture(builder, folder, file_name, picture)
    for name, (left, top, right, bottom) in boxes:
        extent = (left, top, right - left, bottom - top)
        builder.add_box(image_id, DEMO.index(name), [round(value, 2) for value in extent])


def _add_sky(builders: dict[str, CocoBuilder], folder: Path, size: int) -> None:
    """Overlapping tiles left of the last ``size`` columns to train, those columns to test."""
    field = sky.deep_field()
    sources = sky.find_sources(field)
    height, width = field.shape[:2]
    border = width - size
    corners = {
        "train": sky.tile_corners(border, height, size, step=size // 2),
        "test": [(border, top) for _, top in sky.tile_corners(size, height, size, step=size)],
    }
    for split in SPLITS:
        for left, top in corners[split]:
            tile = field[top : top + size, left : left + size]
            name = f"{split}_hubble_{left}_{top}.png"
            image_id = _add_picture(builders[split], folder, name, tile)
            for x1, y1, x2, y2 in sky.boxes_in(sources, left, top, size).tolist():
                builders[split].add_box(image_id, DEMO.index("galaxy"), (x1, y1, x2 - x1, y2 - y1))


def _add_picture(builder: CocoBuilder, folder: Path, name: str, picture: np.ndarray) -> int:
    Image.fromarray(picture).save(folder / "images" / name)
    height, width = picture.shape[:2]
    return builder.add_image(name, width, height)


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn demo-data``."""
    parser.add_argument("out", type=Path, help="new folder for images and annotations")
    parser.add_argument("--images", type=int, default=240, help="composed scenes")
    parser.add_argument("--size", type=int, default=256, help="side of a picture in pixels")
    parser.add_argument("--seed", type=int, default=0)


def main(args: Namespace) -> None:
    """Build the data set, with progress and counts."""
    for split, builder in build(args.out, args.images, args.size, args.seed).items():
        print(f"{split}\n{builder.report()}")
