"""torchvision, also where its compiled operators do not fit torch.

Its wheels are for one build of torch. Beside another one, such as a CPU build, ``import torchvision`` fails with
``operator torchvision::nms does not exist``. Then non-maximum suppression in plain PyTorch takes that operator's place;
RoIAlign has a form in plain PyTorch inside of torchvision. Both are slower and give the same boxes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices, by falling score, of the boxes ``[N, 4]`` (xyxy) that no better one overlaps."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    corners = (boxes[:, None, :2].maximum(boxes[:, :2]), boxes[:, None, 2:].minimum(boxes[:, 2:]))
    overlap = (corners[1] - corners[0]).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    too_close = (overlap > iou_threshold * (area[:, None] + area - overlap)).tolist()
    kept: list[int] = []
    for index, row in enumerate(too_close):
        if not any(row[better] for better in kept):
            kept.append(index)
    return order[kept]


def prepare() -> None:
    """Make ``import torchvision`` work; changes nothing where it does.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    spec = find_spec("torchvision")
    if spec is None:
        raise ModuleNotFoundError(
            "torchvision is not installed; `make example` installs it, or: pip install torchvision"
        )
    library = Path(spec.origin).with_name("_C.so")
    try:
        torch.ops.load_library(library)
    except OSError:
        _LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):  # newer versions describe both when they are imported
            _LIBRARIES[0].define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        _LIBRARIES[0].impl("nms", nms, "CompositeExplicitAutograd")
        import torchvision

        # It asks this before it calls the operator; RoIAlign has asked already, and stays in Python.
        torchvision.extension._has_ops = lambda: True
