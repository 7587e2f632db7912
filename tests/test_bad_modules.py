"""Wrong arguments of the modules: of their constructors, and maps that they are not for."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from raising import assert_raises

from efpn_kernels import CEM, EFPNBS, FBSM, DCLoss, reference

BAD_CONSTRUCTORS: list[tuple[type, dict[str, Any], tuple[str, ...]]] = [
    (DCLoss, {"k": 0.0}, ("k: ", "positive", "0.0")),
    (DCLoss, {"k": -1.0}, ("k: ", "positive", "-1.0")),
    (DCLoss, {"k": math.nan}, ("k: ", "finite", "nan")),
    (DCLoss, {"k": math.inf}, ("k: ", "finite", "inf")),
    (DCLoss, {"delta": math.nan}, ("delta: ", "finite", "nan")),
    (DCLoss, {"delta": -math.inf}, ("delta: ", "finite", "-inf")),
    (DCLoss, {"loss_weight": math.nan}, ("loss_weight: ", "finite", "nan")),
    (DCLoss, {"form": "Equation"}, ("form: ", "'text'", "'Equation'")),
    (DCLoss, {"reduction": None}, ("reduction: ", "'mean'", "None")),
    (DCLoss, {"k_range": (1.0, 2.0, 3.0)}, ("k_range: ", "(low, high)", "3.0")),
    (CEM, {"high_channels": True, "low_channels": 4}, ("high_channels: ", "integer", "True")),
    (CEM, {"high_channels": 4, "low_channels": "4"}, ("low_channels: ", "integer", "'4'")),
    (
        EFPNBS,
        {"high_channels": 4, "low_channels": 4, "gate_channels": True},
        ("gate_channels: ", "integer", "True"),
    ),
    (DCLoss, {"k_range": (5.0, 1.0)}, ("k_range: ", "low <= high", "(5.0, 1.0)")),
    (DCLoss, {"k_range": (0.0, math.inf)}, ("k_range: ", "finite", "inf")),
    (DCLoss, {"k_range": (-3.0, 20.0)}, ("k_range: ", "positive", "-3.0")),
    (DCLoss, {"delta_range": (0.2, 0.3)}, ("delta_range: ", "0.15", "(0.2, 0.3)")),
    (CEM, {"high_channels": 0, "low_channels": 4}, ("high_channels: ", "positive", "0")),
    (CEM, {"high_channels": 4, "low_channels": -1}, ("low_channels: ", "positive", "-1")),
    (FBSM, {"high_channels": 4, "low_channels": 4.0}, ("low_channels: ", "integer", "4.0")),
    (
        FBSM,
        {"high_channels": 4, "low_channels": 4, "hidden_channels": 0},
        ("hidden_channels: ", "positive", "0"),
    ),
    (
        EFPNBS,
        {"high_channels": 4, "low_channels": 4, "gate_channels": 2},
        ("gate_channels: ", "1 or low_channels (4)", "2"),
    ),
]


NO_NUMBERS: list[tuple[type, dict[str, Any], tuple[str, ...]]] = [
    (DCLoss, {"k": "ten"}, ("k: ", "number", "'ten'")),
    (DCLoss, {"delta": None}, ("delta: ", "number", "None")),
    (DCLoss, {"loss_weight": 1j}, ("loss_weight: ", "number", "1j")),
    (DCLoss, {"k_range": 5}, ("k_range: ", "(low, high)", "5")),
    (DCLoss, {"k_range": "ab"}, ("k_range: ", "(low, high)", "'ab'")),
    (DCLoss, {"delta_range": ("a", 1.0)}, ("delta_range: ", "number", "'a'")),
]


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=lambda bad: f"{bad[0].__name__}-{'-'.join(bad[1])}")
def test_constructors_with_what_is_no_number(
    bad: tuple[type, dict[str, Any], tuple[str, ...]],
) -> None:
    module, arguments, fragments = bad
    assert_raises(TypeError, fragments, lambda: module(**arguments))


@pytest.mark.parametrize(
    "bad", BAD_CONSTRUCTORS, ids=lambda bad: f"{bad[0].__name__}-{'-'.join(bad[1])}"
)
def test_bad_constructors(bad: tuple[type, dict[str, Any], tuple[str, ...]]) -> None:
    module, arguments, fragments = bad
    assert_raises(ValueError, fragments, lambda: module(**arguments))


def test_whatever_is_an_integer_counts_channels() -> None:
    """NumPy's integers come out of a data set's statistics; the module keeps Python's."""
    block = EFPNBS(numpy.int64(3), numpy.int32(4), numpy.int64(5), numpy.int64(4))
    plain = reference.EFPNBS(3, 4, 5, 4)
    assert {n: p.shape for n, p in block.named_parameters()} == {
        n: p.shape for n, p in plain.named_parameters()
    }
    assert type(block.fbsm.gate_channels) is type(block.cem.low_channels) is int


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
@pytest.mark.parametrize("module", [FBSM(3, 4), EFPNBS(3, 4)], ids=["FBSM", "EFPNBS"])
def test_a_low_level_without_pixels(module: torch.nn.Module, size: tuple[int, int]) -> None:
    """There is nothing to convolve; the reference refuses it too."""
    low = "c_low" if isinstance(module, FBSM) else "p_low"
    maps = torch.zeros(2, 4, *size), torch.zeros(2, 3, 2, 2)
    assert_raises(
        ValueError, (f"{low}: ", "at least 1", str(tuple(maps[0].shape))), lambda: module(*maps)
    )
    with pytest.raises(RuntimeError, match="greater than 0"):
        getattr(reference, type(module).__name__)(3, 4)(*maps)


