"""The demo's data set of tiny objects, without mmdet, as torchvision's detectors want it."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SOURCE = Path(__file__).resolve().parents[1] / "integration" / "efpn_mmdet"


def build(folder: Path, images: int, size: int) -> None:
    """Write ``{train,test}.json`` and ``images/`` into a new folder.

    ``import efpn_mmdet`` needs mmdet, the part of it that draws the scenes does not: it is found under another name.
    """
    package = sys.modules.setdefault("demo_source", ModuleType("demo_source"))
    package.__path__ = [str(SOURCE)]
    import_module("demo_source.demo_data").build(folder, images, size)


class Split:
    """Pictures ``[3, H, W]`` in [0, 1] with targets ``boxes [N, 4]`` (xyxy, pixels) and ``labels [N]``.

    Args:
        folder: of :func:`build`.
        name: ``"train"`` or ``"test"``.
    """

    def __init__(self, folder: Path, name: str) -> None:
        document = json.loads((folder / f"{name}.json").read_text())
        self.classes = [one["name"] for one in document["categories"]]
        labels = {one["id"]: label for label, one in enumerate(document["categories"])}
        boxes: dict[int, list[list[float]]] = {one["id"]: [] for one in document["images"]}
        for one in document["annotations"]:
            x, y, width, height = one["bbox"]
            boxes[one["image_id"]].append([x, y, x + width, y + height, labels[one["category_id"]]])
        self.items: list[tuple[Tensor, dict[str, Tensor]]] = []
        for one in document["images"]:
            with Image.open(folder / "images" / one["file_name"]) as picture:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
            rows = torch.tensor(boxes[one["id"]]).reshape(-1, 5)
            target = {"boxes": rows[:, :4], "labels": rows[:, 4].long()}
            self.items.append((torch.from_numpy(pixels).permute(2, 0, 1), target))
