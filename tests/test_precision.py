"""``use_float32_precision``: what it changes, what it leaves alone, and what programs make of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch._inductor.config
from accuracy import assert_rule
from cases import LAYOUTS, Case, Problem, Shape, block_problem, case
from torch import Tensor, nn

from efpn_kernels import (
    EFPNBS,
    current_float32_precision,
    functional,
    use_backend,
    use_float32_precision,
)

FACTOR = 6.0
"""What the error may be beside eager's, where :data:`accuracy.FACTOR` holds by default."""

OPERATORS = ("fbsm", "efpn_bs")
SHAPE = Shape(2, 40, 36, 44, (37, 53), (5, 7))
RULE = ("non_dividing", "x8", "wide", "quarter_p2")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_operator = pytest.mark.parametrize("operator", OPERATORS)


@pytest.fixture(autouse=True)
def start() -> Iterator[None]:
    with use_backend("cpu"), use_float32_precision("highest"):
        yield


def problem_of(operator: str, layout: str = "contiguous", seed: int = 0) -> Problem:
    return block_problem(operator, Case("precision", SHAPE, layout=layout), "cpu", seed)


def at_precision(problem: Problem, name: str) -> Problem:
    """The same problem, each call of it at a precision of its own."""
    function = problem.functional
    decorated = use_float32_precision(name)(lambda *args: function(*args))
    return Problem(decorated, problem.reference, problem.tensors, grad_out=problem.grad_out)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )


# ---- the switch -----------------------------------------------------------------------------------


def test_setter_context_and_decorator() -> None:
    use_float32_precision("high")
    assert current_float32_precision() == "high"
    with use_float32_precision("highest"):
        assert current_float32_precision() == "highest"
    decorated = use_float32_precision("highest")(current_float32_precision)
    assert (current_float32_precision(), decorated()) == ("high", "highest")


def test_it_leaves_the_backend_alone() -> None:
    with use_backend("reference"), use_float32_precision("high"):
        use_backend("auto")
    assert current_float32_precision() == "highest"


@pytest.mark.parametrize("name", ["medium", "HIGH", "", None])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"use_float32_precision: .*'highest'.*'high'") as caught:
        use_float32_precision(name)
    assert repr(name) in str(caught.value)
    assert current_float32_precision() == "highest"


def test_environment_variable() -> None:
    code = "import efpn_kernels; print(efpn_kernels.current_float32_precision())"
    assert run_python(code, EFPN_KERNELS_FLOAT32_PRECISION="").stdout == "highest\n"
    assert run_python(code, EFPN_KERNELS_FLOAT32_PRECISION="high").stdout == "high\n"


def test_a_wrong_name_in_the_environment_stops_the_first_call() -> None:
    code = (
        "import torch; from efpn_kernels import EFPNBS; "
        "EFPNBS(2, 2)(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 1, 1))"
    )
    result = run_python(code, EFPN_KERNELS_FLOAT32_PRECISION="low")
    assert result.returncode == 1
    assert "EFPN_KERNELS_FLOAT32_PRECISION: expected one of" in result.stderr


# ---- what it changes ------------------------------------------------------------------------------


@every_layout
@every_operator
def test_the_bound(operator: str, layout: str) -> None:
    """Over the list of cases: of the result and of every gradient."""
    problems = [
        at_precision(block_problem(operator, case(name, layout=layout), "cpu", seed), "high")
        for name in RULE
        for seed in range(100, 104)
    ]
    assert_rule(problems, FACTOR)


@every_layout
@every_operator
def test_the_result_changes_and_comes_back(operator: str, layout: str) -> None:
    problem = problem_of(operator, layout)
    before = problem.fused()
    with use_float32_precision("high"):
        reduced = problem.fused()
    after = problem.fused()
    assert not reduced["out"].equal(before["out"])
    assert all(after[name].equal(x) for name, x in before.items())


def test_backward_keeps_what_held_in_forward() -> None:
    """Also where the switch has been set back in between, as by a ``with`` block around the forward pass."""
    problem = problem_of("efpn_bs")
    leaves = list(problem.tensors.values())
    with use_float32_precision("high"):
        expected = torch.autograd.grad(problem.functional(*leaves), leaves, problem.grad_out)
        out = problem.functional(*leaves)
    grads = torch.autograd.grad(out, leaves, problem.grad_out)
    assert all(x.equal(y) for x, y in zip(grads, expected, strict=True))
    by_default = torch.autograd.grad(problem.functional(*leaves), leaves, problem.grad_out)
    assert not grads[0].equal(by_default[0])


