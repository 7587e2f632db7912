"""EFPNBSNeck: any base, any head; fused and reference detectors are the same detector."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import MODELS
from mmengine.config import Config
from small_detectors import (
    BACKBONE_CHANNELS,
    CHANNELS,
    CONFIGS,
    batch,
    build,
    loss_of,
    one_thread,  # noqa: F401
    predict,
    small_config,
)

import efpn_kernels
from efpn_mmdet.neck import EFPNBSNeck, GateProbe, gated_necks

FULL = [f"{detector}/efpn_bs_aitod.py" for detector in ("faster_rcnn", "cascade_rcnn", "detectors")]
FPN = {"type": "FPN", "in_channels": BACKBONE_CHANNELS, "out_channels": CHANNELS, "num_outs": 5}


def make_neck(**options) -> EFPNBSNeck:
    torch.manual_seed(0)
    return MODELS.build({"type": "EFPNBSNeck", "base": FPN, **options})


def features(size: int = 32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(
        torch.randn(2, channels, size >> level, size >> level)
        for level, channels in enumerate(BACKBONE_CHANNELS)
    )


def test_replaces_one_level_by_the_block() -> None:
    neck = make_neck(low_level=1, high_level=4)
    before, after = neck.base(features()), neck(features())
    assert isinstance(after, tuple)
    assert len(after) == len(before)
    for level in (0, 2, 3, 4):
        assert torch.equal(after[level], before[level])
    torch.testing.assert_close(after[1], neck.block(before[1], before[4]))


@pytest.mark.parametrize("name", FULL)
def test_fused_and_reference_detectors_agree(name: str) -> None:
    """Outputs and gradients, from the same weights through a checkpoint's keys, both ways."""
    config = small_config(name)
    fused = build(config.model)
    reference_model = small_config(name).model
    reference_model.neck.backend = "reference"
    reference = build(reference_model, seed=1)
    reference.load_state_dict(fused.state_dict())
    fused.load_state_dict(reference.state_dict())

    total, _ = loss_of(fused, batch())
    total.backward()
    with efpn_kernels.use_backend("reference"):
        expected, _ = loss_of(reference, batch())
        expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    for (parameter_name, one), other in zip(
        fused.named_parameters(), reference.parameters(), strict=True
    ):
        assert (one.grad is None) == (other.grad is None), parameter_name
        if one.grad is not None:
            scale = other.grad.abs().max().item()
            torch.testing.assert_close(
                one.grad, other.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=parameter_name
            )

    for one, other in zip(predict(fused, batch()), predict(reference, batch()), strict=True):
        torch.testing.assert_close(one.bboxes, other.bboxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_backend_holds_for_this_neck_alone(choice: str) -> None:
    neck = make_neck(backend=choice)
    seen = []
    neck.block.register_forward_hook(lambda *_: seen.append(efpn_kernels.current_backend()))
    with efpn_kernels.use_backend("cpu"):
        neck(features())
        assert efpn_kernels.current_backend() == "cpu"
    assert seen == ["cpu" if choice == "auto" else choice]


@pytest.mark.parametrize(
    "options",
    [{"use_cem": False}, {"use_fbsm": False}, {"gate_channels": CHANNELS}, {"hidden_channels": 3}],
    ids=str,
)
def test_ablations_train(options: dict) -> None:
    neck = make_neck(**options)
    sum(level.square().sum() for level in neck(features())).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


@pytest.mark.parametrize("head", ["RetinaHead", "FCOSHead"])
def test_one_stage_heads_train(head: str) -> None:
    base = {**FPN, "start_level": 1, "add_extra_convs": "on_output"}
    bbox_head = {"type": head, "num_classes": 8, "in_channels": CHANNELS, "feat_channels": CHANNELS}
    if head == "RetinaHead":
        bbox_head["anchor_generator"] = {
            "type": "AnchorGenerator",
            "octave_base_scale": 2,
            "scales_per_octave": 1,
            "ratios": [1.0],
            "strides": [8, 16, 32, 64, 128],
        }
        bbox_head["loss_bbox"] = {"type": "DCLoss"}
        assigner = {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": 0.5,
            "neg_iou_thr": 0.4,
            "min_pos_iou": 0,
        }
        training = {"assigner": assigner, "sampler": {"type": "PseudoSampler"}}
        training |= {"allowed_border": -1, "pos_weight": -1, "debug": False}
    else:
        bbox_head["norm_cfg"] = None
        training = None
    source = small_config(FULL[0]).model
    model = {
        "type": head.removesuffix("Head").replace("Retina", "RetinaNet"),
        "data_preprocessor": source.data_preprocessor,
        "backbone": source.backbone,
        "neck": {"type": "EFPNBSNeck", "base": base},
        "bbox_head": bbox_head,
        "train_cfg": training,
        "test_cfg": {"nms_pre": 50, "min_bbox_size": 0, "score_thr": 0.0, "max_per_img": 10}
        | {"nms": {"type": "nms", "iou_threshold": 0.5}},
    }
    detector = build(Config(model))
    total, _ = loss_of(detector, batch())
    total.backward()
    assert torch.isfinite(total)
    assert detector.neck.block.cem.project.weight.grad.abs().sum() > 0
    predict(detector, batch(images=1))


def test_probe_gives_the_gate_of_the_latest_forward() -> None:
    neck = make_neck()
    with GateProbe(neck) as probe:
        with pytest.raises(RuntimeError, match=r"GateProbe\.mask"):
            probe.mask()
        neck(features())
    levels = neck.base(features())
    torch.testing.assert_close(probe.mask(), neck.block.mask(levels[0], levels[3]))
    assert not neck.block._forward_hooks


def test_mixed_precision_trains() -> None:
    neck = make_neck()
    with torch.autocast("cpu", torch.bfloat16), GateProbe(neck) as probe:
        levels = neck(features())
    assert levels[0].dtype == torch.bfloat16
    sum(level.float().square().sum() for level in levels).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in neck.parameters())
    assert probe.mask().dtype == torch.float32


def test_gated_necks_are_found() -> None:
    with_gate = build(small_config(FULL[0]).model)
    without = build(small_config("ablation/cem_aitod.py").model)
    assert list(gated_necks(with_gate)) == ["neck"]
    assert gated_necks(without) == {}


def test_users_take_their_own_config() -> None:
    """Two lines: the neck and the loss."""
    model = Config.fromfile(CONFIGS / "baselines/faster_rcnn_scale2_aitod.py").model
    model.neck = {"type": "EFPNBSNeck", "base": model.neck}
    model.roi_head.bbox_head.loss_bbox = {"type": "DCLoss"}
    detector = MODELS.build(model)
    assert isinstance(detector.neck, EFPNBSNeck)


def test_the_core_never_imports_mmdet() -> None:
    code = (
        "import sys, efpn_kernels, efpn_kernels.cli, efpn_kernels.doctor\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('mmdet', 'mmcv', 'mmengine', 'efpn_mmdet')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
