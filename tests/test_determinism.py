"""The same bits in every run and for every number of threads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
from cases import BLOCK_OPERATORS, Case, LossCase, Problem, Shape, block_problem, case, loss_problem
from conftest import Backend
from torch import Tensor

from efpn_kernels import _libraries, use_backend

REPEATS = 5
SHAPES = {
    "non_dividing": case("non_dividing").shape,
    "per_channel": case("per_channel").shape,
    "several_blocks": Shape(2, 40, 36, 44, (37, 53), (5, 7)),
    "several_blocks_per_channel": Shape(2, 40, 36, 44, (47, 53), (5, 7), per_channel=True),
}
LOSSES = [
    LossCase((size,), reduction=reduction, weight="full")
    for size in (2049, 300_000)
    for reduction in ("mean", "none")
]


@pytest.fixture(autouse=True)
def poison() -> None:
    """None here, and no deterministic mode of PyTorch's either: the kernels must not need it."""


@pytest.fixture(autouse=True)
def deterministic_library() -> Iterator[None]:
    """cuDNN chooses among convolutions; those with atomics are not ours to answer for."""
    previous = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = previous


@pytest.fixture
def threads() -> Iterator[list[int]]:
    """Numbers of threads to try; the present one comes back."""
    present = torch.get_num_threads()
    yield [1, 2, 3, 5, 8]
    torch.set_num_threads(present)


def assert_same_bits(
    results: dict[str, Tensor], expected: dict[str, Tensor], names: list[str] | None = None
) -> None:
    for name in names or list(expected):
        assert results[name].equal(expected[name]), f"{name}: other bits"


def block(operator: str, name: str, layout: str, device: str) -> Problem:
    return block_problem(operator, Case(name, SHAPES[name], layout=layout), device)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_blocks_repeat(backend: Backend, operator: str, name: str, layout: str) -> None:
    problem = block(operator, name, layout, backend.device)
    first = problem.fused()
    for _ in range(REPEATS):
        assert_same_bits(problem.fused(), first)


@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_losses_repeat(backend: Backend, case: LossCase) -> None:
    problem = loss_problem(case, backend.device)
    first = problem.fused()
    for _ in range(REPEATS):
        assert_same_bits(problem.fused(), first)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_blocks_do_not_depend_on_threads(
    backend: Backend, threads: list[int], operator: str, name: str, layout: str
) -> None:
    """Of float32. Other dtypes may go through the library's convolutions, and those divide their sums by
    the number of threads."""
    problem = block(operator, name, layout, backend.device)
    first = problem.fused()
    for count in threads:
        torch.set_num_threads(count)
        assert_same_bits(problem.fused(), first)


@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_losses_do_not_depend_on_threads(
    backend: Backend, threads: list[int], case: LossCase
) -> None:
    problem = loss_problem(case, backend.device)
    first = problem.fused()
    for count in threads:
        torch.set_num_threads(count)
        assert_same_bits(problem.fused(), first)


KINDS_OF_SUMS = ("conv", "mm", "dot", "linear", "sum", "mean", "norm", "softmax", "einsum", "prod")
"""Words in the names of the library's operators that add up: their order of sums is not ours to promise."""


@pytest.fixture
def library_sums(capfd: pytest.CaptureFixture[str]) -> Callable[[Problem], list[str]]:
    """What a problem runs on the CPU, forward and backward, of the library's sums.

    PyTorch's profiler sees the operators; oneDNN itself tells of its convolutions and products, whose backward our
    C++ reaches past the profiler.
    """
    onednn = torch.backends.mkldnn

    def names(problem: Problem) -> list[str]:
        tell = onednn.verbose(onednn.VERBOSE_ON) if onednn.is_available() else nullcontext()
        capfd.readouterr()
        with use_backend("cpu"), torch.autograd.profiler.profile() as profile, tell:
            problem.fused()
        told = [line.split(",") for line in capfd.readouterr().out.splitlines()]
        ran = {event.name for event in profile.function_events}
        assert any(name.startswith("efpn::") for name in ran)
        sums = {
            name
            for name in ran
            if name.startswith("aten::") and any(word in name for word in KINDS_OF_SUMS)
        }
        sums |= {
            f"onednn {line[5]} {line[7]}"
            for line in told
            if line[0] == "onednn_verbose" and line[3:4] == ["exec"] and line[5] != "reorder"
        }
        return sorted(sums)

    return names


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["several_blocks", "several_blocks_per_channel"])
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_no_sum_of_a_block_is_the_librarys(
    library_sums: Callable[[Problem], list[str]], operator: str, name: str, layout: str
) -> None:
    """Of float32: so the bits are the same with another library, or another processor's."""
    assert not library_sums(block(operator, name, layout, "cpu"))


@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_no_sum_of_a_loss_is_the_librarys(
    library_sums: Callable[[Problem], list[str]], case: LossCase
) -> None:
    assert not library_sums(loss_problem(case))


def test_sums_of_the_librarys_are_found(library_sums: Callable[[Problem], list[str]]) -> None:
    """Those of a mask per channel in bfloat16, backward too."""
    sums = library_sums(block_problem("efpn_bs", case("per_channel", torch.bfloat16)))
    assert "aten::_convolution" in sums
    assert any("backward" in name for name in sums), sums


LINKED = {"add_Tensor", "convolution", "convolution_backward"}
"""Functions of PyTorch's that the CPU library calls past the dispatcher: an addition of two maps, and the convolutions
of dtypes other than float32."""
DISPATCHED = {
    *("_foreach_copy_", "contiguous", "copy_", "empty_like", "relu_", "sigmoid_"),
    *("sigmoid_backward", "zero_"),
}
"""Its operators that the CPU library calls: none of them adds up."""


def test_the_cpu_library_calls_no_other_function() -> None:
    content = _libraries.CPU.path.read_bytes()
    for pattern, allowed in (
        (rb"aoti_torch_cpu_(\w+)", LINKED),
        (rb"aten::(\w+)", DISPATCHED),
    ):
        found = {name.decode() for name in re.findall(pattern, content)}
        assert found <= allowed


def test_an_image_does_not_depend_on_its_neighbours(backend: Backend) -> None:
    """The image alone gives what it gives in a batch, within rounding of the library's products on a GPU."""
    problem = block("efpn_bs", "several_blocks", "contiguous", backend.device)
    p_low, p_high, *parameters = (x.detach() for x in problem.tensors.values())
    together = problem.functional(p_low, p_high, *parameters)
    for i in range(len(p_low)):
        alone = problem.functional(p_low[i : i + 1], p_high[i : i + 1], *parameters)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-6)
