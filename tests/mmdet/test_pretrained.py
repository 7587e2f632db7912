"""Weights between plain detectors and those with an EFPNBSNeck, in both directions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.logging import MMLogger
from mmengine.runner import Runner, load_checkpoint
from small_detectors import build, one_thread, small_config, write_data_set  # noqa: F401
from torch import Tensor

from efpn_mmdet.classes import AITOD
from efpn_mmdet.pretrained import to_plain_neck

PLAIN, FULL = "faster_rcnn/rfla_aitod.py", "faster_rcnn/efpn_bs_aitod.py"


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of both detectors with random weights, and a data set."""
    folder = tmp_path_factory.mktemp("states")
    for seed, name in enumerate((PLAIN, FULL)):
        state = build(small_config(name).model, seed=seed).state_dict()
        torch.save({"state_dict": state, "meta": {}}, folder / f"{Path(name).stem}.pth")
    write_data_set(folder / "data", AITOD)
    return {
        PLAIN: folder / "rfla_aitod.pth",
        FULL: folder / "efpn_bs_aitod.pth",
        "data": folder / "data",
    }


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def load(path: Path) -> dict[str, Tensor]:
    return torch.load(path)["state_dict"]


def loaded_by_runner(name: str, checkpoint: Path, data: Path, folder: Path) -> dict[str, Tensor]:
    config = small_config(name, data=data)
    config.update(work_dir=str(folder), load_from=str(checkpoint))
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    return runner.model.state_dict()


def test_a_plain_neck_fills_the_base(states: dict[str, Path], log: list[str]) -> None:
    detector = build(small_config(FULL).model, seed=7)
    block = detector.neck.block.fbsm.refine_conv.weight.clone()
    load_checkpoint(detector, str(states[PLAIN]))
    plain, own = load(states[PLAIN]), detector.state_dict()
    assert sum(key.startswith("neck.") for key in plain) == 16
    for key, value in plain.items():
        assert torch.equal(own[key.replace("neck.", "neck.base.")], value), key
    assert torch.equal(detector.neck.block.fbsm.refine_conv.weight, block)
    assert "EFPNBSNeck.base: takes 16 of its 16 tensors from a plain neck's checkpoint" in log


def test_how_many_tensors_fit_is_counted(states: dict[str, Path], log: list[str]) -> None:
    state = load(states[PLAIN])
    state["neck.lateral_convs.0.conv.weight"] = torch.zeros(1)
    state.pop("neck.lateral_convs.1.conv.weight")
    neck = build(small_config(FULL).model).neck
    neck_state = {key.removeprefix("neck."): value for key, value in state.items()}
    with pytest.raises(RuntimeError, match=r"size mismatch for base\.lateral_convs\.0"):
        neck.load_state_dict(neck_state, strict=False)
    assert "EFPNBSNeck.base: takes 14 of its 16 tensors from a plain neck's checkpoint" in log


def test_own_checkpoints_stay_as_they_are(states: dict[str, Path], log: list[str]) -> None:
    detector = build(small_config(FULL).model, seed=7)
    result = detector.load_state_dict(load(states[FULL]))
    assert not result.missing_keys and not result.unexpected_keys
    assert not any("takes" in line for line in log)


def test_a_runner_gives_each_the_others(
    states: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, checkpoint in ((FULL, PLAIN), (PLAIN, FULL)):
        own = loaded_by_runner(name, states[checkpoint], states["data"], tmp_path / name)
        other = load(states[checkpoint])
        for key, value in own.items():
            if key.startswith("neck.block.") or "loss_bbox" in key:
                continue
            names = ("neck.base.", "neck.") if name == FULL else ("neck.", "neck.base.")
            assert torch.equal(value, other[key.replace(*names)]), key
        assert "takes 16 of its 16 tensors from" in "".join(capfd.readouterr())


def test_only_keys_that_the_model_lacks_are_renamed() -> None:
    state = {"neck.base.a": torch.zeros(1), "head.base.b": torch.ones(1), "c": torch.ones(2)}
    renamed = to_plain_neck(state, ["neck.a", "head.base.b", "head.b", "c"])
    assert list(renamed) == ["neck.a", "head.base.b", "c"]
