"""The published values: one table for each data set and each method, that every config is held to.

A config that means another value says so in ``DEVIATIONS``, with its reason.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("mmdet.registry")

from mmengine.config import Config
from small_detectors import CONFIGS

SCHEDULE = {
    "train_cfg.type": "EpochBasedTrainLoop",
    "train_cfg.max_epochs": 12,
    "train_cfg.val_interval": 1,
    "param_scheduler.0": dict(
        type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=5000
    ),
    "param_scheduler.1": dict(
        type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1
    ),
    "optim_wrapper.type": "OptimWrapper",
    "optim_wrapper.optimizer": dict(type="SGD", lr=0.005, momentum=0.9, weight_decay=0.0001),
    "optim_wrapper.clip_grad": None,
    "auto_scale_lr": dict(enable=False, base_batch_size=2),
    "train_dataloader.batch_size": 2,
    "train_dataloader.sampler.shuffle": True,
    "train_dataloader.persistent_workers": False,
    "test_dataloader.batch_size": 1,
    "test_dataloader.sampler.shuffle": False,
    "test_dataloader.drop_last": False,
}

DETECTOR = {
    "model.backbone.depth": 50,
    "model.backbone.frozen_stages": 1,
    "model.backbone.norm_eval": True,
    "model.data_preprocessor.mean": [123.675, 116.28, 103.53],
    "model.data_preprocessor.std": [58.395, 57.12, 57.375],
    "model.data_preprocessor.bgr_to_rgb": True,
    "model.rpn_head.anchor_generator.strides": [4, 8, 16, 32, 64],
    "model.rpn_head.bbox_coder.target_stds": [1.0, 1.0, 1.0, 1.0],
    "model.train_cfg.rpn.sampler.num": 256,
    "model.train_cfg.rpn.sampler.pos_fraction": 0.5,
    "model.train_cfg.rpn_proposal.nms_pre": 3000,
    "model.train_cfg.rpn_proposal.max_per_img": 3000,
    "model.train_cfg.rpn_proposal.nms.iou_threshold": 0.7,
    "model.test_cfg.rpn.nms_pre": 3000,
    "model.test_cfg.rpn.max_per_img": 3000,
    "model.test_cfg.rpn.nms.iou_threshold": 0.7,
    "model.test_cfg.rcnn.score_thr": 0.05,
    "model.test_cfg.rcnn.nms.iou_threshold": 0.5,
    "model.test_cfg.rcnn.max_per_img": 3000,
}

STAGES = {
    "target_stds": [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]],
    "iou": [0.5, 0.6, 0.7],
}
"""Of the cascades; a single stage has the first of each."""

BORDER = {"FasterRCNN": -1, "CascadeRCNN": 0}
RPN_LOSS = {
    "FasterRCNN": dict(type="L1Loss", loss_weight=1.0),
    "CascadeRCNN": dict(type="SmoothL1Loss", beta=1 / 9, loss_weight=1.0),
}
ROI_LOSS = {
    "FasterRCNN": dict(type="L1Loss", loss_weight=1.0),
    "CascadeRCNN": dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
}
DC_LOSS = {
    "rpn": dict(type="DCLoss", delta_range=(0.05, 0.5)),
    "roi": dict(type="DCLoss"),
}

DATA: dict[str, dict[str, Any]] = {
    "aitod": dict(
        type="AITODDataset",
        root="data/aitod/",
        classes=8,
        train=("annotations/aitod_trainval_v1.json", "trainval/"),
        test=("annotations/aitod_test_v1.json", "test/"),
        scale=(800, 800),
        topk=(3, 1),
    ),
    "aitodv2": dict(
        type="AITODDataset",
        root="data/aitod/",
        classes=8,
        train=("annotations/aitodv2_trainval.json", "trainval/"),
        test=("annotations/aitodv2_test.json", "test/"),
        scale=(800, 800),
        topk=(3, 1),
    ),
    "visdrone": dict(
        type="VisDroneDataset",
        root="data/visdrone/",
        classes=10,
        train=("train.json", "VisDrone2019-DET-train/images/"),
        test=("val.json", "VisDrone2019-DET-val/images/"),
        scale=(1333, 800),
        topk=(3, 1),
    ),
    "dota2": dict(
        type="DOTA2HBBDataset",
        root="data/dota2/",
        classes=18,
        train=("train/annotations.json", "train/images/"),
        test=("val/annotations.json", "val/images/"),
        scale=(1024, 1024),
        topk=(2, 1),
    ),
}

DEVIATIONS: dict[str, dict[str, Any]] = {}
"""By a config's name: the keys of ``SCHEDULE`` and ``DETECTOR`` that it sets otherwise, and to what."""

