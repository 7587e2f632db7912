"""The other detectors of the paper's tables: mmdet's own config of each, and the published values that differ from it.

A model has no key that is neither mmdet's nor in its row of ``MODELS``. FSANet and SR-TOD, which mmdet has not, have
rows of values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet.registry")

import mmdet
from mmengine.config import Config
from published import NAMES, check_schedule, config_of, value_at

MMDET = Path(mmdet.__file__).parent / ".mim" / "configs"
ABSENT = "absent"
CHUNKED = "ChunkedMaxIoUAssigner"  # mmdet's, with bounded memory


def warm_up(kind: str, iterations: int, **factor: float) -> dict[str, Any]:
    """The row of a schedule that differs in its first iterations."""
    return {"param_scheduler.0": dict(type=kind, by_epoch=False, begin=0, end=iterations, **factor)}


def of_total(batch: int, each: int = 2) -> dict[str, Any]:
    """A total batch, and that of each GPU."""
    return {
        "auto_scale_lr": dict(enable=False, base_batch_size=batch),
        "train_dataloader.batch_size": each,
    }


def sgd(lr: float) -> dict[str, Any]:
    return {"optim_wrapper.optimizer": dict(type="SGD", lr=lr, momentum=0.9, weight_decay=0.0001)}


CLIP_35 = {"optim_wrapper.clip_grad": dict(max_norm=35, norm_type=2)}
DETECTIONS = {"test_cfg.nms_pre": 3000, "test_cfg.max_per_img": 3000}
PROPOSALS = {
    f"{part}.{key}": 3000
    for part in ("train_cfg.rpn_proposal", "test_cfg.rpn")
    for key in ("nms_pre", "max_per_img")
}
FCOS = DETECTIONS | {
    "backbone.init_cfg.checkpoint": "open-mmlab://detectron/resnet50_caffe",
    "bbox_head.norm_cfg": None,
    "bbox_head.dcn_on_last_conv": ABSENT,
    "bbox_head.loss_bbox.type": "DIoULoss",
    "test_cfg.nms.iou_threshold": 0.5,
}
FCOS_P2 = {key: value for key, value in FCOS.items() if key != "bbox_head.loss_bbox.type"} | {
    "neck.start_level": 0,
    "bbox_head.strides": [4, 8, 16, 32, 64],
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "atss/plain_aitod": ("atss/atss_r50_fpn_1x_coco", DETECTIONS),
    "autoassign/plain_aitod": (
        "autoassign/autoassign_r50-caffe_fpn_1x_coco",
        {"data_preprocessor.mean": [103.53, 116.28, 123.675], "test_cfg.max_per_img": 1000},
    ),
    "fcos/plain_aitod": (
        "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco",
        FCOS,
    ),
    "foveabox/plain_aitodv2": (
        "foveabox/fovea_r50_fpn_4xb4-1x_coco",
        DETECTIONS | {"test_cfg.min_bbox_size": 0},
    ),
    "grid_rcnn/plain_aitodv2": (
        "grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco",
        PROPOSALS
        | {
            "train_cfg.rpn.assigner.type": CHUNKED,
            "train_cfg.rpn.assigner.match_low_quality": True,
            "train_cfg.rcnn.assigner.match_low_quality": True,
            # mmdet's defaults, spelt out; the head does not regress.
            "roi_head.bbox_head.loss_cls": dict(
                type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0
            ),
            "roi_head.bbox_head.loss_bbox": dict(type="L1Loss", loss_weight=1.0),
        },
    ),
    "reppoints/plain_aitodv2": (
        "reppoints/reppoints-moment_r50_fpn_1x_coco",
        DETECTIONS | {"train_cfg.refine.assigner.type": CHUNKED},
    ),
    "retinanet/plain_aitodv2": (
        "retinanet/retinanet_r50_fpn_1x_coco",
        DETECTIONS | {"train_cfg.assigner.type": CHUNKED},
    ),
    "sparse_rcnn/plain_aitod": ("sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco", {}),
    "tridentnet/plain_aitodv2": (
        "tridentnet/tridentnet_r50-caffe_1x_coco",
        {
            "neck": None,
            "train_cfg.rpn.assigner.type": CHUNKED,
            "train_cfg.rpn_proposal.nms_pre": 3000,
            "test_cfg.rpn.nms_pre": 3000,
            "test_cfg.rpn.max_per_img": 3000,
            "test_cfg.rcnn.max_per_img": 3000,
        },
    ),
}
MODELS["fcos/plain_aitodv2"] = MODELS["fcos/plain_aitod"]
MODELS["fcos/plain_p2_aitod"] = (MODELS["fcos/plain_aitod"][0], FCOS_P2)
MODELS["retinanet/nwd_rka_aitodv2"] = (
    MODELS["retinanet/plain_aitodv2"][0],
    DETECTIONS
    | {
        "train_cfg.assigner": dict(
            type="HierarchicalAssigner",
            similarity=dict(type="nwd", constant=12.7),
            topk=(2, 0),
            background_below=0.3,
        )
    },
)

FCOS_SCHEDULE = (
    warm_up("ConstantLR", 10000, factor=1 / 3)
    | CLIP_35
    | {"optim_wrapper.paramwise_cfg": dict(bias_lr_mult=2.0, bias_decay_mult=0.0)}
)
WARM_UP_500 = warm_up("LinearLR", 500, start_factor=0.001)
SCHEDULES: dict[str, dict[str, Any]] = {
    "atss/plain_aitod": sgd(0.0025) | warm_up("ConstantLR", 2000, factor=1 / 3) | of_total(8),
    "autoassign/plain_aitod": of_total(4, 4)
    | {"optim_wrapper.paramwise_cfg": dict(norm_decay_mult=0.0)},
    "fcos/plain_aitod": FCOS_SCHEDULE,
    "fcos/plain_aitodv2": FCOS_SCHEDULE,
    "fcos/plain_p2_aitod": FCOS_SCHEDULE,
    "fsanet/plain_aitod": sgd(0.002)
    | warm_up("LinearLR", 500, start_factor=1 / 3)
    | of_total(8, 4)
    | CLIP_35,
    "retinanet/plain_aitodv2": WARM_UP_500,
    "retinanet/nwd_rka_aitodv2": WARM_UP_500,
    "sparse_rcnn/plain_aitod": {
        "optim_wrapper.optimizer": dict(type="AdamW", lr=0.000025, weight_decay=0.0001),
        "optim_wrapper.clip_grad": dict(max_norm=1, norm_type=2),
        "auto_scale_lr": dict(enable=False, base_batch_size=16),
    },
}
"""What differs from the paper's schedule; whoever is not in it trains by that one."""

