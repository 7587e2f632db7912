"""What the tests of published values share: the configs, the schedule, the data sets."""

from __future__ import annotations

from functools import cache
from typing import Any

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

NAMES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.glob("[!_]*/*.py")
    if path.parent.name != "demo"
)


@cache
def config_of(name: str) -> Config:
    """A config, which no test may change."""
    return Config.fromfile(CONFIGS / f"{name}.py")


def value_at(config: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if config is None:
            return None
        config = config[int(part)] if part.isdecimal() else config.get(part)
    return config


def data_set(name: str) -> dict[str, Any]:
    """The row of ``DATA`` that a config trains on."""
    return DATA[name.rpartition("_")[2]]


def check_schedule(name: str, wanted: dict[str, Any]) -> None:
    """A config trains by ``SCHEDULE`` but for ``wanted``, and its hook knows the rate and the batch."""
    config, wanted = config_of(name), SCHEDULE | wanted
    assert {key: value_at(config, key) for key in wanted} == wanted
    assert len(config.param_scheduler) == 2
    (check,) = (one for one in config.custom_hooks if one.type == "CheckScheduleHook")
    fastest = config.optim_wrapper.get("paramwise_cfg", {}).get("bias_lr_mult", 1.0)
    assert check.lr == config.optim_wrapper.optimizer.lr * fastest
    assert check.batch_size == config.auto_scale_lr.base_batch_size
