"""What mmdet's and mmengine's own tools and hooks expect of data sets, metrics and configs."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import mmdet
import pytest

pytest.importorskip("mmdet.registry")

from mmdet.registry import DATASETS
from mmdet.visualization import get_palette
from mmengine.config import Config
from mmengine.runner import Runner
from small_detectors import one_thread, small_config, write_data_set  # noqa: F401

from efpn_mmdet.classes import AITOD
from efpn_mmdet.hooks import CheckpointHook, EarlyStoppingHook

FULL = "faster_rcnn/efpn_bs_aitod.py"
TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"
NAMES = ("AITODDataset", "VisDroneDataset", "DOTA2HBBDataset", "TinyDemoDataset")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), AITOD, images=2)


def training(data: Path, work_dir: Path, **changes: object) -> Config:
    config = small_config(FULL, data=data)
    config.work_dir = str(work_dir)
    config.log_level = "ERROR"
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.merge_from_dict(changes)
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_class_has_a_colour_of_its_own(name: str) -> None:
    metainfo = DATASETS.get(name).METAINFO
    colours = get_palette(metainfo["palette"], len(metainfo["classes"]))
    assert len(set(colours)) == len(metainfo["classes"])


def test_a_training_draws_keeps_its_best_and_stops_early(data: Path, tmp_path: Path) -> None:
    config = training(data, tmp_path, **{"default_hooks.checkpoint.save_best": "auto"})
    config.default_hooks.visualization = dict(
        type="DetVisualizationHook", draw=True, interval=1, score_thr=0.0
    )
    config.visualizer.name = str(tmp_path)  # mmengine keeps one of each name
    config.custom_hooks.append(dict(type="EarlyStoppingHook", monitor="aitod/AP", patience=1))
    runner = Runner.from_cfg(config)
    runner.train()
    assert (tmp_path / "best_aitod_mAP_epoch_1.pth").is_file()
    assert list(tmp_path.glob("*/vis_data/vis_image/*.png"))
    scalars = next(tmp_path.glob("*/vis_data/scalars.json")).read_text().splitlines()
    assert {"aitod/mAP", "aitod/AP_vt", "aitod/mAP_vt"} <= set(json.loads(scalars[-1]))
    (stopping,) = [one for one in runner.hooks if isinstance(one, EarlyStoppingHook)]
    assert stopping.rule == "greater"


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("aitod/AP", "greater"),
        ("aitod/AP_vt", "greater"),
        ("aitod/mAP_0.5", "greater"),
        ("aitod/AR_1500", "greater"),
        ("aitod/large-vehicle_AP", "greater"),
        ("aitod/oLRP", "less"),
        ("aitod/oLRP_FP", "less"),
        ("aitod/large-vehicle_oLRP", "less"),
        ("loss", "less"),
    ],
)
def test_the_direction_of_every_value_is_known(value: str, rule: str) -> None:
    hook = CheckpointHook(save_best=value)
    assert hook.rules == [rule]
    assert EarlyStoppingHook(monitor=value).rule == rule


@pytest.mark.parametrize("classes", [5, 12])
def test_a_wrong_number_of_classes_stops_before_training(
    data: Path, tmp_path: Path, classes: int
) -> None:
    config = training(data, tmp_path, **{"model.roi_head.bbox_head.num_classes": classes})
    with pytest.raises(AssertionError, match=rf"`num_classes` \({classes}\) in Shared2FCBBoxHead"):
        Runner.from_cfg(config).train()


def run_tool(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(TOOLS / name), run_name="__main__")


def test_browse_dataset_draws_every_image(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.py"
    training(data, tmp_path).dump(path)
    out = tmp_path / "drawn"
    run_tool(
        monkeypatch, "analysis_tools/browse_dataset.py", path, "--output-dir", out, "--not-show"
    )
    assert {one.name for one in out.iterdir()} == {"0.png", "1.png"}