VALUES: dict[str, dict[str, Any]] = {
    "fsanet/plain_aitod": {
        "type": "FCOS",
        "backbone.depth": 50,
        "neck": dict(type="AlignFPN", in_channels=[256, 512, 1024, 2048], out_channels=256),
        "bbox_head.type": "FSANetHead",
        "bbox_head.stacked_convs": 3,
        "bbox_head.loss_cls": dict(
            type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
        ),
        "test_cfg.score_thr": 0.1,
        "test_cfg.nms": dict(type="soft_nms", iou_threshold=0.5),
        "test_cfg.nms_pre": 3000,
        "test_cfg.max_per_img": 1500,
    },
    "srtod/detectors_aitod": {
        "type": "SRTODCascadeRCNN",
        "srtod": dict(channels=256, threshold=3 / 255),
        "rpn_head.anchor_generator.scales": [4],
    },
}
STRIDES = {"fcos/neck_p2": (4, 32), "grid_rcnn/neck": (4, 32), "sparse_rcnn/neck": (4, 32)}
"""The levels of E-FPN-BS; of the others P3, their lowest, guided by P5."""

PLAIN = sorted(MODELS.keys() | VALUES.keys())
FOLDERS = {name.split("/")[0] for name in PLAIN}
OTHERS = [name for name in NAMES if name.split("/")[0] in FOLDERS]
NECKS = [name for name in OTHERS if "neck" in name]


def test_every_config_has_a_row() -> None:
    assert sorted({*OTHERS} - {*NECKS}) == PLAIN
    assert {*SCHEDULES} <= {*PLAIN}


def differences(ours: Any, theirs: Any, wanted: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Our values by dotted key where they differ; of a key in ``wanted`` as a whole."""
    if at not in wanted and isinstance(ours, dict) and isinstance(theirs, dict):
        found: dict[str, Any] = {}
        for key in ours.keys() | theirs.keys():
            pair = ours.get(key, ABSENT), theirs.get(key, ABSENT)
            found |= differences(*pair, wanted, f"{at}.{key}".lstrip("."))
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [differences(*pair, {}) for pair in zip(ours, theirs, strict=True)]
        return {at: ours} if any(pairs) else {}
    return {at: ours} if ours != theirs else {}


def without_classes(config: Any) -> Any:
    """A config without the data set's number of classes."""
    if isinstance(config, dict):
        return {k: without_classes(v) for k, v in config.items() if k != "num_classes"}
    return [without_classes(one) for one in config] if isinstance(config, list) else config


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_mmdets_but_for_the_published_values(name: str) -> None:
    file, wanted = MODELS[name]
    theirs = Config.fromfile(MMDET / f"{file}.py").model.to_dict()
    pair = without_classes(config_of(name).model.to_dict()), without_classes(theirs)
    assert differences(*pair, wanted) == wanted


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_model_has_the_published_values(name: str) -> None:
    assert {key: value_at(config_of(name).model, key) for key in VALUES[name]} == VALUES[name]


def test_srtod_is_detectors_but_for_these() -> None:
    model, of_base = (
        config_of(name).model.to_dict()
        for name in ("srtod/detectors_aitod", "baselines/detectors_scale8_aitod")
    )
    wanted = VALUES["srtod/detectors_aitod"]
    assert differences(model, of_base, wanted) == wanted


@pytest.mark.parametrize("name", PLAIN)
def test_schedule(name: str) -> None:
    check_schedule(name, SCHEDULES.get(name, {}))


@pytest.mark.parametrize("name", NECKS)
def test_with_the_neck_nothing_else_differs(name: str) -> None:
    ours, plain = (
        config_of(one).to_dict()
        for one in (name, name.replace("neck", "plain").replace("detectors_plain", "detectors"))
    )
    neck, base = ours["model"].pop("neck"), plain["model"].pop("neck")
    assert ours == plain
    levels = dict(low_stride=8, high_stride=32)
    if name.startswith("fsanet/"):  # its neck says no strides
        levels = dict(low_level=0, high_level=2)
    elif name.startswith("srtod/"):
        levels = {}
    elif strides := STRIDES.get(name.rpartition("_")[0]):
        levels = dict(zip(("low_stride", "high_stride"), strides, strict=True))
    assert neck == dict(type="EFPNBSNeck", base=base, **levels)
