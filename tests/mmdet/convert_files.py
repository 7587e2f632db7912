"""Images, annotation files and calls that the tests of the converters share."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from mmdet.registry import DATASETS


def write_image(path: Path, width: int, height: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)
    return image


def write_rows(path: Path, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def quad(
    x: float, y: float, width: float, height: float, name: str = "plane", hard: int = 0
) -> str:
    """A row of DOTA."""
    return f"{x} {y} {x + width} {y} {x + width} {y + height} {x} {y + height} {name} {hard}"


def run_cli(module: ModuleType, *arguments: object) -> int:
    parser = ArgumentParser()
    module.add_arguments(parser)
    return module.main(parser.parse_args([str(argument) for argument in arguments]))


def load(name: str, ann_file: Path, images: Path) -> list[dict]:
    dataset = DATASETS.build(
        {
            "type": name,
            "ann_file": str(ann_file),
            "data_prefix": {"img": str(images)},
            "pipeline": [],
        }
    )
    return [dataset.get_data_info(i) for i in range(len(dataset))]
