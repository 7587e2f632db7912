"""Detectors of the configs at a size that trains in a second on a CPU, and images for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
    neck = model["neck"]
    if neck is not None:
        neck = neck["base"] if neck["type"] == "EFPNBSNeck" else neck
        neck.update(in_channels=BACKBONE_CHANNELS, out_channels=CHANNELS)
        if neck["type"] == "AlignFPN":
            neck["norm_cfg"] = {"type": "GN", "num_groups": 2}
    _shrink_backbones(model, neck or {})
    if neck is not None and "rpn_head" in model:
        _shrink_two_stage(model)
    if "srtod" in model:
        model["srtod"].update(channels=CHANNELS, reduction=4)
    if "bbox_head" in model:
        _shrink_dense_head(model["bbox_head"])
    for config in (model.get("train_cfg") or {}, model["test_cfg"]):
        for name in ("rpn_proposal", "rpn"):
            if config.get(name) and "nms_pre" in config[name]:
                config[name].update(nms_pre=64, max_per_img=32)
    if "rcnn" in model["test_cfg"]:
        model["test_cfg"]["rcnn"].update(score_thr=0.0, max_per_img=10)
    else:
        model["test_cfg"].update(score_thr=0.0, nms_pre=64, max_per_img=10)


def _shrink_backbones(model: dict, neck: dict) -> None:
    # Weights that are not Caffe's want inputs of size one and statistics of their own.
    model["data_preprocessor"]["std"] = [58.395, 57.12, 57.375]
    backbones = [model["backbone"]] + ([neck["rfp_backbone"]] if "rfp_backbone" in neck else [])
    for backbone in backbones:
        backbone.update(frozen_stages=-1, norm_eval=False, norm_cfg={"type": "BN"})
        if model["neck"] is not None:  # TridentNet's last stage has the width of ResNet-50's
            backbone["base_channels"] = BASE_CHANNELS
        backbone.pop("init_cfg", None)
        if backbone["type"] == "TridentResNet":  # leaves TridentConv's weights to the checkpoint
            backbone["init_cfg"] = {"type": "Kaiming", "layer": ["Conv2d", "TridentConv"]}
        backbone.pop("pretrained", None)
    if "rfp_backbone" in neck:
        neck["rfp_backbone"]["rfp_inplanes"] = CHANNELS
        neck["aspp_out_channels"] = CHANNELS // 4
    shared = model.get("roi_head", {}).get("shared_head")
    if shared is not None:
        shared.update(norm_cfg={"type": "BN"}, norm_eval=False, init_cfg=None)
        model["train_cfg"]["rcnn"]["sampler"]["num"] = 8  # each goes through ResNet-50's last stage


def _shrink_two_stage(model: dict) -> None:
    roi_head = model["roi_head"]
    for name in ("bbox_roi_extractor", "grid_roi_extractor"):
        if name in roi_head:
            roi_head[name]["out_channels"] = CHANNELS
    if roi_head["type"] == "SparseRoIHead":
        _shrink_sparse(model)
        return
    model["rpn_head"].update(in_channels=CHANNELS, feat_channels=CHANNELS)
    heads = roi_head["bbox_head"]
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=CHANNELS, fc_out_channels=16)
    if "grid_head" in roi_head:
        roi_head["grid_head"].update(in_channels=CHANNELS, num_convs=1, point_feat_channels=4)
        roi_head["grid_head"]["norm_cfg"].update(num_groups=9)


def _shrink_sparse(model: dict) -> None:
    roi_head, stages = model["roi_head"], 2
    model["rpn_head"].update(num_proposals=10, proposal_feature_channel=CHANNELS)
    roi_head.update(num_stages=stages, proposal_feature_channel=CHANNELS)
    for settings, name in (
        *((roi_head, "stage_loss_weights"), (roi_head, "bbox_head"), (model["train_cfg"], "rcnn")),
    ):
        settings[name] = settings[name][:stages]
    for head in roi_head["bbox_head"]:
        head.update(in_channels=CHANNELS, num_heads=2, feedforward_channels=16)
        head["dynamic_conv_cfg"].update(
            in_channels=CHANNELS, feat_channels=4, out_channels=CHANNELS
        )


def _shrink_dense_head(head: dict) -> None:
    head.update(in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1)
    if "point_feat_channels" in head:
        head["point_feat_channels"] = CHANNELS
    if head["type"] in ("ATSSHead", "AutoAssignHead", "FSANetHead"):
        head["norm_cfg"] = {"type": "GN", "num_groups": 2}


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


def batch(images: int = 2, boxes: int | Sequence[int] = 3, seed: int = 0) -> dict:
    """What a data loader gives: uint8 images with squares in them, and their samples.

    ``boxes``: how many there are in each image, or one number for all.
    """
    counts = [boxes] * images if isinstance(boxes, int) else boxes
    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for count in counts:
        inputs.append(torch.from_numpy(rng.integers(0, 255, (3, SIZE, SIZE), dtype=np.uint8)))
        corners = torch.from_numpy(rng.uniform(0, SIZE - 12, (count, 2)).astype(np.float32))
        truth = InstanceData(
            bboxes=torch.cat([corners, corners + 10], dim=1),
            labels=torch.arange(count) % 2,
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