NAMES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.glob("[!_]*/*.py")
    if path.parent.name != "demo"
)
every_config = pytest.mark.parametrize("name", NAMES)
# The detectors that the paper's experiments are made with; test_tables.py holds the other rows of its tables.
RCNN_FOLDERS = ("ablation", "baselines", "cascade_rcnn", "delta_sweep", "detectors", "faster_rcnn")
OTHER_ROWS = ("dotd", "nwd")
every_rcnn = pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if name.split("/")[0] in RCNN_FOLDERS and not any(word in name for word in OTHER_ROWS)
    ],
)


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    return {name: Config.fromfile(CONFIGS / f"{name}.py") for name in NAMES}


def value_at(config: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        config = config[int(part)] if part.isdecimal() else config.get(part)
    return config


def data_set(name: str) -> dict[str, Any]:
    return DATA[name.rpartition("_")[2]]


def stages(model: Any) -> list[tuple[Any, Any]]:
    """The RoI heads with the settings that each is trained with."""
    heads, settings = model.roi_head.bbox_head, model.train_cfg.rcnn
    return (
        list(zip(heads, settings, strict=True)) if isinstance(heads, list) else [(heads, settings)]
    )


@every_rcnn
def test_schedule_and_detector(configs: dict[str, Config], name: str) -> None:
    wanted = SCHEDULE | DETECTOR | DEVIATIONS.get(name, {})
    found = {key: value_at(configs[name], key) for key in wanted}
    assert found == wanted
    assert len(configs[name].param_scheduler) == 2
    (check,) = (one for one in configs[name].custom_hooks if one.type == "CheckScheduleHook")
    assert (check.lr, check.batch_size) == (
        configs[name].optim_wrapper.optimizer.lr,
        configs[name].train_dataloader.batch_size,
    )


@every_config
def test_every_split_reads_its_own_files(configs: dict[str, Config], name: str) -> None:
    config, data = configs[name], data_set(name)
    for split, loader in (
        ("train", config.train_dataloader),
        ("test", config.val_dataloader),
        ("test", config.test_dataloader),
    ):
        dataset = loader.dataset
        assert dataset.type == data["type"]
        assert dataset.data_root == data["root"]
        assert (dataset.ann_file, dataset.data_prefix.img) == data[split], split
        resize = [step.scale for step in dataset.pipeline if step.type == "Resize"]
        assert resize == [data["scale"]], split
        assert dataset.get("test_mode", False) == (split == "test")
        flips = [step.prob for step in dataset.pipeline if step.type == "RandomFlip"]
        assert flips == ([0.5] if split == "train" else []), split
    assert data["train"] != data["test"]
    assert config.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=True, min_size=32)
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.type == "AITODMetric"
        assert evaluator.ann_file == data["root"] + data["test"][0]


def test_the_two_aitods_differ_in_their_annotations_alone() -> None:
    first, second = DATA["aitod"], DATA["aitodv2"]
    assert {key for key in first if first[key] != second[key]} == {"train", "test"}
    assert first["train"][1] == second["train"][1]
    assert first["test"][1] == second["test"][1]