@every_operator
def test_training_and_inference_give_the_same_bits(operator: str) -> None:
    problem = at_precision(problem_of(operator), "high")
    with torch.no_grad():
        alone = problem.functional(*problem.tensors.values())
    assert problem.fused()["out"].equal(alone)


@every_layout
@every_operator
def test_bits_do_not_depend_on_threads(operator: str, layout: str) -> None:
    problem, present = at_precision(problem_of(operator, layout), "high"), torch.get_num_threads()
    first = problem.fused()
    try:
        for count in (1, 2, 3, 5) * 2:
            torch.set_num_threads(count)
            again = problem.fused()
            assert all(again[name].equal(x) for name, x in first.items()), count
    finally:
        torch.set_num_threads(present)


# ---- what it leaves alone -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    problem = block_problem("efpn_bs", case("x8", dtype), "cpu")
    expected = problem.fused()
    reduced = at_precision(problem, "high").fused()
    assert all(reduced[name].equal(x) for name, x in expected.items())


def test_plain_pytorch_and_cem() -> None:
    for operator, backend in (("efpn_bs", "reference"), ("cem", "cpu")):
        problem = problem_of(operator)
        with use_backend(backend):
            assert at_precision(problem, "high").fused()["out"].equal(problem.fused()["out"])


def test_pytorchs_own_switch_is_not_asked() -> None:
    problem = problem_of("efpn_bs")
    expected, present = problem.fused()["out"], torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert problem.fused()["out"].equal(expected)
    finally:
        torch.set_float32_matmul_precision(present)


# ---- programs -------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block on maps of a size that the larger tiles suit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = EFPNBS(7, 6)

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        return self.block(p_low, p_high)


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=generator) for s in ((3, 6, 11, 12), (3, 7, 3, 4)))


def outputs(model: nn.Module) -> dict[str, Tensor]:
    """The result at each precision."""
    results = {}
    with torch.no_grad():
        for name in use_float32_precision.names:
            with use_float32_precision(name):
                results[name] = model(*maps())
    return results


def results(model: nn.Module) -> list[Tensor]:
    """The result and all gradients."""
    leaves = [*(x.requires_grad_() for x in maps()), *model.parameters()]
    out = model(*leaves[:2])
    return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]


def test_a_compiled_program_follows_the_switch() -> None:
    torch.compiler.reset()
    model = Block()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for name in ("highest", "high", "highest"):
        with use_float32_precision(name):
            for result, expected in zip(results(compiled), results(model), strict=True):
                assert result.equal(expected), name
            with torch.no_grad():
                assert compiled(*maps()).equal(model(*maps())), name


def test_an_exported_program_keeps_what_held_at_its_export() -> None:
    model = Block().eval()
    expected = outputs(model)
    assert not expected["high"].equal(expected["highest"])
    for name in use_float32_precision.names:
        with use_float32_precision(name):
            program = torch.export.export(model, maps()).module()
        for result in outputs(program).values():
            assert result.equal(expected[name])


def test_an_aot_inductor_package_keeps_it_too() -> None:
    model = Block().eval()
    expected = outputs(model)
    with torch._inductor.config.patch(force_disable_caches=True), torch.no_grad():
        with use_float32_precision("high"):
            program = torch.export.export(model, maps())
        path = torch._inductor.aoti_compile_and_package(program)
        packaged = torch._inductor.aoti_load_package(path)
        assert packaged(*maps()).equal(expected["high"])


def test_a_direct_call_says_it_itself() -> None:
    """By the operator's argument: the switch is of the public functions."""
    problem = problem_of("efpn_bs")
    tensors = [x.detach() for x in problem.tensors.values()]
    expected = {}
    for name in use_float32_precision.names:
        with use_float32_precision(name):
            expected[name] = functional.efpn_bs(*tensors)
            assert torch.ops.efpn.efpn_bs(*tensors)[0].equal(expected["highest"])
    assert torch.ops.efpn.efpn_bs(*tensors, reduced=True)[0].equal(expected["high"])
    leaf = tensors[0].clone().requires_grad_()
    out, _ = torch.ops.efpn.efpn_bs(leaf, *tensors[1:], reduced=True)
    assert out.equal(expected["high"]) and out.requires_grad


def test_the_operator_is_one_for_opcheck() -> None:
    tensors = list(block_problem("efpn_bs", case("non_dividing"), "cpu").tensors.values())
    torch.library.opcheck(torch.ops.efpn.efpn_bs.default, (*tensors, False, False, True))
    detached = [x.detach() for x in tensors]
    torch.library.opcheck(torch.ops.efpn.efpn_bs.default, (*detached, False, True, True))
