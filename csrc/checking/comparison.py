"""Runs a kernel and compares what it gives with its contract."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cases import Maker
from .contracts import CONTRACTS, RESULTS, dc_loss_terms


def run_kernel(kernel: Callable, args: list) -> tuple[Tensor, ...]:
    """The results of an operator overload, then the arguments that it changed in place.

    The arguments themselves stay as they are.
    """
    schema = kernel._schema.arguments
    mutable = [i for i, a in enumerate(schema) if a.alias_info and a.alias_info.is_write]
    args = [a.clone() if i in mutable else a for i, a in enumerate(args)]
    results = kernel(*args)
    results = () if results is None else results if isinstance(results, tuple) else (results,)
    return *results, *(args[i] for i in mutable)


def contract_results(name: str, args: list) -> tuple[Tensor | None, ...]:
    """What the contract says for these arguments, in float64.

    A GPU's matrix units take factors of one dtype: there the gradient of the taps has been rounded to that
    of the map.
    """
    if name == "taps_backward" and args[0].is_cuda:
        args = [args[0].to(args[1].dtype), *args[1:]]
    wide = (a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    return CONTRACTS[name](*wide)


def check_results(name: str, args: list, actual: tuple[Tensor, ...], maker: Maker) -> None:
    """Compare dtype, memory format, shape and values with the contract.

    A value may be off by one rounding to its dtype, plus the error of accumulation: some roundings of
    the largest value, and one of a sum of random signs over as many terms as a result has arguments.
    DCLoss's sums have terms that cancel: add a rounding of every term, all of one sign.
    """
    expected = contract_results(name, args)
    assert len(actual) == len(expected) == len(RESULTS[name])
    for i, (got, want, kind) in enumerate(zip(actual, expected, RESULTS[name], strict=True)):
        where = f"{name}, result {i} ({kind})"
        if want is None:
            assert got.numel() == 0, f"{where}: expected no elements, got {tuple(got.shape)}"
            continue
        assert got.shape == want.shape, f"{where}: {tuple(got.shape)} != {tuple(want.shape)}"
        if kind == "acc or T":
            kind = "T" if want.ndim else "acc"
        if kind == "map or acc":
            kind = "acc" if want.shape[1] == 1 != args[0].shape[1] else "map"
        check_layout(got, kind, args, maker, where)
        if kind == "index":
            assert torch.equal(got.long(), want), where
            continue
        largest = want[want.isfinite()].abs().max().item() if want.numel() else 0.0
        terms = max(a.numel() for a in args if isinstance(a, Tensor)) / max(want.numel(), 1)
        rounding = torch.finfo(got.dtype).eps
        roundings = 32 * (1 + largest) + terms**0.5
        if name.startswith("dc_loss") and want.ndim == 0:
            roundings += loss_terms(name, args)
        slack = torch.finfo(maker.acc).eps * roundings
        torch.testing.assert_close(
            got.double(),
            want,
            rtol=rounding,
            atol=slack,
            equal_nan=True,
            msg=lambda message, where=where: f"{where}: {message}",
        )


def loss_terms(name: str, args: list) -> float:
    """The largest sum of absolute terms behind DCLoss's sums: they cancel, their roundings do not."""
    first = 1 if name == "dc_loss_backward" else 0
    pred, target, weight, k, delta, form = args[first : first + 6]
    scale = args[7]
    wide = [a if a is None else a.double() for a in (pred, target, weight, k, delta)]
    if first and weight is not None:
        wide[2] = wide[2] * args[0].double()
    elif first:
        wide[2] = args[0].double()
    return max(dc_loss_terms(*wide, form, scale))


def check_layout(got: Tensor, kind: str, args: list, maker: Maker, where: str) -> None:
    dtype = {"map": maker.dtype, "T": maker.dtype, "index": torch.int32}.get(kind, maker.acc)
    assert got.dtype == dtype, f"{where}: expected {dtype}, got {got.dtype}"
    if kind == "weight":
        (weight,) = (a for a in args if isinstance(a, Tensor) and a.shape == got.shape)
        assert got.stride() == weight.stride(), f"{where}: strides {got.stride()}"
    elif kind == "map" and got.numel():
        assert got.is_contiguous(memory_format=maker.format), f"{where}: strides {got.stride()}"
    elif kind != "map":
        assert got.is_contiguous(), f"{where}: strides {got.stride()}"
