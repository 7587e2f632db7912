"""Tiny-object data sets in COCO format: AI-TOD (v1, v2), VisDrone, DOTA-v2 boxes, and the demo."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS

from .classes import AITOD, DEMO, DOTA2, VISDRONE, category_ids

# A list: mmdet takes a tuple for one colour of all classes.
_PALETTE = [
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
    (0, 128, 128),
    (220, 190, 255),
    (170, 110, 40),
    (255, 250, 200),
    (128, 0, 0),
    (170, 255, 195),
    (128, 128, 0),
    (0, 0, 128),
]


def _metainfo(classes: Sequence[str]) -> dict[str, Sequence]:
    return {"classes": tuple(classes), "palette": _PALETTE[: len(classes)]}


class _CategoriesByName(COCO):
    """Category ids in the order of the names asked for; a missing name is an error."""

    def get_cat_ids(
        self,
        cat_names: Sequence[str] = (),
        sup_names: Sequence[str] = (),
        cat_ids: Sequence[Hashable] = (),
    ) -> list[Hashable]:
        if not cat_names:
            return super().get_cat_ids([], sup_names, cat_ids)
        return category_ids(self.dataset["categories"], cat_names)


class _TinyObjectDataset(CocoDataset):
    """A ``CocoDataset`` whose label ``i`` is class ``i`` of ``METAINFO``, whatever the file's order.

    ``CocoDataset`` itself numbers labels in the order of the file and drops boxes of classes that
    it cannot find; here an annotation file without one of the classes raises ``ValueError``.
    """

    COCOAPI = _CategoriesByName


@DATASETS.register_module()
class AITODDataset(_TinyObjectDataset):
    """AI-TOD, 8 classes; v1 and v2 differ only in their annotation files."""

    METAINFO = _metainfo(AITOD)


@DATASETS.register_module()
class VisDroneDataset(_TinyObjectDataset):
    """VisDrone2019-DET, 10 classes; ``efpn convert visdrone`` writes its annotation files."""

    METAINFO = _metainfo(VISDRONE)


@DATASETS.register_module()
class DOTA2HBBDataset(_TinyObjectDataset):
    """DOTA-v2, 18 classes, horizontal boxes on tiles; ``efpn convert dota2`` writes them."""

    METAINFO = _metainfo(DOTA2)


@DATASETS.register_module()
class TinyDemoDataset(_TinyObjectDataset):
    """The synthetic tiny objects and Hubble sources that ``efpn demo-data`` builds."""

    METAINFO = _metainfo(DEMO)
