"""``EFPNBSLevel`` behind pyramids of every kind of container."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import Tensor, nn

from efpn_kernels import EFPNBSLevel, patch, reference

Pyramid = namedtuple("Pyramid", "p2 p3 p4 p5")
KEYS = Pyramid._fields
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "named tuple": lambda maps: Pyramid(*maps),
    "dict": lambda maps: dict(zip(KEYS, maps)),
    "ordered dict": lambda maps: OrderedDict(zip(KEYS, maps)),
}


def pyramid(channels: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, channels, size, size + 1) for size in (16, 8, 4, 2)]


def values(maps: object) -> list[Tensor]:
    return list(maps.values() if isinstance(maps, dict) else maps)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_one_level_is_replaced_and_the_container_kept(kind: str) -> None:
    maps = CONTAINERS[kind](pyramid())
    before = values(maps)
    level = EFPNBSLevel(6)
    out = level(maps)
    assert type(out) is type(maps) and out is not maps
    assert not isinstance(maps, dict) or list(out) == list(maps)
    expected = [level.block(before[0], before[3]), *before[1:]]
    assert torch.equal(values(out)[0], expected[0])
    assert all(a is b for a, b in zip(values(out)[1:], before[1:]))
    assert all(a is b for a, b in zip(values(maps), before)), "the input was changed"


def test_levels_by_key_and_by_index() -> None:
    maps = dict(zip(KEYS, pyramid()))
    by_key, by_index = EFPNBSLevel(6, "p3", "p5"), EFPNBSLevel(6, 1, 3)
    by_index.load_state_dict(by_key.state_dict())
    assert torch.equal(by_key(maps)["p3"], by_index(maps)["p3"])
    numbered = {3: maps["p5"], 0: maps["p2"]}  # keys of its own come before positions
    level = EFPNBSLevel(6)
    assert torch.equal(level(numbered)[0], level.block(maps["p2"], maps["p5"]))


def test_two_numbers_of_channels_and_the_blocks_switches() -> None:
    level = EFPNBSLevel((5, 6), 0, 1, hidden_channels=3, gate_channels=6, use_cem=False)
    low, high = torch.randn(1, 6, 8, 8), torch.randn(1, 5, 2, 2)
    assert level([low, high])[0].shape == low.shape
    assert level.block.fbsm.low_conv.out_channels == 3
    assert level.block.fbsm.low_gate.out_channels == 6
    assert not level.block.use_cem


def test_it_trains_and_compiles() -> None:
    model = nn.Sequential(nn.Identity(), EFPNBSLevel(6))
    for kind in ("list", "tuple", "dict", "ordered dict"):
        maps = CONTAINERS[kind](pyramid())
        plain = model(maps)
        compiled = torch.compile(model, fullgraph=True, backend="eager")(maps)
        assert type(compiled) is type(plain)
        torch.testing.assert_close(values(compiled), values(plain))
    values(plain)[0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_patch_finds_the_twin_inside() -> None:
    level = EFPNBSLevel(6)
    level.block = reference.EFPNBS(6, 6)
    assert patch(level) == ["block", "block.cem", "block.fbsm"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((6, 6, 6),), ValueError, "channels: expected a number, or (high, low), got (6, 6, 6)"),
        ((6, 0, 0), ValueError, "low, high: expected two levels, got 0 twice"),
        ((6, -1, 3), ValueError, "low: expected an index from 0, got -1"),
        ((6, 0, 1.5), TypeError, "high: expected an index or a key, got 1.5"),
        ((6, True, 3), TypeError, "low: expected an index or a key, got True"),
    ],
)
def test_levels_that_are_none(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        EFPNBSLevel(*arguments)
    assert str(caught.value) == message


def test_maps_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"high: expected one of the levels \[0, 1\], got 3"):
        EFPNBSLevel(6)(pyramid()[:2])
    with pytest.raises(ValueError, match=r"low: expected one of the levels \['p2'.*got 'p6'"):
        EFPNBSLevel(6, "p6", "p5")(dict(zip(KEYS, pyramid())))
    with pytest.raises(TypeError, match="maps: expected a list, tuple or dict of maps, got Tensor"):
        EFPNBSLevel(6)(pyramid()[0])
