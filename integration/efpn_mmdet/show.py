"""Pictures: ground truth, predictions and the gate M side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# A picture of tiny objects is enlarged to at least this many pixels on its longer side.
MIN_SIDE = 768
CAPTION_HEIGHT = 24
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Boxes:
    """Boxes to draw.

    Args:
        xyxy: ``[n, 4]`` in pixels of the image.
        labels: ``[n]``, indices into the classes and the palette.
        scores: ``[n]``, or ``None`` for ground truth.
    """

    xyxy: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.xyxy)


def draw_boxes(
    image: np.ndarray,
    boxes: Boxes,
    palette: Sequence[tuple[int, int, int]],
    classes: Sequence[str] = (),
) -> np.ndarray:
    """A copy of ``image`` (``[H, W, 3]`` uint8, BGR), enlarged, with one-pixel boxes around objects.

    The palette is RGB. With ``classes`` each box carries its class, and its score if it has one.
    """
    canvas, scale = _enlarged(image)
    for index, (box, label) in enumerate(zip(boxes.xyxy, boxes.labels, strict=True)):
        colour = tuple(int(value) for value in palette[label][::-1])
        x1, y1, x2, y2 = (round(value * scale) for value in box)
        cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), colour, 1, cv2.LINE_AA)
        if classes:
            score = "" if boxes.scores is None else f" {boxes.scores[index]:.2f}"
            position = (x1, max(y1 - 4, 8))
            cv2.putText(
                canvas, classes[label] + score, position, _FONT, 0.35, colour, 1, cv2.LINE_AA
            )
    return canvas


def draw_gate(image: np.ndarray, mask: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """``image``, enlarged, under a heat map of the gate.

    Args:
        image: ``[H, W, 3]`` uint8, BGR.
        mask: the gate on the image's area ``[h, w]``; :func:`gate_range` is spread over the colours.
        opacity: of the heat map.
    """
    canvas, _ = _enlarged(image)
    low, high = gate_range(mask)
    spread = (mask - low) / max(high - low, 1e-6)
    heat = cv2.resize(spread.astype(np.float32), canvas.shape[1::-1])
    coloured = cv2.applyColorMap((heat.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return cv2.addWeighted(coloured, opacity, canvas, 1 - opacity, 0)


def gate_range(mask: np.ndarray) -> tuple[float, float]:
    """The range of nearly all of a gate: it seldom uses all of 0 to 1, and its borders stand out."""
    low, high = np.percentile(mask, (2, 98))
    return float(low), float(high)


def side_by_side(panels: dict[str, np.ndarray]) -> np.ndarray:
    """The panels, all of one size, from left to right under their captions."""
    columns = []
    for caption, panel in panels.items():
        bar = np.full((CAPTION_HEIGHT, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, caption, (6, 17), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.vstack([bar, panel]))
    return np.hstack(columns)


def gate_on_image(
    mask: np.ndarray, image_shape: tuple[int, int], padded_shape: tuple[int, int]
) -> np.ndarray:
    """The part of a gate ``[G, h, w]`` that covers the image, averaged over its channels.

    Args:
        mask: the gate of the padded network input.
        image_shape: ``(height, width)`` of the resized image within the input.
        padded_shape: ``(height, width)`` of the input.
    """
    gate = mask.mean(axis=0)
    height, width = (
        max(1, round(size * of / padded))
        for size, of, padded in zip(gate.shape, image_shape, padded_shape, strict=True)
    )
    return gate[:height, :width]


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    scale = max(1, -(-MIN_SIDE // max(image.shape[:2])))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), scale
