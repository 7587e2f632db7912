"""Label files: their text, their numbers, and the rows that are not what they should be."""

from __future__ import annotations

import codecs
import io
import math
from collections.abc import Iterator
from pathlib import Path

from .coco import MalformedRow

Problems = list[MalformedRow]
# What is dropped if a conversion keeps going.
MALFORMED = "malformed row"
UNREADABLE = "image whose labels cannot be read"


class UnreadableLabels(MalformedRow):
    """A label file that is no UTF-8 text: nothing is known of its image's objects."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without the spaces around them; blank lines are left out.

    A byte order mark is no part of the text; lines end as on any system.

    Raises:
        UnreadableLabels: not UTF-8.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableLabels(path, 1, "expected UTF-8 text, got UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableLabels(
            path,
            line,
            f"expected UTF-8 text, got the byte 0x{data[error.start]:02x}; save it as UTF-8",
        ) from error
    for line, row in enumerate(io.StringIO(text, newline=None), start=1):
        if row.strip():
            yield line, row.strip()


def number(cell: str) -> int | float:
    """A finite number, as an ``int`` if it is whole: ``"1.0"`` is 1.

    Raises:
        ValueError: anything else.
    """
    value = float(cell)
    if not math.isfinite(value) or "_" in cell:
        raise ValueError(f"expected a finite number, got {cell!r}")
    return int(value) if value.is_integer() else value


def refuse(problem: MalformedRow, problems: Problems | None) -> None:
    """Note a malformed row in ``problems``, or raise it if there is no such list."""
    if problems is None:
        raise problem
    problems.append(problem)
