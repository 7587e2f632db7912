"""DCLoss as mmdet's heads call it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from small_detectors import batch, build, loss_of, one_thread, small_config  # noqa: F401
from torch import nn

from efpn_kernels import reference
from efpn_mmdet.loss import DCLoss, dc_losses


def make_loss(**options) -> DCLoss:
    return MODELS.build({"type": "DCLoss", **options})


def pair(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(count, 4, requires_grad=True), torch.randn(count, 4)


def expected(pred, target, weight=None, **options) -> torch.Tensor:
    k, delta = torch.tensor(10.0), torch.tensor(0.15)
    return reference.dc_loss(pred, target, k, delta, weight, **options)


@pytest.mark.parametrize("avg_factor", [None, 7.0, torch.tensor(7.0)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_arguments_of_mmdet(reduction: str, avg_factor: float | torch.Tensor | None) -> None:
    if reduction == "sum" and avg_factor is not None:
        pytest.skip("refused, see below")
    pred, target = pair()
    weight = torch.rand(20, 4)
    loss = make_loss(loss_weight=2.0)(
        pred, target, weight, avg_factor=avg_factor, reduction_override=reduction
    )
    divisor = None if reduction == "none" else avg_factor
    wanted = 2 * expected(pred, target, weight, reduction=reduction, avg_factor=divisor)
    torch.testing.assert_close(loss, wanted)


def test_avg_factor_with_sum_is_refused() -> None:
    pred, target = pair()
    with pytest.raises(ValueError, match="avg_factor: expected reduction 'mean'"):
        make_loss(reduction="sum")(pred, target, avg_factor=3)


def test_weight_per_row() -> None:
    pred, target = pair()
    weight = torch.rand(20)
    wanted = expected(pred, target, weight[:, None].expand(20, 4))
    torch.testing.assert_close(make_loss()(pred, target, weight), wanted)


def test_half_precision_predictions_against_float_targets() -> None:
    pred, target = pair()
    half = pred.detach().to(torch.bfloat16).requires_grad_()
    loss = make_loss()(half, target, torch.ones(20, 4))
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected(half.float(), target))
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("avg_factor", [0, 0.0, torch.tensor(0.0)], ids=str)
def test_no_positive_sample_keeps_the_graph(count: int, avg_factor: float | torch.Tensor) -> None:
    loss_module = make_loss()
    pred = torch.randn(count, 4, requires_grad=True)
    loss = loss_module(pred, torch.randn(count, 4), torch.zeros(count, 4), avg_factor=avg_factor)
    loss.backward()
    assert loss == 0
    for tensor in (pred, loss_module.k, loss_module.delta):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_ranges_hold_over_several_calls_in_a_step() -> None:
    """An RPN calls its loss once per level before the one backward."""
    loss_module = make_loss(k_range=(5.0, 20.0), delta_range=(0.1, 0.2))
    optimizer = torch.optim.SGD(loss_module.parameters(), lr=1e3)
    for _ in range(3):
        optimizer.zero_grad()
        pred, target = pair()
        sum(
            loss_module(*one) for one in zip(pred.split(5), target.split(5), strict=True)
        ).backward()
        optimizer.step()
    loss_module(pred, target)
    assert 5.0 <= loss_module.k.item() <= 20.0
    assert 0.1 - 1e-6 <= loss_module.delta.item() <= 0.2 + 1e-6


def test_k_and_delta_reach_the_optimiser_without_weight_decay() -> None:
    config = small_config("cascade_rcnn/efpn_bs_aitod.py")
    detector = build(config.model)
    wrapper = build_optim_wrapper(detector, config.optim_wrapper)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    decay = {
        names[id(parameter)]: group["weight_decay"]
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    learned = {name for name in decay if name.endswith(("loss_bbox.k", "loss_bbox.delta"))}
    assert len(learned) == 2 * (1 + 3)  # the RPN and three stages
    assert all(decay[name] == 0 for name in learned)
    assert decay["neck.block.fbsm.refine_conv.weight"] > 0

    before = {name: detector.get_parameter(name).item() for name in learned}
    total, _ = loss_of(detector, batch())
    wrapper.update_params(total)
    changed = [name for name in learned if detector.get_parameter(name).item() != before[name]]
    assert "rpn_head.loss_bbox.k" in changed
    assert "rpn_head.loss_bbox.delta" in changed


def test_every_dc_loss_is_spared_the_weight_decay_whatever_its_name() -> None:
    """RepPoints calls its losses `loss_bbox_init` and `loss_bbox_refine`; other settings hold on."""
    model = nn.Module()
    model.head = nn.Linear(2, 2)
    model.head.loss_bbox_init = make_loss()
    model.head.inner = nn.ModuleList([make_loss(), make_loss(learnable=False)])
    config = {
        "type": "OptimWrapper",
        "constructor": "DCLossOptimWrapperConstructor",
        "optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.01},
        "paramwise_cfg": {
            "custom_keys": {"head": {"lr_mult": 0.5}, "head.inner": {"lr_mult": 0.1}}
        },
    }
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {
        names[id(group["params"][0])]: (group["lr"], group["weight_decay"]) for group in groups
    }
    assert settings == {
        "head.weight": (0.05, 0.01),
        "head.bias": (0.05, 0.01),
        "head.loss_bbox_init.k": (0.05, 0.0),
        "head.loss_bbox_init.delta": (0.05, 0.0),
        "head.inner.0.k": (pytest.approx(0.01), 0.0),
        "head.inner.0.delta": (pytest.approx(0.01), 0.0),
    }
    config.pop("paramwise_cfg")
    (without,) = {
        group["weight_decay"]
        for group in build_optim_wrapper(nn.Linear(1, 1), config).optimizer.param_groups
    }
    assert without == 0.01


DC_LOSS = {"type": "DCLoss"}
DENSE = {"num_classes": 8, "in_channels": 8, "loss_bbox": DC_LOSS}


@pytest.mark.parametrize("head", ["FCOSHead", "ATSSHead", "AutoAssignHead", "GFLHead"])
def test_heads_that_regress_pixels_refuse_the_loss(head: str) -> None:
    with pytest.raises(
        ValueError, match=f"loss_bbox: expected .*, got {head}, .*; keep an IoU loss"
    ):
        MODELS.build({"type": head, **DENSE})


@pytest.mark.parametrize("head", ["RetinaHead", "Shared2FCBBoxHead"])
def test_decoded_boxes_refuse_the_loss(head: str) -> None:
    settings = {"type": head, **DENSE}
    MODELS.build(settings)
    with pytest.raises(ValueError, match=f"got {head}, .* set reg_decoded_bbox=False"):
        MODELS.build({**settings, "reg_decoded_bbox": True})


@pytest.mark.parametrize("head", ["FoveaHead", "RepPointsHead", "DIIHead"])
def test_heads_whose_errors_are_of_order_one_take_the_loss(head: str) -> None:
    settings = {"num_classes": 8, "in_channels": 8}
    if head == "RepPointsHead":
        settings |= {
            "loss_bbox_init": DC_LOSS,
            "loss_bbox_refine": DC_LOSS,
            "point_feat_channels": 8,
        }
    else:
        settings |= {"loss_bbox": DC_LOSS}
    if head == "DIIHead":
        settings |= {"dynamic_conv_cfg": {"type": "DynamicConv", "in_channels": 8}}
        settings |= {"loss_iou": {"type": "GIoULoss"}}
    assert dc_losses(MODELS.build({"type": head, **settings}))


def test_delta_stays_in_its_range_in_a_dense_head() -> None:
    detector = build(small_config("faster_rcnn/efpn_bs_aitod.py").model)
    loss = detector.rpn_head.loss_bbox
    with torch.no_grad():
        loss.delta.fill_(-0.26)
    loss_of(detector, batch())
    assert loss.delta.item() == pytest.approx(0.05)
