"""Both converters behind one signature, and a folder for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from convert_files import quad, write_image, write_rows

from efpn_mmdet.convert import dota2, visdrone
from efpn_mmdet.convert.coco import CocoBuilder
from efpn_mmdet.convert.dota2 import Tiling

CAR = "10,20,30,40,1,4,0,0"
TILING = Tiling(tile=64, overlap=16)


def by_visdrone(folder: Path, **settings: object) -> CocoBuilder:
    return visdrone.convert(folder / "images", folder / "labels", folder / "out.json", **settings)


def by_dota2(folder: Path, **settings: object) -> CocoBuilder:
    arguments = (folder / "images", folder / "labels", folder / "out", TILING)
    return dota2.convert(*arguments, **settings)


BOTH = pytest.mark.parametrize(
    ("convert", "row"),
    [(by_visdrone, CAR), (by_dota2, quad(1, 1, 9, 9))],
    ids=["visdrone", "dota2"],
)
Convert = Callable[..., CocoBuilder]


def prepared(folder: Path, *rows: str, image: str = "one.png") -> Path:
    """A folder with one image and its rows."""
    write_image(folder / "images" / image, 60, 50)
    write_rows(folder / "labels" / "one.txt", rows)
    return folder


def refusal(convert: Convert, folder: Path, **settings: object) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        convert(folder, **settings)
    assert not (folder / "out").exists() and not (folder / "out.json").exists()
    return str(raised.value)