def test_a_block_of_nothing_checks_its_maps() -> None:
    block = EFPNBS(3, 4, use_cem=False, use_fbsm=False)
    p_low, p_high = torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 2, 2)
    assert block(p_low, p_high) is p_low
    assert_raises(ValueError, ("p_low: ", "4 dimensions"), lambda: block(p_low[0], p_high))
    assert_raises(TypeError, ("p_high: ", "tensor", "str"), lambda: block(p_low, "x"))


def test_mixed_dtypes_on_a_device_without_autocast() -> None:
    p_low, p_high = (torch.zeros(1, c, 4, 4, device="meta") for c in (4, 3))
    block = EFPNBS(3, 4).to("meta")
    assert_raises(TypeError, ("p_high: ", "torch.float16"), lambda: block(p_low, p_high.half()))


@pytest.mark.parametrize("module", [CEM(3, 4), FBSM(3, 4, 2), FBSM(3, 4, 2, 4), EFPNBS(3, 4)])
def test_channels_that_a_module_is_not_for(module: torch.nn.Module) -> None:
    """The map is named, not the parameter that it does not fit."""
    low = "c_low" if isinstance(module, FBSM) else "p_low"
    right, wrong = ((1, 4, 5, 6), (1, 3, 2, 2)), ((1, 7, 5, 6), (1, 5, 2, 2))
    assert_raises(
        ValueError,
        (f"{low}: expected 4 channels", "(1, 7, 5, 6)"),
        lambda: module(torch.zeros(wrong[0]), torch.zeros(right[1])),
    )
    assert_raises(
        ValueError,
        ("p_high: expected 3 channels", "(1, 5, 2, 2)"),
        lambda: module(torch.zeros(right[0]), torch.zeros(wrong[1])),
    )


def test_modules_raise_what_functions_raise() -> None:
    block = EFPNBS(3, 4)
    p_low, p_high = torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 2, 2)
    assert_raises(TypeError, ("p_high: ", "torch.float64"), lambda: block(p_low, p_high.double()))
    assert_raises(
        TypeError,
        ("project_weight: ", "(torch.float64)", "torch.float32"),
        lambda: block(p_low.double(), p_high.double()),
    )
    assert_raises(
        ValueError,
        ("reduction: ", "'mean'", "'avg'"),
        lambda: DCLoss()(p_low, p_low, reduction_override="avg"),
    )
    assert_raises(
        ValueError,
        ("mask: ", "use_fbsm=False"),
        lambda: EFPNBS(3, 4, use_fbsm=False).mask(p_low, p_high),
    )
