"""EFPNBSNeck's arguments: bases, levels by index and by stride, refusals at build; what get_flops sees."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.models.necks import FPN as PlainFPN
from mmdet.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from small_detectors import BACKBONE_CHANNELS, CHANNELS, one_thread  # noqa: F401

from efpn_mmdet.neck import EFPNBSNeck

FPN = {"type": "FPN", "in_channels": BACKBONE_CHANNELS, "out_channels": CHANNELS, "num_outs": 5}
FROM_P3 = {**FPN, "start_level": 1, "add_extra_convs": "on_output"}
BFP = {"type": "BFP", "in_channels": CHANNELS, "num_levels": 5, "refine_type": None}


def make_neck(base: object = FPN, **options) -> EFPNBSNeck:
    torch.manual_seed(0)
    return MODELS.build({"type": "EFPNBSNeck", "base": base, **options})


def features(size: int = 32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(
        torch.randn(1, channels, size >> level, size >> level)
        for level, channels in enumerate(BACKBONE_CHANNELS)
    )


def test_a_list_of_necks_runs_in_order() -> None:
    neck = make_neck([FPN, {**BFP, "refine_level": 2}])
    pyramid, refined = neck.base
    before = refined(pyramid(features()))
    after = neck(features())
    torch.testing.assert_close(after[0], neck.block(before[0], before[3]))
    assert torch.equal(after[4], before[4])


@pytest.mark.parametrize("base", ["FPN", None, [], [FPN, "BFP"], {"in_channels": [4]}], ids=str)
def test_a_base_that_is_no_config_is_named(base: object) -> None:
    with pytest.raises(TypeError, match=r"base: expected the config of a neck, dict\(type="):
        make_neck(base)


@pytest.mark.parametrize(
    ("base", "strides", "levels"),
    [
        (FPN, (4, 32), (0, 3)),
        (FPN, (8, 64), (1, 4)),
        (FROM_P3, (8, 32), (0, 2)),
        ([FROM_P3, BFP], (16, 128), (1, 4)),
        ({**FPN, "type": PlainFPN}, (4, 32), (0, 3)),
        ({**FPN, "type": "mmdet.FPN"}, (4, 16), (0, 2)),
    ],
)
def test_strides_name_levels(
    base: object, strides: tuple[int, int], levels: tuple[int, int]
) -> None:
    neck = make_neck(base, low_stride=strides[0], high_stride=strides[1])
    assert (neck.low_level, neck.high_level) == levels


def test_an_index_and_a_stride_can_stand_together() -> None:
    neck = make_neck(FROM_P3, low_level=1, high_stride=64)
    assert (neck.low_level, neck.high_level) == (1, 3)


MAPPER = {"type": "ChannelMapper", "in_channels": BACKBONE_CHANNELS[1:], "out_channels": CHANNELS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_level": 3}, "low_level, high_level: expected a low level below .* got 3 and 3"),
        ({"low_stride": 32, "high_stride": 4}, "low_level, high_level: .* got 3 and 0"),
        ({"high_level": 5}, r"high_level: .* base's 5 levels \(strides 4, 8, 16, 32, 64\), got 5"),
        ({"base": [FPN, BFP], "high_level": 6}, "high_level: .* base's 5 levels .* got 6"),
        ({"low_level": -1}, "low_level: expected an index from 0, got -1"),
        ({"high_level": 2.0}, r"high_level: expected an index from 0, got 2\.0"),
        ({"high_level": True}, "high_level: expected an index from 0, got True"),
        ({"base": FROM_P3, "low_stride": 4}, r"low_stride: expected one of \[8, 16, .*, got 4"),
        ({"low_level": 0, "low_stride": 4}, "low_level, low_stride: expected one of the two"),
        ({"base": MAPPER, "high_stride": 32}, "high_stride: .* got ChannelMapper; give high_level"),
        ({"backend": "gpu"}, "expected one of .* got 'gpu'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_at_build(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_neck(**options)


def test_channels_that_differ_are_refused() -> None:
    yolo = {"type": "YOLOV3Neck", "num_scales": 3, "in_channels": [8, 4, 2]}
    with pytest.raises(ValueError, match=r"base: .* YOLOV3Neck has \[8, 4, 2\]"):
        make_neck({**yolo, "out_channels": [8, 4, 2]})


def test_a_base_that_does_not_say_its_levels_is_checked_when_it_runs() -> None:
    neck = make_neck(MAPPER)  # three levels, of which high_level would be the fourth
    with pytest.raises(ValueError, match=r"high_level: .* base's 3 levels, got 3"):
        neck(features()[1:])


def test_flops_of_the_block_are_counted() -> None:
    neck = make_neck().eval()
    flops = FlopAnalyzer(neck, (features(),)).unsupported_ops_warnings(False)
    side = 32 * 32
    # high, low and refine are 3x3 convolutions, two gates 1x1 to one channel, fuse 3x3 between those.
    convolutions = 3 * 9 * CHANNELS * CHANNELS * side + 2 * CHANNELS * side + 9 * side
    assert flops.by_module()["block.fbsm"] >= convolutions
    assert flops.by_module()["block.fbsm"] < 1.2 * convolutions
    explicit = FlopAnalyzer(make_neck(backend="cpu").eval(), (features(),))
    counted = explicit.unsupported_ops_warnings(False).by_module()
    assert counted["block"] == flops.by_module()["block"], (
        "the counter hooks the parts, which are called"
    )