@every_rcnn
def test_heads(configs: dict[str, Config], name: str) -> None:
    model, data = configs[name].model, data_set(name)
    cascade = model.type == "CascadeRCNN"
    assert model.train_cfg.rpn.allowed_border == BORDER[model.type]
    found = stages(model)
    assert len(found) == (3 if cascade else 1)
    for (head, trained), stds, iou in zip(
        found, STAGES["target_stds"], STAGES["iou"], strict=False
    ):
        assert head.num_classes == data["classes"]
        assert head.bbox_coder.target_stds == stds
        assert head.reg_class_agnostic == cascade
        assigner = trained.assigner
        assert (assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou) == (iou,) * 3
        assert (trained.sampler.num, trained.sampler.pos_fraction) == (512, 0.25)
    if cascade:
        assert model.roi_head.stage_loss_weights == [1, 0.5, 0.25]


@every_rcnn
def test_losses(configs: dict[str, Config], name: str) -> None:
    """The paper's where the name says so; k and delta of Fig. 7 are those of the file's name."""
    model = configs[name].model
    rpn, roi = model.rpn_head.loss_bbox, [head.loss_bbox for head, _ in stages(model)]
    if "efpn_bs" in name or "dc_loss" in name:
        assert rpn == DC_LOSS["rpn"]
        assert all(one == DC_LOSS["roi"] for one in roi)
    elif name.startswith("delta_sweep/"):
        delta = int(re.search(r"delta_(\d{3})_", name)[1]) / 100
        for one in (rpn, *roi):
            assert (one.type, one.k, one.delta, one.learnable) == ("DCLoss", 10.0, delta, False)
    else:
        assert rpn == RPN_LOSS[model.type]
        assert all(one == ROI_LOSS[model.type] for one in roi)
    assert model.rpn_head.loss_cls == dict(
        type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0
    )


@every_rcnn
def test_neck(configs: dict[str, Config], name: str) -> None:
    """The full block in the paper's configs; Table 5's ticks are those of the file's name."""
    neck = configs[name].model.neck
    folder, _, file = name.partition("/")
    ticks = {
        "cem": (True, False),
        "fbsm": (False, True),
        "cem_fbsm": (True, True),
    }.get(file.rpartition("_")[0])
    if folder == "ablation" and ticks is not None:
        assert (neck.get("use_cem", True), neck.get("use_fbsm", True)) == ticks
        assert neck.type == "EFPNBSNeck"
    elif file.startswith("efpn_bs") or folder == "delta_sweep":
        assert neck.type == "EFPNBSNeck"
        assert set(neck) == {"type", "base"}, "the defaults are the paper's"
    else:
        assert neck.type in ("FPN", "RFP")
    base = neck.get("base", neck)
    assert (base.out_channels, base.num_outs) == (256, 5)


@every_rcnn
def test_anchors_and_assignment(configs: dict[str, Config], name: str) -> None:
    rpn = configs[name].model.rpn_head
    assigner = configs[name].model.train_cfg.rpn.assigner
    if not name.startswith("baselines/"):
        assert rpn.anchor_generator.type == "RFAnchorGenerator"
        assert set(rpn.anchor_generator) == {"type", "strides"}, "half of the receptive field"
        assert assigner.type == "HierarchicalAssigner"
        assert tuple(assigner.topk) == data_set(name)["topk"]
        assert assigner.similarity == "kl"
        assert assigner.published_rescale == ("clean" not in name)
        return
    assert rpn.anchor_generator.type == "AnchorGenerator"
    assert rpn.anchor_generator.ratios == [0.5, 1.0, 2.0]
    scale = re.search(r"scale(\d)", name)
    assert rpn.anchor_generator.scales == [int(scale[1]) if scale else 2]
    thresholds = assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou
    assert (assigner.type, *thresholds) == ("ChunkedMaxIoUAssigner", 0.7, 0.3, 0.3)
    assert ("iou_calculator" in assigner) == ("nwd" in name)
