"""Class lists of the data sets, in label order, and their match with a COCO file's categories."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

AITOD = (
    "airplane",
    "bridge",
    "storage-tank",
    "ship",
    "swimming-pool",
    "vehicle",
    "person",
    "wind-mill",
)

VISDRONE = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)

DOTA2 = (
    "plane",
    "ship",
    "storage-tank",
    "baseball-diamond",
    "tennis-court",
    "basketball-court",
    "ground-track-field",
    "harbor",
    "bridge",
    "large-vehicle",
    "small-vehicle",
    "helicopter",
    "roundabout",
    "soccer-ball-field",
    "swimming-pool",
    "container-crane",
    "airport",
    "helipad",
)

DEMO = (
    "airplane",
    "storage-tank",
    "swimming-pool",
    "vehicle",
    "person",
    "wind-mill",
    "galaxy",
)


def category_ids(categories: Iterable[dict[str, Any]], classes: Sequence[str]) -> list[Hashable]:
    """The COCO category id of every class, in the order of ``classes``.

    Raises:
        ValueError: a class is not among the categories, or there are two of its name.
    """
    ids: dict[str, Hashable] = {}
    for category in categories:
        name = category["name"]
        if name in ids and name in classes:
            raise ValueError(
                f"annotation file: expected one category {name!r}, it has {ids[name]!r} and "
                f"{category['id']!r} of that name; give their annotations one id"
            )
        ids[name] = category["id"]
    missing = [name for name in classes if name not in ids]
    if missing:
        raise ValueError(
            f"annotation file: expected the categories {', '.join(classes)}; it has "
            f"{', '.join(ids)}; missing: {', '.join(missing)}"
        )
    return [ids[name] for name in classes]
