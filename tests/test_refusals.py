"""Tensors that are not dense, of two dtypes of one size, of other images: refused by name, with the way out."""

from __future__ import annotations

import pytest
import torch
from conftest import Backend
from torch import Tensor

from efpn_kernels import functional

SPARSE = {
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
}


def loss(pred: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    return functional.dc_loss(pred, target, torch.tensor(10.0), torch.tensor(0.15), weight)


@pytest.mark.parametrize("layout", SPARSE)
@pytest.mark.parametrize("argument", ["pred", "target", "weight"])
def test_a_sparse_argument_of_the_loss(backend: Backend, argument: str, layout: str) -> None:
    x = torch.eye(4)
    arguments = {"pred": x, "target": x, "weight": x} | {argument: SPARSE[layout](x)}
    with pytest.raises(TypeError, match=rf"^{argument}: expected a dense tensor.*to_dense\(\)"):
        loss(**arguments)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sparse_argument_of_a_map(backend: Backend, place: int) -> None:
    arguments = [
        torch.ones(1, 2, 4, 4),
        torch.ones(1, 3, 2, 2),
        torch.ones(2, 3, 1, 1),
        torch.ones(2),
    ]
    arguments[place] = arguments[place].to_sparse()
    name = ("p_low", "p_high", "weight")[place]
    with pytest.raises(TypeError, match=rf"^{name}: expected a dense tensor.*to_dense\(\)"):
        functional.cem(*arguments)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor(backend: Backend) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(
        TypeError, match=r"^pred: expected a dense tensor, got a nested tensor; pad"
    ):
        loss(nested, nested, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [(torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)],
    ids=str,
)
def test_two_halves_are_two_dtypes(backend: Backend, one: torch.dtype, other: torch.dtype) -> None:
    """As many bytes, and another number in them."""
    maps = torch.ones(1, 2, 4, 4, dtype=one), torch.ones(1, 3, 2, 2, dtype=one)
    weight, bias = torch.ones(2, 3, 1, 1, dtype=one), torch.ones(2, dtype=one)
    for arguments, name in (
        ((maps[0], maps[1].to(other), weight, bias), "p_high"),
        ((*maps, weight.to(other), bias), "weight"),
        ((*maps, weight, bias.to(other)), "bias"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: expected the dtype of p_low \({one}\)"):
            functional.cem(*arguments)


@pytest.mark.parametrize("batches", [(1, 2), (2, 1), (3, 1)], ids=str)
def test_maps_of_other_images(backend: Backend, batches: tuple[int, int]) -> None:
    """One image is not every image's: nothing is broadcast."""
    low, high = torch.ones(batches[0], 2, 4, 4), torch.ones(batches[1], 3, 2, 2)
    said = rf"^p_high: expected the batch size of p_low \({batches[0]}\), got {batches[1]}"
    with pytest.raises(ValueError, match=said):
        functional.cem(low, high, torch.ones(2, 3, 1, 1), torch.ones(2))
