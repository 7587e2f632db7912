"""Every config builds, takes a training step and an inference step."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.config import Config
from small_detectors import (
    CONFIGS,
    batch,
    build,
    loss_of,
    one_thread,  # noqa: F401
    predict,
    small_config,
)

NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.glob("[!_]*/*.py")
    if path.parent.name != "demo"
)
DETECTORS = ("faster_rcnn", "cascade_rcnn", "detectors")
DATA_SETS = {"aitod": 8, "aitodv2": 8, "visdrone": 10, "dota2": 18}


def test_none_is_missing() -> None:
    wanted = {
        f"{detector}/{model}_{data}.py"
        for detector in DETECTORS
        for data in DATA_SETS
        for model in ("rfla", "efpn_bs")
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_infers(name: str) -> None:
    config = small_config(name)
    detector = build(config.model)
    total, parts = loss_of(detector, batch())
    total.backward()
    assert torch.isfinite(total)
    assert any("loss_bbox" in part for part in parts)
    for parameter_name, parameter in detector.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), parameter_name
    for predicted in predict(detector, batch(images=1)):
        assert predicted.bboxes.shape == (len(predicted.scores), 4)


@pytest.mark.parametrize("name", NAMES)
def test_classes_match_the_data_set(name: str) -> None:
    config = Config.fromfile(CONFIGS / name)
    heads = config.model.roi_head.bbox_head
    classes = {head.num_classes for head in (heads if isinstance(heads, list) else [heads])}
    assert classes == {DATA_SETS[name.removesuffix(".py").rpartition("_")[2]]}


@pytest.mark.parametrize("name", [name for name in NAMES if "efpn_bs" in name])
def test_full_configs_use_the_paper(name: str) -> None:
    model = Config.fromfile(CONFIGS / name).model
    assert model.neck.type == "EFPNBSNeck"
    heads = model.roi_head.bbox_head
    for head in [model.rpn_head, *(heads if isinstance(heads, list) else [heads])]:
        assert head.loss_bbox.type == "DCLoss"
    assert model.rpn_head.anchor_generator.type == "RFAnchorGenerator"
    assert model.train_cfg.rpn.assigner.type == "HierarchicalAssigner"


def test_schedule_is_the_papers() -> None:
    config = Config.fromfile(CONFIGS / "faster_rcnn/efpn_bs_aitod.py")
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.005, 0.9, 0.0001)
    assert config.train_cfg.max_epochs == 12
    assert config.param_scheduler[1].milestones == [8, 11]
    assert config.train_dataloader.batch_size == 2
