"""SR-TOD: published values and sizes, what learns from what, the image that is reconstructed."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmengine.config import Config
from small_detectors import (
    CONFIGS,
    SIZE,
    batch,
    build,
    loss_of,
    one_thread,  # noqa: F401
    shrink,
)
from torch import nn

from efpn_mmdet.srtod import DifferenceEnhancement, ReconstructionHead

THRESHOLD = 0.0117647


def count(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def test_published_sizes() -> None:
    assert count(ReconstructionHead(256)) == 1_025_923
    assert count(DifferenceEnhancement(256, 3 / 255)) == 8_464
    image = ReconstructionHead(8)(torch.randn(2, 8, 5, 6))
    assert image.shape == (2, 3, 20, 24)
    assert (image > 0).all() and (image < 1).all()


def published_example(**settings) -> tuple[DifferenceEnhancement, torch.Tensor, torch.Tensor]:
    module = DifferenceEnhancement(4, THRESHOLD, reduction=2, **settings)
    for one in module.perceptron.parameters():
        one.data = torch.arange(one.numel()).reshape(one.shape) * 0.1 - 0.2
    p2 = torch.arange(16).reshape(1, 4, 2, 2) * 0.1
    difference = torch.zeros(1, 1, 8, 8)
    difference[..., :4, :4] = 0.02
    difference[..., 4:, 4:] = THRESHOLD
    return module, p2, difference


@pytest.mark.parametrize("learnable", [False, True])
def test_published_enhancement(learnable: bool) -> None:
    module, p2, difference = published_example(learnable_threshold=learnable)
    mask = module.mask(difference, (2, 2))
    assert mask.tolist() == [[[[1, 0], [0, 0.5]]]]
    enhanced = module(p2, difference)
    gate = enhanced / (p2 * (1 + mask))
    expected = torch.tensor([0.34276423, 0.5127472, 0.67983204, 0.81076676])
    torch.testing.assert_close(gate[0, :, 1, 1], expected, rtol=1e-6, atol=0)
    first = torch.tensor([0, 0.0342764, 0.0685528, 0.1542439, 0.4101978, 0.2563736])
    torch.testing.assert_close(enhanced.flatten()[:6], first, rtol=0, atol=1e-7)


def test_only_the_straight_through_threshold_learns() -> None:
    module, p2, difference = published_example()
    assert "threshold" not in dict(module.named_parameters())
    module, p2, difference = published_example(learnable_threshold=True, temperature=0.01)
    module(p2, difference.requires_grad_()).sum().backward()
    assert difference.grad is None  # nothing reaches the reconstruction
    slopes = []
    for value in (0.02, 0.0, 0.0, THRESHOLD):
        soft = 1 / (1 + math.exp(-(value - THRESHOLD) / 0.01))
        slopes.append(-soft * (1 - soft) / 0.01)
    gate = torch.tensor([0.34276423, 0.5127472, 0.67983204, 0.81076676])[:, None, None]
    expected = (p2[0] * gate * torch.tensor(slopes).reshape(2, 2)).sum()
    torch.testing.assert_close(module.threshold.grad, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "threshold: expected a number between 0 and 1, got 0.0"),
        ({"threshold": 3}, "threshold: .* got 3"),
        ({"threshold": 0.1, "temperature": 0.0}, "temperature: expected a positive number, got 0"),
        ({"threshold": 0.1, "reduction": 16}, "reduction: expected 1 to 8, the channels, got 16"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifferenceEnhancement(8, **settings)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    config = Config.fromfile(CONFIGS / "baselines/faster_rcnn_scale2_aitod.py")
    config.model.update(type="SRTODFasterRCNN", srtod={"channels": 256, "threshold": 3 / 255})
    shrink(config.model)
    return build(config.model)


def test_the_raw_image_is_the_one_that_was_read(detector: nn.Module) -> None:
    data = batch(images=2)
    data["inputs"][1] = data["inputs"][1][:, : SIZE - 20, : SIZE - 40]
    data["data_samples"][1].set_metainfo({"img_shape": (SIZE - 20, SIZE - 40)})
    expected = torch.zeros(2, 3, SIZE, SIZE)
    for one, read in zip(expected, data["inputs"], strict=True):
        one[:, : read.shape[1], : read.shape[2]] = read.flip(0) / 255  # BGR to RGB
    inputs = detector.data_preprocessor(data)["inputs"]
    detector._shapes = [(SIZE, SIZE), (SIZE - 20, SIZE - 40)]
    torch.testing.assert_close(detector.raw_image(inputs), expected, rtol=0, atol=1e-6)
    detector._shapes = None


def test_the_reconstruction_learns_from_its_own_loss_alone(detector: nn.Module) -> None:
    _, parts = loss_of(detector, batch())
    others = sum(value for name, value in parts.items() if "loss_" in name and "recon" not in name)
    detector.zero_grad()
    others.backward(retain_graph=True)
    assert all(one.grad is None for one in detector.reconstruction.parameters())
    assert all(one.grad is not None for one in detector.enhancement.parameters())
    assert 0 < parts["loss_reconstruction"] < 1
    parts["loss_reconstruction"].backward()
    assert all((one.grad != 0).any() for one in detector.reconstruction.parameters())
    assert detector._squared_error is None and detector._shapes is None


@torch.no_grad()
def test_every_mode_enhances(detector: nn.Module) -> None:
    calls = []
    detector.eval()
    detector.enhancement.register_forward_hook(lambda *_: calls.append(1))
    data = detector.data_preprocessor(batch())
    detector(**data, mode="predict")
    detector(**data, mode="tensor")
    assert len(calls) == 2


def test_a_neck_without_p2_is_named(detector: nn.Module) -> None:
    neck = detector.neck
    del detector.neck
    detector.neck = lambda levels: neck(levels)[1:]
    try:
        with pytest.raises(
            ValueError, match=r"expected a neck whose first level has stride 4, got"
        ):
            detector.extract_feat(torch.zeros(1, 3, 64, 64))
    finally:
        del detector.neck
        detector.neck = neck
