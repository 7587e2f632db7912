"""torch.compile, torch.export, autocast, fake tensors and opcheck."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._inductor.config
from accuracy import Draw, assert_draws_accurate
from cases import BLOCK_OPERATORS, LAYOUTS, LossCase, block_problem, case, loss_problem
from conftest import Backend
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from efpn_kernels import EFPNBS, DCLoss, backends, functional, reference
from efpn_kernels.reference import FORMS, REDUCTIONS


class Model(nn.Module):
    """What a training step runs: the block and the loss."""

    def __init__(self, gate_channels: int = 1) -> None:
        super().__init__()
        self.block = EFPNBS(7, 6, gate_channels=gate_channels)
        self.loss = DCLoss()

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        return self.loss(self.block(p_low, p_high), p_low)


def operators(backend: Backend) -> Any:
    """The dispatcher's, of the backend."""
    return getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace)


def maps(device: str, n: int = 2, size: tuple[int, int] = (9, 10)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = ((n, 6, *size), (n, 7, 3, 4))
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes)


def step(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Loss, gradients of the inputs, gradients of the parameters."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    model.zero_grad(set_to_none=True)
    loss = model(*inputs)
    loss.backward()
    return [loss.detach(), *(x.grad for x in inputs), *(p.grad for p in model.parameters())]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """A graph cached on disk would bring the fake implementations of another version along."""
    torch.compiler.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


@pytest.mark.parametrize("gate_channels", [1, 6])
def test_compiles_without_a_break_and_for_every_size(backend: Backend, gate_channels: int) -> None:
    model = Model(gate_channels).to(backend.device)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, size in ((2, (9, 10)), (3, (12, 7)), (4, (5, 31))):
            inputs = maps(backend.device, n, size)
            torch.testing.assert_close(step(compiled, *inputs), step(model, *inputs))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inductor(backend: Backend, layout: str) -> None:
    model = Model().to(backend.device)
    compiled = torch.compile(model, fullgraph=True)
    inputs = maps(backend.device)
    if layout == "channels_last":
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    torch.testing.assert_close(step(compiled, *inputs), step(model, *inputs), rtol=1e-4, atol=1e-6)


def same_kind(result: Tensor, expected: Tensor, name: str) -> None:
    torch.testing.assert_close(result, expected, msg=lambda text: f"{name}: {text}")
    assert significant_strides(result) == significant_strides(expected), name


OTHER_DTYPES = (torch.bfloat16, torch.float16, torch.float64)
every_dtype = pytest.mark.parametrize("dtype", (torch.float32, *OTHER_DTYPES), ids=str)


@every_dtype
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_functions_compile(backend: Backend, operator: str, dtype: torch.dtype) -> None:
    problem = block_problem(operator, case("x2", dtype), backend.device)
    expected = problem.fused()
    problem.functional = torch.compile(problem.functional, fullgraph=True, backend="aot_eager")
    for name, result in problem.fused().items():
        same_kind(result, expected[name], name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gate_channels", [1, 6])
def test_a_step_compiles_under_autocast(
    backend: Backend, gate_channels: int, dtype: torch.dtype
) -> None:
    """float32 parameters; gradients in their dtype, as without a compiler."""
    model = Model(gate_channels).to(backend.device)
    inputs = [x.to(dtype) for x in maps(backend.device)]

    def autocast(run: nn.Module) -> list[Tensor]:
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            leaves = [x.clone().requires_grad_() for x in inputs]
            model.zero_grad(set_to_none=True)
            loss = run(*leaves)
        loss.backward()
        return [loss.detach(), *(x.grad for x in leaves), *(p.grad for p in model.parameters())]

    expected = autocast(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for i, (result, want) in enumerate(zip(autocast(compiled), expected, strict=True)):
        assert result.dtype == want.dtype, i
        torch.testing.assert_close(result, want, rtol=0.02, atol=1e-3)


@every_dtype
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_compiles(backend: Backend, reduction: str, dtype: torch.dtype) -> None:
    loss = LossCase((33, 4), dtype, reduction=reduction, weight="row")
    problem = loss_problem(loss, backend.device)
    expected = problem.fused()
    problem.functional = torch.compile(functional.dc_loss, fullgraph=True, backend="aot_eager")
    for name, result in problem.fused().items():
        same_kind(result, expected[name], name)


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
@pytest.mark.parametrize("gate_channels", [1, 6])
def test_export_in_other_dtypes(backend: Backend, gate_channels: int, dtype: torch.dtype) -> None:
    block = EFPNBS(7, 6, gate_channels=gate_channels).to(backend.device, dtype).eval()
    inputs = [x.to(dtype) for x in maps(backend.device)]
    program = torch.export.export(block, tuple(inputs))
    same_kind(program.module()(*inputs), block(*inputs), "out")
    (out,) = program.graph.find_nodes(op="output")[0].args[0]
    assert (out.meta["val"].dtype, out.meta["val"].shape) == (dtype, inputs[0].shape)


def test_export_under_autocast(backend: Backend) -> None:
    block = EFPNBS(7, 6).to(backend.device).eval()
    inputs = maps(backend.device)
    with torch.no_grad(), torch.autocast(backend.device, dtype=torch.bfloat16):
        expected = block(*inputs)
        program = torch.export.export(block, inputs)
    result = program.module()(*inputs)
    assert result.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("gate_channels", [1, 6])
def test_export(backend: Backend, gate_channels: int) -> None:
    block = EFPNBS(7, 6, gate_channels=gate_channels).to(backend.device).eval()
    n, height, width = (torch.export.Dim(name, min=1, max=64) for name in ("n", "h", "w"))
    program = torch.export.export(
        block,
        maps(backend.device),
        dynamic_shapes=({0: n, 2: height, 3: width}, {0: n}),
    )
    for number, size in ((2, (9, 10)), (3, (12, 7))):
        inputs = maps(backend.device, number, size)
        torch.testing.assert_close(program.module()(*inputs), block(*inputs))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert f"{backends.DESCRIPTORS[backend.name].namespace}.efpn_bs.default" in targets


def test_export_of_plain_pytorch_needs_no_operator_of_ours() -> None:
    block = reference.EFPNBS(7, 6).eval()
    program = torch.export.export(block, maps("cpu"))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in targets
    assert not any("efpn" in target for target in targets)


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
@pytest.mark.parametrize("low_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(backend: Backend, operator: str, low_dtype: torch.dtype) -> None:
    """float32 parameters, maps as a convolution in front leaves them or as they are."""

    def draw(seed: int) -> Draw:
        problem = block_problem(operator, case("x8"), backend.device, seed)
        for name in list(problem.tensors)[:2]:
            problem.tensors[name] = problem.tensors[name].detach().to(low_dtype).requires_grad_()
        problem.grad_out = problem.grad_out.bfloat16()
        oracle = problem.oracle()
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            out = problem.functional(*problem.tensors.values())
            assert out.dtype == torch.bfloat16
            ours = problem.fused()
            plain = problem.reference(*problem.tensors.values())
            problem.grad_out = problem.grad_out.to(plain.dtype)
            eager = problem.eager()
        # The rule is of the dtype that autocast computes in. Where eager's CEM promotes to float32, ours
        # stays narrow like the convolutions behind it.
        eager, ours = ({name: x.bfloat16() for name, x in of.items()} for of in (eager, ours))
        return eager, oracle, ours

    assert_draws_accurate(draw)


def test_autocast_of_the_module_and_the_loss(backend: Backend) -> None:
    model = Model().to(backend.device)
    p_low, p_high = maps(backend.device)
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        loss = model(p_low, p_high)
        mixed = functional.dc_loss(p_low.bfloat16(), p_low, model.loss.k, model.loss.delta)
    loss.backward()
    assert loss.dtype == mixed.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # What our kernels add up in float32 is not rounded on its way.
    block = model.block
    for summed in (block.cem.project.weight, block.cem.project.bias, block.fbsm.refine_conv.bias):
        assert not summed.grad.equal(summed.grad.bfloat16().float())


def test_autocast_leaves_float64_alone(backend: Backend) -> None:
    problem = block_problem("efpn_bs", case("x2", torch.float64), backend.device)
    expected = problem.fused()["out"]
    with torch.autocast(backend.device, dtype=torch.bfloat16):
        assert problem.fused()["out"].equal(expected)


def significant_strides(x: Tensor) -> tuple[int, ...]:
    """Those of dimensions that have a second element."""
    return tuple(stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1)


def as_fake(mode: FakeTensorMode, x: Any) -> Any:
    return mode.from_tensor(x) if isinstance(x, Tensor) else x


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in ("x2", "per_channel", "one_channel", "one_pixel_low", "row")]
    + [(name, dtype) for name in ("x2", "per_channel") for dtype in OTHER_DTYPES],
    ids=str,
)
@pytest.mark.parametrize("low_layout", LAYOUTS)
@pytest.mark.parametrize("high_layout", LAYOUTS)
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_fake_strides_are_the_real_ones(
    backend: Backend,
    operator: str,
    low_layout: str,
    high_layout: str,
    name: str,
    dtype: torch.dtype,
) -> None:
    """Of results and gradients, in every mixture of formats."""
    problem = block_problem(operator, case(name, dtype, low_layout), backend.device)
    other = block_problem(operator, case(name, dtype, high_layout), backend.device)
    problem.tensors["p_high"] = other.tensors["p_high"]
    real = problem.fused()
    mode = FakeTensorMode()
    fakes = {
        name: as_fake(mode, x.detach()).requires_grad_() for name, x in problem.tensors.items()
    }
    grad_out = as_fake(mode, problem.grad_out)
    with mode:
        fake = problem._run(problem.functional, fakes, grad_out)
    for result, expected in real.items():
        got = fake[result]
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), result
        strides = (significant_strides(x) for x in (got, expected))
        assert len(set(strides)) == 1, f"{result}: {got.stride()}, really {expected.stride()}"


def block_arguments(
    operator: str, name: str, layout: str, device: str, save: bool, dtype: torch.dtype
) -> tuple[str, tuple]:
    """The dispatcher's operator and its arguments, which want gradients unless it hands out its state."""
    tensors = list(block_problem(operator, case(name, dtype, layout), device).tensors.values())
    if save:
        tensors = [x.detach() for x in tensors]
    flags = (layout == "channels_last", save)
    if operator == "cem":
        return "cem", (*tensors, *flags)
    missing = () if operator == "efpn_bs" else (None, None)
    return "efpn_bs", (*tensors[:2], *missing, *tensors[2:], *flags)


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_fakes_under_autocast(backend: Backend, operator: str) -> None:
    """Results in half precision, gradients in each argument's own dtype."""
    problem = block_problem(operator, case("x2"), backend.device)
    mode = FakeTensorMode()
    fakes = {n: as_fake(mode, x.detach()).requires_grad_() for n, x in problem.tensors.items()}
    found = []
    for tensors, context in ((problem.tensors, nullcontext()), (fakes, mode)):
        with context, torch.autocast(backend.device, dtype=torch.bfloat16):
            out = problem.functional(*tensors.values())
            grads = torch.autograd.grad(out, list(tensors.values()), torch.ones_like(out))
        found.append([(x.shape, x.dtype, significant_strides(x)) for x in (out, *grads)])
    assert found[0] == found[1]
    assert found[0][0][1] == torch.bfloat16


@every_dtype
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_trains_on_fake_tensors(
    backend: Backend, reduction: str, dtype: torch.dtype
) -> None:
    """Nothing reads a value: memory is planned without any."""
    loss = LossCase((33, 4), dtype, reduction=reduction, weight="full")
    problem = loss_problem(loss, backend.device)
    real = problem.fused()
    mode = FakeTensorMode()
    fakes = {
        name: as_fake(mode, x.detach()).requires_grad_(x.requires_grad)
        for name, x in problem.tensors.items()
    }
    with mode:
        fake = problem._run(problem.functional, fakes, as_fake(mode, problem.grad_out))
    assert {n: (x.shape, x.dtype) for n, x in fake.items()} == {
        n: (x.shape, x.dtype) for n, x in real.items()
    }


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [(layout, torch.float32) for layout in LAYOUTS]
    + [("contiguous", torch.float64), ("channels_last", torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("name", ["x2", "per_channel"])
@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_opcheck_of_blocks(
    backend: Backend, operator: str, name: str, layout: str, save: bool, dtype: torch.dtype
) -> None:
    op, arguments = block_arguments(operator, name, layout, backend.device, save, dtype)
    # A gradient in half precision is compared with itself by another road, within its rounding.
    halves = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {}
    torch.library.opcheck(getattr(operators(backend), op).default, arguments, **halves)


@every_dtype
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduce", [True, False])
def test_opcheck_of_the_loss(backend: Backend, form: str, reduce: bool, dtype: torch.dtype) -> None:
    problem = loss_problem(LossCase((33, 4), dtype), backend.device)
    pred, target, k, delta = (x.detach() for x in problem.tensors.values())
    arguments = (pred, target, None, k, delta, FORMS.index(form), reduce, 0.5, True)
    torch.library.opcheck(operators(backend).dc_loss.default, arguments)
