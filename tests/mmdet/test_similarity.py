"""NWD, DotD and SimD: published pairs of boxes, invariances, losses, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet.registry")

from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from rfla_boxes import SCORES, SIMILARITIES, random_boxes
from torch import Tensor

from efpn_mmdet.similarity import BoxSimilarity, NWDLoss, SimilarityLoss, register_similarity
from efpn_mmdet.similarity.scores import _SIMILARITIES

GTS = torch.tensor(
    [[10, 10, 22, 22], [10, 10, 22, 22], [0, 0, 8, 8], [3.5, 2, 9.5, 14], [100, 100, 104, 106]],
    dtype=torch.float64,
)
ANCHORS = torch.tensor(
    [[10, 10, 22, 22], [14, 12, 26, 24], [20, 20, 36, 28], [4, 0, 20, 16], [101, 101, 105, 107]],
    dtype=torch.float64,
)
# Computed from the papers' formulas in double precision.
PUBLISHED = [
    ({"type": "dotd", "size": 12.7}, [1, 0.703183998, 0.085441687, 0.648514532, 0.894620745]),
    ({"type": "nwd"}, [1, 0.705121168, 0.085381361, 0.548066010, 0.895399372]),
    ({"type": "nwd", "constant": 12.7}, [1, 0.703183998, 0.083743018, 0.545476989, 0.894620745]),
    (
        {"type": "simd", "m": 6.13, "n": 4.59},
        [1, 0.335906919, 0.000029253, 0.012339145, 0.424682173],
    ),
    ({"type": "simd", "m": 2, "n": 2}, [1, 0.688887021, 0.020895347, 0.233883592, 0.740475593]),
]


@pytest.mark.parametrize(("config", "values"), PUBLISHED, ids=str)
def test_published_values(config: dict, values: list[float]) -> None:
    expected = torch.tensor(values, dtype=torch.float64)
    found = BoxSimilarity(config)(GTS, ANCHORS, is_aligned=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    single = BoxSimilarity(config)(GTS.float(), ANCHORS.float(), is_aligned=True)
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["nwd", "dotd", "simd"])
def test_order_and_place_do_not_count(name: str) -> None:
    gts, anchors = (random_boxes(20, 64, 20, seed).double() for seed in (1, 2))
    scores = SCORES[name](gts, anchors)
    torch.testing.assert_close(SCORES[name](anchors, gts), scores.T, rtol=1e-12, atol=0)
    torch.testing.assert_close(SCORES[name](gts + 300, anchors + 300), scores, rtol=1e-9, atol=0)


def test_only_simd_does_not_depend_on_the_scale() -> None:
    gts, anchors = random_boxes(9, 64, 20, 1).double(), random_boxes(9, 64, 20, 2).double()
    for name in ("nwd", "dotd", "simd"):
        larger = SCORES[name](4 * gts, 4 * anchors)
        assert torch.allclose(larger, SCORES[name](gts, anchors), rtol=1e-9) == (name == "simd")


@pytest.mark.parametrize("name", ["nwd", "dotd", "simd"])
def test_equal_boxes_score_one_and_boxes_without_a_size_are_boxes(name: str) -> None:
    point = torch.tensor([[5.0, 5, 5, 5]])
    line = torch.tensor([[5.0, 5, 9, 5]])
    box = torch.tensor([[700.3, 700.1, 712.7, 709.9]])
    for same in (point, line, box):
        assert SCORES[name](same, same).item() == 1
    assert 0 < SCORES[name](point, line).item() < 1


def test_half_precision_is_computed_in_single() -> None:
    boxes = random_boxes(6, 64, 20, seed=3).half()
    found = BoxSimilarity("nwd")(boxes, boxes.flip(0))
    assert torch.equal(found, SCORES["nwd"](boxes.float(), boxes.flip(0).float()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("iou", r"similarity: expected one of kl, .*, got 'iou'"),
        ({"constant": 3}, r"similarity: expected one of kl, .*, got None"),
        ("dotd", r"similarity 'dotd': expected the constants \['size'\], required .* got \[\]"),
        ({"type": "simd", "m": 2.0}, r"'simd': .* required of them \['m', 'n'\], got \['m'\]"),
        ({"type": "kl", "constant": 12.8}, r"'kl': expected the constants \[\], .* \['constant'\]"),
        *(
            ({"type": "nwd", "constant": value}, "'nwd': constant: expected a positive number, got")
            for value in (0, -12.8, math.nan, math.inf, "12.8", True, None)
        ),
        ({"type": "simd", "m": 0.0, "n": 1.0}, "'simd': m: expected a positive number, got 0.0"),
    ],
    ids=str,
)
def test_what_is_no_similarity_is_refused(config: object, message: str) -> None:
    for kind in (BoxSimilarity, SimilarityLoss):
        with pytest.raises(ValueError, match=message):
            kind(config)


def test_a_similarity_of_ones_own() -> None:
    try:

        @register_similarity("overlap")
        def overlap(gts: Tensor, anchors: Tensor, *, power: float = 1.0) -> Tensor:
            return bbox_overlaps(gts, anchors) ** power

        squared = BoxSimilarity({"type": "overlap", "power": 2})(GTS, ANCHORS)
        assert torch.equal(squared, bbox_overlaps(GTS, ANCHORS) ** 2)
        with pytest.raises(ValueError, match="register_similarity: expected a new name, got 'nwd'"):
            register_similarity("nwd")
    finally:
        _SIMILARITIES.pop("overlap", None)


# Losses


def test_the_published_loss() -> None:
    loss = MODELS.build({"type": "NWDLoss", "reduction": "none"})
    expected = [0, 0.294878832, 0.914618639, 0.451933990, 0.104600628]
    pred = GTS.clone().requires_grad_()
    losses = loss(pred, ANCHORS)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-9)
    losses.sum().backward()
    assert torch.equal(pred.grad[0], torch.zeros(4).double())  # equal boxes: no way is the best
    by_hand = torch.tensor([-0.0246, -0.0123, -0.0246, -0.0123]).double()
    torch.testing.assert_close(pred.grad[1], by_hand, rtol=0, atol=5e-5)


def test_the_loss_of_encoded_boxes_is_a_saturating_distance() -> None:
    deltas = torch.tensor([[0.5, 0.2, -0.3, 0.1]]).double()
    found = NWDLoss()(deltas, torch.zeros_like(deltas))
    assert found.item() == pytest.approx(0.033910758, abs=1e-9)
    assert found.item() == pytest.approx(1 - math.exp(-deltas.norm() / (math.sqrt(2) * 12.8)))


@pytest.mark.parametrize("name", ["nwd", "dotd", "simd"])
def test_gradients(name: str) -> None:
    loss = SimilarityLoss(SIMILARITIES[name], reduction="none")
    pred = GTS[1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: loss(one, ANCHORS[1:]), pred)
    equal = GTS.clone().requires_grad_()
    loss(equal, GTS).sum().backward()
    assert torch.equal(equal.grad, torch.zeros_like(GTS))


def test_weights_are_for_boxes() -> None:
    loss = NWDLoss(loss_weight=5.0)
    each = 5 * NWDLoss(reduction="none")(GTS, ANCHORS)
    rows = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0]).double()
    for weight in (rows, rows[:, None].expand(5, 4)):
        assert loss(GTS, ANCHORS, weight).item() == pytest.approx((each * rows).mean().item())
        by_factor = loss(GTS, ANCHORS, weight, avg_factor=2.0).item()
        assert by_factor == pytest.approx((each * rows).sum().item() / 2)
    assert torch.equal(loss(GTS, ANCHORS, reduction_override="none"), each)
    assert loss(GTS, ANCHORS, reduction_override="sum").item() == pytest.approx(each.sum().item())


def test_no_box_gives_a_zero_with_a_graph() -> None:
    pred = torch.zeros(0, 4, requires_grad=True)
    for weight, factor in ((None, None), (torch.zeros(0, 4), 1.0), (torch.zeros(0), 0.0)):
        total = NWDLoss()(pred, torch.zeros(0, 4), weight, avg_factor=factor)
        assert total.item() == 0 and total.requires_grad
        total.backward()


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pred, target: .* got \(5, 4\) and \(4, 4\)"):
        NWDLoss()(GTS, ANCHORS[:4])
    with pytest.raises(ValueError, match="reduction: expected 'none', 'mean' or 'sum', got 'max'"):
        NWDLoss(reduction="max")(GTS, ANCHORS)
    with pytest.raises(ValueError, match='avg_factor can not be used with reduction="sum"'):
        NWDLoss(reduction="sum")(GTS, ANCHORS, avg_factor=2.0)
