"""Wrong input of every kind: an exception before any kernel runs, with name, requirement, received."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import BLOCK_OPERATORS, LossCase, block_problem, case, loss_problem
from conftest import Backend
from raising import assert_raises
from torch import Tensor

from efpn_kernels import EFPNBS, functional, reference, use_backend
from efpn_kernels.backends import DESCRIPTORS
from efpn_kernels.ops import autograd, dc_loss

Change = Callable[[Tensor], Any]

# argument, change, exception, what its message must contain
BAD_MAPS: list[tuple[str, Change, type[Exception], tuple[str, ...]]] = [
    ("low", lambda x: x[0], ValueError, ("4 dimensions [N, C, H, W]", "(8, 12, 16)")),
    ("low", lambda x: x[None], ValueError, ("4 dimensions", "(1, 1, 8, 12, 16)")),
    ("p_high", lambda x: x[0, 0], ValueError, ("4 dimensions [N, C, h, w]", "(6, 8)")),
    ("p_high", lambda x: x[..., :0], ValueError, ("at least 1", "(1, 12, 6, 0)")),
    ("p_high", lambda x: x[:, :, :0], ValueError, ("at least 1", "(1, 12, 0, 8)")),
    ("p_high", lambda x: x.repeat(2, 1, 1, 1), ValueError, ("batch size", "(1)", "got 2")),
    ("low", lambda x: x.int(), TypeError, ("floating-point", "torch.int32")),
    ("p_high", lambda x: x.bool(), TypeError, ("floating-point", "torch.bool")),
    ("p_high", lambda x: x.cfloat(), TypeError, ("floating-point", "torch.complex64")),
    ("p_high", lambda x: x.double(), TypeError, ("(torch.float32)", "torch.float64")),
    ("p_high", lambda x: x.bfloat16(), TypeError, ("(torch.float32)", "torch.bfloat16")),
    ("p_high", lambda x: x.to("meta"), ValueError, ("device of", "got meta")),
    ("p_high", lambda x: x.numpy(), TypeError, ("expected a tensor", "ndarray")),
    ("low", lambda x: None, TypeError, ("expected a tensor", "NoneType")),
    ("low", lambda x: x.tolist(), TypeError, ("expected a tensor", "list")),
]
BAD_PARAMETERS: list[tuple[Change, type[Exception], tuple[str, ...]]] = [
    (lambda x: x[1:], ValueError, ("expected shape", "got (")),
    (lambda x: x[None], ValueError, ("expected shape", "got (1, ")),
    (lambda x: x.double(), TypeError, ("(torch.float32)", "torch.float64")),
    (lambda x: x.long(), TypeError, ("floating-point", "torch.int64")),
    (lambda x: x.to("meta"), ValueError, ("device of", "got meta")),
    (lambda x: None, TypeError, ("expected a tensor", "NoneType")),
]


class LetThrough(BaseException):
    """Not an ``Exception``: the functions catch those, to look for better words."""


@pytest.fixture
def no_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may come out of an operator, whose own checks are the first thing that it does."""
    for module, name in ((autograd, "run"), (dc_loss, "dc_loss")):
        operator = getattr(module, name)

        def run_and_complain(*args: Any, _operator: Callable[..., Any] = operator) -> None:
            _operator(*args)
            raise LetThrough

        monkeypatch.setattr(module, name, run_and_complain)


@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
@pytest.mark.parametrize("bad", BAD_MAPS, ids=lambda bad: f"{bad[0]}-{bad[2].__name__}")
def test_bad_maps(operator: str, bad: tuple[str, Change, type[Exception], tuple[str, ...]]) -> None:
    argument, change, exception, fragments = bad
    tensors = {n: x.detach() for n, x in block_problem(operator, case("x2")).tensors.items()}
    name = argument if argument == "p_high" else next(iter(tensors))
    tensors[name] = change(tensors[name])
    call = getattr(functional, operator)
    assert_raises(exception, (f"{name}: ", *fragments), lambda: call(*tensors.values()))


