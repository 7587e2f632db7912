"""SimD's m and n by the command, against all pairs of boxes and anchors; DotD's size in both readings."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.config import Config
from rfla_boxes import random_boxes
from small_detectors import SIZE, small_config, write_data_set
from test_similarity_assigners import ANCHORS, GTS

from efpn_mmdet import cli
from efpn_mmdet.classes import AITOD
from efpn_mmdet.similarity.constants import (
    _offset_ratios,
    anchor_generator,
    similarity_constants,
    training_boxes,
)


def test_published_means() -> None:
    gts, anchors = GTS.double(), ANCHORS.double()
    for axis, mean in ((0, 0.7803070), (1, 0.7299320)):
        found = _offset_ratios(gts, anchors, axis).mean().item()
        assert found == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_rows_and_columns_stand_for_all_anchors(offset: float) -> None:
    generator = AnchorGenerator([4, 8], [0.5, 1.0, 2.0], [2, 4], center_offset=offset)
    images = [
        (random_boxes(9, 60, 20, seed=1), (64, 96)),
        (torch.zeros(0, 4), (64, 64)),
        (random_boxes(4, 60, 20, seed=2), (36, 68)),  # 8 does not divide these
    ]
    found = similarity_constants(iter(images), generator)
    ratios: tuple[list, list] = ([], [])
    for boxes, (height, width) in images:
        shapes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8)]
        anchors = torch.cat(generator.grid_priors(shapes, device="cpu")).double()
        for axis in (0, 1):
            ratios[axis].append(_offset_ratios(boxes.double(), anchors, axis).flatten())
    assert found.m == pytest.approx(torch.cat(ratios[0]).mean().item(), rel=1e-9)
    assert found.n == pytest.approx(torch.cat(ratios[1]).mean().item(), rel=1e-9)
    assert (found.boxes, found.images) == (13, 2)


def test_the_two_readings_of_the_size() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 10, 12]])
    generator = AnchorGenerator([4], [1.0], [2])
    found = similarity_constants(iter([(boxes, (32, 32))]), generator)
    assert found.root_of_mean_area == pytest.approx(9.5917, abs=5e-5)
    assert found.mean_of_roots == pytest.approx(9.4772, abs=5e-5)


def test_no_box_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a data set with boxes, got none"):
        similarity_constants(
            iter([(torch.zeros(0, 4), (32, 32))]), AnchorGenerator([4], [1.0], [2])
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    data = write_data_set(tmp_path_factory.mktemp("data"), AITOD, images=3)
    return small_config("baselines/faster_rcnn_scale8_aitod.py", data=data)


def test_boxes_are_resized_and_images_padded(config: Config) -> None:
    """Without reading an image: all as mmdet's pipeline and preprocessor have it."""
    settings = copy.deepcopy(config)
    settings.train_dataloader.dataset.pipeline[2].scale = (SIZE // 2 + 1, 3 * SIZE)
    for boxes, shape in training_boxes(settings, progress=False):
        assert shape == (64, 64)  # 49, padded to a multiple of 32
        sides = boxes[:, 2:] - boxes[:, :2]
        torch.testing.assert_close(sides, torch.full_like(sides, 10 * 49 / SIZE))
    settings.train_dataloader.dataset.pipeline[2].update(keep_ratio=False, scale=(96, 192))
    boxes, shape = next(training_boxes(settings, progress=False))
    assert shape == (192, 96)
    torch.testing.assert_close(boxes[:, 3] - boxes[:, 1], torch.full((3,), 20.0).double())


def test_the_command_prints_what_configs_take(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config.dump(tmp_path / "config.py")
    cli.main(["similarity-constants", str(tmp_path / "config.py")])
    captured = capfd.readouterr()
    assert "9 boxes in 3 images" in captured.out
    assert 'dict(type="dotd", size=10.0000)' in captured.out
    assert 'dict(type="simd", m=' in captured.out
    assert "images: 100%" in captured.err


def test_what_has_no_constants_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a config with an anchor_generator .* FCOS"):
        anchor_generator({"type": "FCOS", "bbox_head": {"type": "FCOSHead"}})
    cropped = copy.deepcopy(config)
    cropped.train_dataloader.dataset.pipeline.insert(2, {"type": "RandomCrop"})
    with pytest.raises(ValueError, match=r"at most one Resize and flips, got \['RandomCrop', 'Res"):
        next(training_boxes(cropped))
    wrapped = copy.deepcopy(config)
    wrapped.train_dataloader.dataset = {"type": "RepeatDataset", "dataset": {}, "times": 2}
    with pytest.raises(ValueError, match="a pipeline, got a RepeatDataset; give the data set that"):
        next(training_boxes(wrapped))
    empty = copy.deepcopy(config)
    document = json.loads(Path(empty.train_dataloader.dataset.ann_file).read_text())
    path = tmp_path / "empty.json"
    path.write_text(json.dumps({**document, "annotations": []}))
    empty.train_dataloader.dataset.ann_file = str(path)
    with pytest.raises(ValueError, match="expected a data set with boxes, got none"):
        similarity_constants(training_boxes(empty), anchor_generator(empty.model))
