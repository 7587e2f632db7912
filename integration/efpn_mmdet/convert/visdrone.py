"""VisDrone2019-DET annotations to COCO json.

A row is ``x,y,width,height,score,category,truncation,occlusion`` in pixels. Categories 1 to 10 are
the classes. Dropped, in this order of rules, each with its count printed: category 0 (ignored
regions), category 11 (others), score 0 (not evaluated by the benchmark), empty boxes, boxes outside
the image. Boxes that reach beyond the image are cut at its border and counted as notes. Sizes are those of
the image as it is loaded, turned by its EXIF orientation.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ..classes import VISDRONE
from ..outputs import new_file
from .coco import CocoBuilder, MalformedRow, write_json
from .command import add_shared_arguments, print_result
from .files import files_by_stem, pairs
from .images import read_image
from .labels import (
    MALFORMED,
    UNREADABLE,
    Problems,
    UnreadableLabels,
    number,
    numbered_lines,
    refuse,
)

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
    """One annotated object, in the order of the file; whole numbers in the published files."""

    x: float
    y: float
    width: float
    height: float
    score: int
    category: int
    truncation: int
    occlusion: int


def parse_rows(path: Path, problems: Problems | None = None) -> list[Row]:
    """The rows of one annotation file.

    Blank lines, a line of names at the top, a trailing comma and a ninth cell are allowed.

    Args:
        path: the file.
        problems: takes the malformed rows, which are then left out; ``None``: the first one is raised.

    Raises:
        MalformedRow: not eight numbers, of which the last four are whole, or a category outside 0 to 11.
        UnreadableLabels: not UTF-8.
    """
    rows = []
    for position, (line, text) in enumerate(numbered_lines(path)):
        if position == 0 and not any(character.isdigit() for character in text):
            continue
        try:
            rows.append(_row(path, line, text))
        except MalformedRow as problem:
            refuse(problem, problems)
    return rows


def _row(path: Path, line: int, text: str) -> Row:
    cells = text.removesuffix(",").split(",")
    try:
        values = [number(cell) for cell in cells]
    except ValueError:
        values = []
    whole = all(isinstance(value, int) for value in values[4:COLUMNS])
    if len(values) not in (COLUMNS, COLUMNS + 1) or not whole:
        raise MalformedRow(path, line, f"expected {COLUMNS} integers, got {text!r}")
    row = Row(*values[:COLUMNS])
    if not IGNORED_REGION <= row.category <= OTHER:
        raise MalformedRow(path, line, f"category: expected 0 to 11, got {row.category}")
    return row


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


def convert(
    images: Path, annotations: Path | None, out: Path, keep_going: bool = False
) -> CocoBuilder:
    """Write the boxes of ``annotations/**/*.txt`` for ``images/**/*`` to the COCO file ``out``.

    File names in the json are relative to ``images``. Nothing is written if anything fails.

    Args:
        images, annotations: folders; ``None`` for images without annotations.
        out: COCO json to write.
        keep_going: leave malformed rows out, and images whose whole file cannot be read; the result's
            ``malformed`` has them all.

    Raises:
        MalformedRow, FileNotFoundError, NotADirectoryError, ValueError, OSError: naming the file, and the
            line.
    """
    builder = CocoBuilder(VISDRONE, settings={"source": "VisDrone2019-DET"})
    builder.dropped.update(dict.fromkeys(DROP_RULES, 0))
    labels = annotations and files_by_stem("annotations", annotations, (".txt",))
    found = pairs(
        files_by_stem("images", images, IMAGE_SUFFIXES), labels or {}, parse_all, builder.noted
    )
    for image_path, label_path in tqdm(found, desc="VisDrone", unit="image"):
        problems = builder.malformed if keep_going else None
        try:
            rows = parse_rows(label_path, problems) if label_path else []
        except UnreadableLabels as problem:
            refuse(problem, problems)
            builder.dropped[UNREADABLE] += 1
            continue
        height, width = read_image(image_path).shape[:2]
        name = image_path.relative_to(images).as_posix()
        image_id = builder.add_image(name, width, height)
        for row in rows:
            _add_row(builder, image_id, row, width, height)
    if builder.malformed:
        builder.dropped[MALFORMED] += len(builder.malformed) - builder.dropped[UNREADABLE]
    write_json(builder.document(), out)
    return builder


def parse_all(path: Path) -> list[Row]:
    """The rows that can be read."""
    return parse_rows(path, [])


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
    add_shared_arguments(parser, "annotations")
    parser.add_argument("out", type=Path, help="new COCO json")


def main(args: Namespace) -> int:
    """Convert and print the counts."""
    out = new_file("out", args.out)
    return print_result(convert(args.images, args.annotations, out, args.keep_going))