@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
@pytest.mark.parametrize("name", ["x2", "per_channel"])
def test_bad_parameters(operator: str, name: str) -> None:
    """Every parameter, in every wrong way; its own name is in the message."""
    tensors = {n: x.detach() for n, x in block_problem(operator, case(name)).tensors.items()}
    for parameter in list(tensors)[2:]:
        for change, exception, fragments in BAD_PARAMETERS:
            wrong = tensors | {parameter: change(tensors[parameter])}
            if parameter == "low_gate_weight" and exception is ValueError:
                fragments = fragments[1:]
            # Sizes that disagree with low_gate_weight's may be noticed at the first one of them.
            owner = "_weight" if parameter == "low_gate_weight" else f"{parameter}: "
            call = partial(getattr(functional, operator), *wrong.values())
            assert_raises(exception, (owner, *fragments), call)


@pytest.mark.usefixtures("no_kernel_runs")
def test_gate_channels_between_one_and_all() -> None:
    tensors = [x.detach() for x in block_problem("fbsm", case("per_channel")).tensors.values()]
    position = list(block_problem("fbsm", case("per_channel")).tensors).index("low_gate_weight")
    tensors[position] = tensors[position][:2]
    assert_raises(
        ValueError,
        ("low_gate_weight: ", "G = 1 or", "(12)", "(2, 20, 1, 1)"),
        lambda: functional.fbsm(*tensors),
    )


@pytest.mark.parametrize("operator", ["fbsm", "efpn_bs"])
def test_a_missing_or_superfluous_parameter(operator: str) -> None:
    tensors = list(block_problem(operator, case("x2")).tensors.values())
    for wrong in (tensors[:-1], [*tensors, tensors[-1]]):
        with pytest.raises(TypeError):
            getattr(functional, operator)(*wrong)


BAD_LOSSES: list[tuple[str, Change | Any, type[Exception], tuple[str, ...]]] = [
    ("target", lambda x: x[:-1], ValueError, ("(33, 4)", "(32, 4)")),
    ("target", lambda x: x[:, :1], ValueError, ("(33, 4)", "(33, 1)")),
    ("target", lambda x: x.to("meta"), ValueError, ("device of pred", "got meta")),
    ("pred", lambda x: x.int(), TypeError, ("floating-point", "torch.int32")),
    ("target", lambda x: x.long(), TypeError, ("floating-point", "torch.int64")),
    ("pred", lambda x: 1.0, TypeError, ("expected a tensor", "float")),
    ("k", lambda x: 10.0, TypeError, ("expected a tensor", "float")),
    ("k", lambda x: x.int(), TypeError, ("floating-point", "torch.int32")),
    ("k", lambda x: x.expand(2), ValueError, ("one element", "(2,)")),
    ("delta", lambda x: x.expand(0), ValueError, ("one element", "(0,)")),
    ("delta", lambda x: x.to("meta"), ValueError, ("device of pred", "got meta")),
    ("weight", lambda x: x[:5], ValueError, ("broadcasts", "(33, 4)", "(5, 4)")),
    ("weight", lambda x: x[None], ValueError, ("broadcasts", "(1, 33, 4)")),
    ("weight", lambda x: x.bool(), TypeError, ("floating-point", "torch.bool")),
    ("weight", lambda x: x.requires_grad_(), ValueError, ("requires_grad=False", "not different")),
    ("avg_factor", "3", TypeError, ("number", "str")),
    ("avg_factor", [3.0], TypeError, ("number", "list")),
    ("avg_factor", 1j, TypeError, ("number", "complex")),
    ("avg_factor", torch.tensor(1j), TypeError, ("real", "complex64")),
    ("avg_factor", torch.ones(2), ValueError, ("one element", "(2,)")),
    ("avg_factor", torch.ones(0), ValueError, ("one element", "(0,)")),
    ("avg_factor", torch.ones(1, device="meta"), ValueError, ("device of pred", "got meta")),
    ("loss_weight", "2", TypeError, ("number", "'2'")),
    ("form", "printed", ValueError, ("('equation', 'text')", "'printed'")),
    ("reduction", "average", ValueError, ("('none', 'mean', 'sum')", "'average'")),
]


