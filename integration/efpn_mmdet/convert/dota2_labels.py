"""DOTA-v2's label files: quadrilaterals, categories, difficulties."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..classes import DOTA2
from .coco import MalformedRow
from .labels import Problems, number, numbered_lines, refuse

CORNERS = 8
LABELS = {name: label for label, name in enumerate(DOTA2)}
_HEADER = re.compile(r"[A-Za-z][\w -]*:")


class Objects(NamedTuple):
    """The objects of one image: ``quads [n, 4, 2]`` float, ``labels [n]``, ``difficult [n]``."""

    quads: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray

    def only(self, chosen: np.ndarray) -> Objects:
        return Objects(*(column[chosen] for column in self))


NO_OBJECTS = Objects(np.zeros((0, 4, 2)), np.zeros(0, dtype=int), np.zeros(0, dtype=int))


def parse_labels(path: Path, problems: Problems | None = None) -> Objects:
    """The objects of one label file.

    Lines such as ``imagesource:GoogleEarth`` before the first object and blank lines are allowed; a row
    without a difficulty, as in DOTA-v1, is not difficult.

    Args:
        path: the file.
        problems: takes the malformed rows, which are then left out; ``None``: the first one is raised.

    Raises:
        MalformedRow: not eight finite numbers, a known category and a difficulty.
        UnreadableLabels: not UTF-8.
    """
    quads, labels, difficult = [], [], []
    in_header = True
    for line, text in numbered_lines(path):
        if in_header and _HEADER.match(text):
            continue
        in_header = False
        try:
            corners, label, hard = _row(path, line, text)
        except MalformedRow as problem:
            refuse(problem, problems)
            continue
        quads.append(corners)
        labels.append(label)
        difficult.append(hard)
    return Objects(
        np.array(quads, dtype=float).reshape(-1, 4, 2),
        np.array(labels, dtype=int),
        np.array(difficult, dtype=int),
    )


def _row(path: Path, line: int, text: str) -> tuple[list[float], int, int]:
    cells = text.split()
    corners, category, difficulty = (
        cells[:CORNERS],
        cells[CORNERS : CORNERS + 1],
        cells[CORNERS + 1 :],
    )
    if not category or len(difficulty) > 1 or (not difficulty and category[0] not in LABELS):
        raise MalformedRow(path, line, f"expected 8 numbers, category and difficulty, got {text!r}")
    if category[0] not in LABELS:
        raise MalformedRow(path, line, f"category: expected one of DOTA-v2, got {category[0]!r}")
    try:
        hard = number(difficulty[0]) if difficulty else 0
        values = [number(cell) for cell in corners]
    except ValueError as error:
        raise MalformedRow(path, line, f"expected numbers, finite ones, got {text!r}") from error
    if not isinstance(hard, int):
        raise MalformedRow(
            path, line, f"difficulty: expected a whole number, got {difficulty[0]!r}"
        )
    return values, LABELS[category[0]], hard
