"""``EFPNBSNeck(graphed=True)`` on imitated graphs."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet.registry")

from cpu_graphs import install
from mmdet.registry import MODELS

import efpn_mmdet.neck
from efpn_mmdet.neck import EFPNBSNeck, GateProbe


def make_neck(**options: object) -> EFPNBSNeck:
    torch.manual_seed(0)
    base = {"type": "FPN", "in_channels": [4, 8, 16, 32], "out_channels": 8, "num_outs": 5}
    return MODELS.build({"type": "EFPNBSNeck", "base": base, **options})


def features(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(1, 4 << level, 32 >> level, 32 >> level, generator=generator)
        for level in range(4)
    )


def test_on_a_cpu_there_are_no_graphs() -> None:
    for first, second in zip(
        make_neck(graphed=True)(features(1)), make_neck()(features(1)), strict=True
    ):
        assert torch.equal(first, second)


def test_replays_train_like_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = install(monkeypatch)
    monkeypatch.setattr(sys.modules["efpn_kernels.graphed"], "_on_gpu", lambda x: True)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    captured, plain = make_neck(graphed=True), make_neck()
    for seed in (1, 2):
        for neck in (captured, plain):
            sum(level.square().sum() for level in neck(features(seed))).backward()
    assert graph.made[0].replays >= 2
    for one, other in zip(captured.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert list(captured.state_dict()) == list(plain.state_dict())

    # A copy, such as that of an average of the weights, captures for itself.
    count = len(graph.made)
    twin = copy.deepcopy(captured)
    twin(features(1))
    assert len(graph.made) > count

    # The probe's hook is called.
    with pytest.warns(UserWarning, match="hook"), GateProbe(captured) as probe:
        captured(features(3))
    assert probe.mask().shape == (1, 1, 32, 32)
    assert efpn_mmdet.neck.graphed
