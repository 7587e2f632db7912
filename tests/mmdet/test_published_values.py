"""The published values of the paper's detectors and of the methods that change their RPN, one table for each.

A config that means another value says so in ``DEVIATIONS``. The other detectors: ``test_published_detectors.py``.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("mmdet.registry")

from published import DATA, NAMES, check_schedule, config_of, data_set, value_at

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

NWD = dict(type="nwd", constant=12.8)
NWD_NMS = dict(type="similarity", similarity=NWD, threshold=0.85)
WARM_UP_2000 = {
    "param_scheduler.0": dict(
        type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=2000
    )
}


def nwd(loss_weight: float, decoded: bool) -> dict[str, Any]:
    """NWD in the RPN's assignment, in its loss, of decoded or of encoded boxes, and in its NMS."""
    return {
        "model.rpn_head.type": "SimilarityRPNHead",
        "model.rpn_head.reg_decoded_bbox": decoded,
        "model.rpn_head.loss_bbox": dict(type="NWDLoss", constant=12.8, loss_weight=loss_weight),
        "model.train_cfg.rpn.assigner.iou_calculator": dict(type="BoxSimilarity", similarity=NWD),
        "model.train_cfg.rpn_proposal.nms": NWD_NMS,
        "model.train_cfg.rpn_proposal.nms.iou_threshold": None,
        "model.test_cfg.rpn.nms": NWD_NMS,
        "model.test_cfg.rpn.nms.iou_threshold": None,
    }


RKA = {
    "model.train_cfg.rpn.assigner": dict(
        type="HierarchicalAssigner",
        similarity=dict(type="nwd", constant=12.7),
        topk=(3, 0),
        background_below=0.3,
    )
}
DEVIATIONS: dict[str, dict[str, Any]] = {
    "baselines/faster_rcnn_dotd_aitod": {
        "model.train_cfg.rpn.assigner.iou_calculator": dict(
            type="BoxSimilarity", similarity=dict(type="dotd", size=12.7)
        )
    },
    "baselines/faster_rcnn_nwd_aitod": nwd(10.0, decoded=True),
    # Their public configs leave reg_decoded_bbox at mmdet's default.
    "baselines/cascade_rcnn_nwd_aitod": nwd(10.0, decoded=False),
    "baselines/detectors_nwd_logged_aitod": nwd(5.0, decoded=False) | WARM_UP_2000,
    "baselines/detectors_nwd_aitod": nwd(5.0, decoded=True) | WARM_UP_2000,
    "baselines/detectors_nwd_all_stages_aitod": {
        f"model.train_cfg.{stage}.assigner.iou_calculator": dict(
            type="BoxSimilarity", similarity=NWD
        )
        for stage in ("rpn", "rcnn.0", "rcnn.1", "rcnn.2")
    },
    "baselines/detectors_nwd_rka_aitod": RKA,
    "baselines/detectors_nwd_rka_aitodv2": RKA,
}
"""By a config's name: the keys that it sets otherwise than the tables above or besides them, and to what."""

every_config = pytest.mark.parametrize("name", NAMES)
RCNN_FOLDERS = ("ablation", "baselines", "cascade_rcnn", "delta_sweep", "detectors", "faster_rcnn")
every_rcnn = pytest.mark.parametrize(
    "name", [name for name in NAMES if name.split("/")[0] in RCNN_FOLDERS]
)


def stages(model: Any) -> list[tuple[Any, Any]]:
    """The RoI heads with the settings that each is trained with."""
    heads, settings = model.roi_head.bbox_head, model.train_cfg.rcnn
    return (
        list(zip(heads, settings, strict=True)) if isinstance(heads, list) else [(heads, settings)]
    )


def deviations(name: str, *prefixes: str) -> dict[str, Any]:
    """Those at keys that begin so."""
    return {
        key: value for key, value in DEVIATIONS.get(name, {}).items() if key.startswith(prefixes)
    }


@every_rcnn
def test_schedule_and_detector(name: str) -> None:
    check_schedule(name, deviations(name, "param_scheduler", "optim_wrapper", "train_dataloader"))
    wanted = DETECTOR | deviations(name, "model")
    assert {key: value_at(config_of(name), key) for key in wanted} == wanted


def class_counts(config: Any) -> set[int]:
    """Every ``num_classes`` in a config."""
    if isinstance(config, dict):
        inside = set().union(*map(class_counts, config.values()))
        return inside | ({config["num_classes"]} if "num_classes" in config else set())
    return set().union(*map(class_counts, config)) if isinstance(config, list | tuple) else set()


@every_config
def test_classes_match_the_data_set(name: str) -> None:
    assert class_counts(config_of(name).model) == {data_set(name)["classes"]}


@every_config
def test_every_split_reads_its_own_files(name: str) -> None:
    config, data = config_of(name), data_set(name)
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
def test_heads(name: str) -> None:
    model, data = config_of(name).model, data_set(name)
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
def test_losses(name: str) -> None:
    """The paper's where the name says so; k and delta of Fig. 7 are those of the file's name."""
    model = config_of(name).model
    rpn, roi = model.rpn_head.loss_bbox, [head.loss_bbox for head, _ in stages(model)]
    if "efpn_bs" in name or "dc_loss" in name:
        assert rpn == DC_LOSS["rpn"]
        assert all(one == DC_LOSS["roi"] for one in roi)
    elif name.startswith("delta_sweep/"):
        delta = int(re.search(r"delta_(\d{3})_", name)[1]) / 100
        for one in (rpn, *roi):
            assert (one.type, one.k, one.delta, one.learnable) == ("DCLoss", 10.0, delta, False)
    else:
        own = deviations(name, "model.rpn_head.loss_bbox")
        assert rpn == own.get("model.rpn_head.loss_bbox", RPN_LOSS[model.type])
        assert all(one == ROI_LOSS[model.type] for one in roi)
    assert model.rpn_head.loss_cls == dict(
        type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0
    )


@every_rcnn
def test_neck(name: str) -> None:
    """The full block in the paper's configs; Table 5's ticks are those of the file's name."""
    neck = config_of(name).model.neck
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
def test_anchors_and_assignment(name: str) -> None:
    rpn = config_of(name).model.rpn_head
    assigner = config_of(name).model.train_cfg.rpn.assigner
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
    scale = 2 if "scale2" in name else 8
    assert rpn.anchor_generator.scales == [scale]
    own = deviations(name, "model.train_cfg.rpn.assigner")
    if "model.train_cfg.rpn.assigner" in own:
        return  # held to that
    thresholds = assigner.pos_iou_thr, assigner.neg_iou_thr, assigner.min_pos_iou
    assert (assigner.type, *thresholds) == ("ChunkedMaxIoUAssigner", 0.7, 0.3, 0.3)
    assert ("iou_calculator" in assigner) == bool(own)


@every_rcnn
def test_a_method_stands_where_it_is_published_alone(name: str) -> None:
    """NWD and DotD replace IoU in no stage that has none of them."""
    own = DEVIATIONS.get(name, {})
    for i, (_, trained) in enumerate(stages(config_of(name).model)):
        stage = f"model.train_cfg.rcnn.{i}.assigner.iou_calculator"
        assert ("iou_calculator" in trained.assigner) == (stage in own)


def test_every_method_has_its_row() -> None:
    methods = ("nwd", "dotd", "rka")
    named = {
        name for name in NAMES if name.startswith("baselines/") and any(m in name for m in methods)
    }
    assert set(DEVIATIONS) == named
