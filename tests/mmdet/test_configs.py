"""Every config builds, takes a training step and an inference step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.registry")

import mmdet
import published
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from published import DATA
from small_detectors import (
    CONFIGS,
    batch,
    build,
    loss_of,
    one_thread,  # noqa: F401
    predict,
    small_config,
)

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{name}.py" for name in published.NAMES]
DETECTORS = ("faster_rcnn", "cascade_rcnn", "detectors")


def test_none_is_missing() -> None:
    wanted = {
        f"{detector}/{model}_{data}.py"
        for detector in DETECTORS
        for data in DATA
        for model in ("rfla", "efpn_bs")
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_infers(name: str) -> None:
    """With an image without boxes in the batch."""
    config = small_config(name)
    detector = build(config.model)
    total, parts = loss_of(detector, batch(boxes=(3, 0)))
    total.backward()
    assert torch.isfinite(total)
    assert any(kind in part for part in parts for kind in ("bbox", "loss_pts", "loss_pos"))
    for parameter_name, parameter in detector.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), parameter_name
    for predicted in predict(detector, batch(images=1)):
        assert predicted.bboxes.shape == (len(predicted.scores), 4)
    if name.split("/")[0] not in DETECTORS:
        total, _ = loss_of(detector, batch(boxes=0))
        total.backward()
        assert torch.isfinite(total)


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.DOTALL)


def test_the_readmes_config_builds_on_an_inherited_one(tmp_path: Path) -> None:
    base = Path(mmdet.__file__).parent / ".mim/configs/_base_/models/faster-rcnn_r50_fpn.py"
    snippet = next(text for text in blocks(ROOT / "README.md", "python") if "EFPNBSNeck" in text)
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = [{str(base)!r}]\n{snippet}")
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    detector = build(config.model)
    assert type(detector.neck).__name__ == "EFPNBSNeck"
    assert type(detector.roi_head.bbox_head.loss_bbox).__name__ == "DCLoss"


@pytest.mark.parametrize("data", DATA)
def test_the_readmes_options_move_every_split(data: str) -> None:
    command = next(t for t in blocks(ROOT / "integration/README.md", "bash") if "ROOT=" in t)
    config = Config.fromfile(CONFIGS / f"faster_rcnn/efpn_bs_{data}.py")
    old = config.data_root
    files = config.test_evaluator.ann_file.removeprefix(old)
    words = command.replace("$ROOT", "/moved/").replace("$ANN", files).split()
    options = dict(word.split("=") for word in words if "." in word and "=" in word)
    config.merge_from_dict(options)
    config.pop("data_root")
    assert old not in config.pretty_text
    assert config.pretty_text.count("/moved/") == 5


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    return {str(path): Config.fromfile(path) for path in sorted(CONFIGS.glob("[!_]*/*.py"))}


def test_every_config_has_mmdets_checks_and_test_time_augmentation(
    configs: dict[str, Config],
) -> None:
    for path, config in configs.items():
        hooks = {one.type for one in config.custom_hooks}
        assert hooks >= {"NumClassCheckHook", "MatchCheckpointHook"}, path
        assert config.tta_model.type == "DetTTAModel", path
        test_cfg = config.model.test_cfg.get("rcnn", config.model.test_cfg)
        assert config.tta_model.tta_cfg.max_per_img == test_cfg.max_per_img, path
        assert config.tta_model.tta_cfg.nms == test_cfg.get("nms", config.tta_model.tta_cfg.nms), (
            path
        )


def test_dc_loss_decays_in_no_config(configs: dict[str, Config]) -> None:
    """Towards zero, whatever the errors are; and in a dense head delta has a range."""
    for path, config in configs.items():
        assert config.optim_wrapper.constructor == "DCLossOptimWrapperConstructor", path
        head = config.model.get("rpn_head", config.model.get("bbox_head"))
        for name, loss in head.items():
            if not name.startswith("loss_bbox") or loss.type != "DCLoss":
                continue
            assert not loss.get("learnable", True) or loss.delta_range[0] > 0, path


@pytest.mark.parametrize("name", [name for name in NAMES if "/rfla" in name or "/efpn" in name])
def test_rfla_assigns_on_the_cpu_from_the_published_size_on(name: str) -> None:
    assigner = Config.fromfile(CONFIGS / name).model.train_cfg.rpn.assigner
    assert TASK_UTILS.build(assigner).gpu_assign_thr == 512


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_clean_config_differs_in_one_setting(detector: str) -> None:
    clean = Config.fromfile(CONFIGS / f"{detector}/rfla_clean_aitod.py")
    published = Config.fromfile(CONFIGS / f"{detector}/rfla_aitod.py")
    assigner = clean.model.train_cfg.rpn.assigner
    assert assigner.published_rescale is False
    assigner.published_rescale = True
    assert clean.to_dict() == published.to_dict()
