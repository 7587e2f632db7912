"""The example with torchvision: what of it needs no torchvision, and all of it where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
needs_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is None, reason="needs torchvision; `make example` installs it"
)


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes, the long way."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return float(common / (sum(areas) - common))


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_non_maximum_suppression(examples: None, threshold: float) -> None:
    nms = import_module("torchvision_here").nms
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 2 + 8 * torch.rand(60, 2, generator=generator)], 1)
    scores = torch.rand(60, generator=generator)
    kept = nms(boxes, scores, threshold).tolist()
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    for i in range(60):
        better = [j for j in kept if scores[j] > scores[i]]
        covered = any(overlap(boxes[i], boxes[j]) > threshold for j in better)
        assert covered == (i not in kept)
    assert 1 < len(kept) < 60
    assert nms(boxes[:0], scores[:0], threshold).shape == (0,)


def test_the_data_needs_no_mmdet(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    code = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
for name in ("mmdet", "mmcv", "mmengine"):
    sys.modules[name] = None  # an import of it fails
from pathlib import Path
import demo_data
demo_data.build(Path({str(tmp_path / "data")!r}), 5, 128)
for name in ("train", "test"):
    split = demo_data.Split(Path({str(tmp_path / "data")!r}), name)
    assert split.classes and split.items
    for image, target in split.items:
        assert image.shape == (3, 128, 128) and 0 <= image.min() <= image.max() <= 1
        boxes, labels = target["boxes"], target["labels"]
        assert boxes.shape == (len(labels), 4) and labels.numel()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 128
        assert 0 <= labels.min() and labels.max() < len(split.classes)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@needs_torchvision
def test_it_trains_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "torchvision_detector.py", "--out", tmp_path]
    result = subprocess.run(
        [*command, "--images", "5", "--steps", "2"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "bbox_regression" in result.stdout
    written = json.loads((tmp_path / "result.json").read_text())
    assert set(written) == {"before", "after", "training_seconds"}
    assert (tmp_path / "pictures.png").stat().st_size > 10_000
