"""VisDrone2019-DET annotations to COCO json.

A row is ``x,y,width,height,score,category,truncation,occlusion`` in pixels. Categories 1 to 10 are
the classes. Dropped, in this order of rules, each with its count printed: category 0 (ignored
regions), category 11 (others), score 0 (not evaluated by the benchmark), empty boxes, boxes outside
the image. Boxes that reach beyond the image are cut at its border and counted as notes.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from ..classes import VISDRONE
from .coco import CocoBuilder, MalformedRow, files_by_stem, pairs, write_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
COLUMNS = 8
IGNORED_REGION, OTHER = 0, 11
DROP_RULES = (
    "ignored region (category 0)",
    "other object (category 11)",
    "not evaluated (score 0)",
    "empty box",
    "outside the image",
)
CUT = "cut at the image border"


class Row(NamedTuple):
    """One annotated object, in the order of the file."""

    x: int
    y: int
    width: int
    height: int
    score: int
    category: int
    truncation: int
    occlusion: int


def parse_rows(path: Path) -> list[Row]:
    """The rows of one annotation file; blank lines and a trailing comma are allowed.

    Raises:
        MalformedRow: not eight integers, or a category outside 0 to 11.
    """
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        cells = text.strip().removesuffix(",").split(",")
        try:
            values = [int(cell) for cell in cells]
        except ValueError:
            values = []
        if len(values) != COLUMNS:
            raise MalformedRow(path, line, f"expected {COLUMNS} integers, got {text!r}")
        row = Row(*values)
        if not IGNORED_REGION <= row.category <= OTHER:
            raise MalformedRow(path, line, f"category: expected 0 to 11, got {row.category}")
        rows.append(row)
    return rows


def drop_rule(row: Row, width: int, height: int) -> str | None:
    """The first of ``DROP_RULES`` that drops a row from an image of that size, or None."""
    inside = -row.width < row.x < width and -row.height < row.y < height
    applies = (
        row.category == IGNORED_REGION,
        row.category == OTHER,
        row.score == 0,
        row.width <= 0 or row.height <= 0,
        not inside,
    )
    return next((rule for rule, drops in zip(DROP_RULES, applies, strict=True) if drops), None)


def convert(images: Path, annotations: Path, out: Path) -> CocoBuilder:
    """Write the boxes of ``annotations/*.txt`` for ``images/*`` to the COCO file ``out``.

    File names in the json are relative to ``images``. Nothing is written if anything fails.

    Raises:
        MalformedRow, FileNotFoundError, NotADirectoryError: naming the file, and the line.
    """
    found = pairs(
        files_by_stem("images", images, IMAGE_SUFFIXES),
        files_by_stem("annotations", annotations, (".txt",)),
    )
    builder = CocoBuilder(VISDRONE, settings={"source": "VisDrone2019-DET"})
    builder.dropped.update(dict.fromkeys(DROP_RULES, 0))
    for image_path, label_path in tqdm(found, desc="VisDrone", unit="image"):
        with Image.open(image_path) as image:
            width, height = image.size
        image_id = builder.add_image(image_path.name, width, height)
        for row in parse_rows(label_path):
            _add_row(builder, image_id, row, width, height)
    write_json(builder.document(), out)
    return builder


def _add_row(builder: CocoBuilder, image_id: int, row: Row, width: int, height: int) -> None:
    rule = drop_rule(row, width, height)
    if rule is not None:
        builder.dropped[rule] += 1
        return
    left, top = max(row.x, 0), max(row.y, 0)
    right, bottom = min(row.x + row.width, width), min(row.y + row.height, height)
    box = (left, top, right - left, bottom - top)
    if box != row[:4]:
        builder.noted[CUT] += 1
    extra = {"truncation": row.truncation, "occlusion": row.occlusion}
    builder.add_box(image_id, row.category - 1, box, **extra)


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``efpn convert visdrone``."""
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("annotations", type=Path, help="folder of the txt files")
    parser.add_argument("out", type=Path, help="COCO json to write")


def main(args: Namespace) -> None:
    """Convert and print the counts."""
    print(convert(args.images, args.annotations, args.out).report())
