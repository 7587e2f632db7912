"""Detectors of the configs at a size that trains in a second on a CPU, and images for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

import efpn_mmdet

CONFIGS = Path(efpn_mmdet.__file__).parent / "configs"
BASE_CHANNELS = 4  # of the ResNet; 64 in the configs
CHANNELS = 8  # of the pyramid and the heads; 256 in the configs
BACKBONE_CHANNELS = [4 * BASE_CHANNELS * 2**stage for stage in range(4)]
SIZE = 96  # the least for DetectoRS, whose last stage pads by two pixels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small are faster on one thread, by far where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_config(name: str, *, data: Path | None = None) -> Config:
    """The config of that name with narrow layers, few proposals and no pretrained weights.

    With ``data``, a folder of :func:`write_data_set`, its loaders and evaluators read that.
    """
    config = Config.fromfile(CONFIGS / name)
    shrink(config.model)
    if data is not None:
        point_to(config, data)
    return config


def shrink(model: dict) -> None:
    """Narrow every layer of a detector's config, in place."""
    neck = model["neck"]["base"] if model["neck"]["type"] == "EFPNBSNeck" else model["neck"]
    backbones = [model["backbone"]] + ([neck["rfp_backbone"]] if "rfp_backbone" in neck else [])
    for backbone in backbones:
        backbone.update(base_channels=BASE_CHANNELS, frozen_stages=-1, norm_eval=False)
        backbone.pop("init_cfg", None)
        backbone.pop("pretrained", None)
    if "rfp_backbone" in neck:
        neck["rfp_backbone"]["rfp_inplanes"] = CHANNELS
        neck["aspp_out_channels"] = CHANNELS // 4
    neck.update(in_channels=BACKBONE_CHANNELS, out_channels=CHANNELS)
    model["rpn_head"].update(in_channels=CHANNELS, feat_channels=CHANNELS)
    roi_head = model["roi_head"]
    roi_head["bbox_roi_extractor"]["out_channels"] = CHANNELS
    heads = roi_head["bbox_head"]
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=CHANNELS, fc_out_channels=16)
    model["train_cfg"]["rpn_proposal"].update(nms_pre=64, max_per_img=32)
    model["test_cfg"]["rpn"].update(nms_pre=64, max_per_img=32)
    model["test_cfg"]["rcnn"].update(score_thr=0.0, max_per_img=10)


def point_to(config: Config, data: Path) -> None:
    """Read the images and annotations of ``data`` in this process, at their own size."""
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        loader.num_workers = 0
        loader.dataset.update(data_root="", ann_file=str(data / "annotations.json"))
        loader.dataset.data_prefix.img = str(data)
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = (SIZE, SIZE)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        evaluator.ann_file = str(data / "annotations.json")


def write_data_set(folder: Path, classes: tuple[str, ...], images: int = 4) -> Path:
    """Noise with bright squares, one class each in turn; returns ``folder``."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for index in range(images):
        picture = rng.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
        for corner in rng.integers(0, SIZE - 12, (3, 2)):
            x, y = corner.tolist()
            picture[y : y + 10, x : x + 10] = 255
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "bbox": [x, y, 10, 10],
                    "area": 100,
                    "category_id": len(annotations) % len(classes) + 1,
                    "iscrowd": 0,
                }
            )
        name = f"{index}.png"
        cv2.imwrite(str(folder / name), picture)
        entries.append({"id": index, "file_name": name, "width": SIZE, "height": SIZE})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    document = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def build(model: dict, seed: int = 0) -> nn.Module:
    """The detector of a model config, its weights drawn from ``seed``."""
    register_all_modules()
    torch.manual_seed(seed)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def batch(images: int = 2, boxes: int = 3, seed: int = 0) -> dict:
    """What a data loader gives: uint8 images with squares in them, and their samples."""
    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for _ in range(images):
        inputs.append(torch.from_numpy(rng.integers(0, 255, (3, SIZE, SIZE), dtype=np.uint8)))
        corners = torch.from_numpy(rng.uniform(0, SIZE - 12, (boxes, 2)).astype(np.float32))
        truth = InstanceData(
            bboxes=torch.cat([corners, corners + 10], dim=1),
            labels=torch.arange(boxes) % 2,
        )
        shape = {"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=shape, gt_instances=truth)
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def loss_of(detector: nn.Module, data: dict, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The total loss and its parts in training mode; ``seed`` is that of the samplers."""
    detector.train()
    torch.manual_seed(seed)
    prepared = detector.data_preprocessor(data, training=True)
    return detector.parse_losses(detector(**prepared, mode="loss"))


@torch.no_grad()
def predict(detector: nn.Module, data: dict) -> list[InstanceData]:
    """The predictions of every image."""
    detector.eval()
    prepared = detector.data_preprocessor(data, training=False)
    return [one.pred_instances for one in detector(**prepared, mode="predict")]
