"""What the converters' commands share."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from .coco import CocoBuilder

NO_LABELS = "none"


def add_shared_arguments(parser: ArgumentParser, labels: str) -> None:
    """``IMAGES LABELS`` and ``--keep-going``."""
    parser.add_argument("images", type=Path, help="folder of the images, at any depth")
    parser.add_argument(
        labels,
        type=lambda word: None if word == NO_LABELS else Path(word),
        help=f"folder of the txt files, at any depth; {NO_LABELS} for test images",
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="leave malformed rows out and list them all at the end, with exit status 1",
    )


def print_result(builder: CocoBuilder) -> int:
    """Print the counts and, on stderr, the malformed rows; returns the exit status."""
    print(builder.report())
    for problem in builder.malformed:
        print(problem, file=sys.stderr)
    return 1 if builder.malformed else 0
