"""Boxes, scores and pictures for image files: ``efpn predict`` and the demo's last step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmdet.visualization import get_palette
from mmengine.config import Config
from torch import nn

from .neck import GateProbe, gated_necks
from .outputs import free_path
from .show import Boxes, draw_boxes, draw_gate, gate_on_image, gate_range, side_by_side


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image.

    Args:
        image: ``[H, W, 3]`` uint8, BGR.
        boxes: above the score threshold, best first.
        gate: the gate M on the image's area ``[h, w]``, where it was asked for.
    """

    image: np.ndarray
    boxes: Boxes
    gate: np.ndarray | None = None


class Predictor:
    """A detector with its classes and colours.

    Args:
        config: config file or config.
        checkpoint: checkpoint file.
        device: of the detector.
        options: like ``--cfg-options``.
    """

    def __init__(
        self, config: str | Config, checkpoint: str, device: str, options: dict | None = None
    ) -> None:
        self.model: nn.Module = init_detector(
            config, checkpoint, device=device, cfg_options=options
        )
        self.classes: Sequence[str] = self.model.dataset_meta["classes"]
        self.palette = get_palette(self.model.dataset_meta["palette"], len(self.classes))

    def __call__(self, path: Path, score_threshold: float, with_gate: bool = False) -> Prediction:
        """The prediction for one image file.

        Raises:
            ValueError: no image at ``path``, or a gate is wanted of a detector that has none.
        """
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"images: expected an image file, got {path}")
        with ExitStack() as attached:
            probe = attached.enter_context(GateProbe(self._gated_neck())) if with_gate else None
            sample = inference_detector(self.model, image)
        gate = None if probe is None else _gate(probe, sample)
        return Prediction(image, _boxes(sample, score_threshold), gate)

    def draw(self, prediction: Prediction, truth: Boxes | None = None) -> np.ndarray:
        """The panels: ground truth where given, predictions, gate where it was computed."""
        panels = {}
        if truth is not None:
            panels["ground truth"] = draw_boxes(prediction.image, truth, self.palette, self.classes)
        panels["predictions"] = draw_boxes(
            prediction.image, prediction.boxes, self.palette, self.classes
        )
        if prediction.gate is not None:
            low, high = gate_range(prediction.gate)
            caption = f"gate M, {low:.2f} (dark) to {high:.2f} (bright)"
            panels[caption] = draw_gate(prediction.image, prediction.gate)
        return side_by_side(panels)

    def _gated_neck(self) -> nn.Module:
        necks = list(gated_necks(self.model).values())
        if not necks:
            raise ValueError(
                "show_gate: expected a detector with an EFPNBSNeck and use_fbsm=True, got "
                f"{type(self.model).__name__} without a gate"
            )
        return necks[0]


def predict_images(
    predictor: Predictor,
    images: Sequence[Path],
    score_threshold: float,
    folder: Path | None = None,
    show_gate: bool = False,
) -> Iterator[dict[str, Any]]:
    """The objects of every image as plain data, with pictures in ``folder`` if there is one.

    A picture has the image's stem, and a number behind it where a file of that name is there already.
    """
    for path in images:
        prediction = predictor(path, score_threshold, with_gate=show_gate)
        result = {"image": str(path), "objects": _plain(prediction.boxes, predictor.classes)}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            picture = free_path(folder, path.stem, ".png")
            if not cv2.imwrite(str(picture), predictor.draw(prediction)):
                raise OSError(f"{picture}: cannot be written")
            result["picture"] = str(picture)
        yield result


def _boxes(sample: DetDataSample, score_threshold: float) -> Boxes:
    found = sample.pred_instances.cpu().numpy()
    kept = found.scores >= score_threshold
    order = np.argsort(-found.scores[kept], kind="stable")
    return Boxes(found.bboxes[kept][order], found.labels[kept][order], found.scores[kept][order])


def _gate(probe: GateProbe, sample: DetDataSample) -> np.ndarray:
    mask = probe.mask()[0].float().cpu().numpy()
    return gate_on_image(mask, sample.img_shape, sample.batch_input_shape)


def _plain(boxes: Boxes, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "class": classes[label],
            "score": round(float(score), 4),
            "box": [round(float(value), 2) for value in box],
        }
        for box, label, score in zip(boxes.xyxy, boxes.labels, boxes.scores, strict=True)
    ]