@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("bad", BAD_LOSSES, ids=lambda bad: f"{bad[0]}-{bad[2].__name__}")
def test_bad_loss(bad: tuple[str, Change | Any, type[Exception], tuple[str, ...]]) -> None:
    name, change, exception, fragments = bad
    tensors = loss_problem(LossCase((33, 4), weight="full")).tensors
    arguments: dict[str, Any] = {n: x.detach() for n, x in tensors.items()}
    arguments[name] = change(arguments[name]) if callable(change) else change
    assert_raises(exception, (f"{name}: ", *fragments), lambda: functional.dc_loss(**arguments))


@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_avg_factor_belongs_to_the_mean(reduction: str) -> None:
    pred, target, k, delta = (torch.ones(()) for _ in range(4))
    assert_raises(
        ValueError,
        ("avg_factor: ", "'mean'", repr(reduction)),
        lambda: functional.dc_loss(pred, target, k, delta, reduction=reduction, avg_factor=2.0),
    )


def test_the_checks_hold_for_the_reference_backend_too() -> None:
    with use_backend("reference"), pytest.raises(TypeError, match="p_high: "):
        functional.cem(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).double(), None, None)


@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_autocast_does_not_bring_float64_and_another_dtype_together(operator: str) -> None:
    """It leaves float64 alone, and kernels read every tensor in the dtype of the first."""
    problem = block_problem(operator, case("x2"))
    tensors = {name: x.detach() for name, x in problem.tensors.items()}
    call = getattr(functional, operator)
    first = next(iter(tensors))
    for name in tensors.keys() - {first}:
        with torch.autocast("cpu", torch.bfloat16):
            wrong = tensors | {name: tensors[name].double()}
            message = (f"{name}: ", "(torch.float32)", "torch.float64")
            assert_raises(TypeError, message, partial(call, *wrong.values()))
    with torch.autocast("cpu", torch.bfloat16):
        wrong = tensors | {first: tensors[first].double()}
        message = ("(torch.float64)", "torch.float32")
        assert_raises(TypeError, message, lambda: call(*wrong.values()))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("operator", ["cem", "efpn_bs", "dc_loss"])
def test_mixed_dtypes_in_the_dispatcher(backend: Backend, operator: str, autocast: bool) -> None:
    """Whoever calls an operator without the functions is refused before a kernel reads beyond a tensor."""
    name = DESCRIPTORS[backend.name].namespace
    if operator == "dc_loss":
        tensors = loss_problem(LossCase((33, 4), weight="full"), backend.device).tensors
        order, rest = ("pred", "target", "weight", "k", "delta"), (0, True, 1.0, True)
        fixed = ("k", "delta")
    else:
        tensors = block_problem(operator, case("x2"), backend.device).tensors
        order, rest, fixed = tuple(tensors), (True,) * (operator == "efpn_bs"), ()
    op = getattr(getattr(torch.ops, name), operator).default
    arguments = {key: tensors[key].detach() for key in order}
    with torch.autocast(backend.device, torch.bfloat16, enabled=autocast):
        op(*arguments.values(), *rest)
        for key in order:
            if key in fixed:
                op(*(arguments | {key: arguments[key].double()}).values(), *rest)
                continue
            wrong = arguments | {key: arguments[key].double()}
            with pytest.raises((TypeError, RuntimeError)) as caught:
                op(*wrong.values(), *rest)
            text = str(caught.value)
            assert f"{operator}: " in text
            assert "expected the dtype of" in text


def test_an_error_leaves_the_next_call_alone(backend: Backend) -> None:
    block = EFPNBS(3, 4).to(backend.device)
    oracle = reference.EFPNBS(3, 4).to(backend.device)
    oracle.load_state_dict(block.state_dict())
    p_low, p_high = (torch.ones(1, c, 4, 4, device=backend.device) for c in (4, 3))
    with pytest.raises(ValueError, match="p_high: "):
        block(p_low, p_high[0])
    torch.testing.assert_close(block(p_low, p_high), oracle(p_low, p_high))
