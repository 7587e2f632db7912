"""DCLoss among PyTorch's protocols: initialisation, checkpoints, FSDP, export, what is kept, who may call what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import Backend
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from efpn_kernels import DCLoss, backends, functional, reference, use_backend

CLASSES = (DCLoss, reference.DCLoss)
SHAPES = ((), (1,))


def elements(device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(6, 4, generator=generator).to(device) for _ in range(2))


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", CLASSES)
def test_reset_parameters(cls: type[nn.Module], shape: tuple[int, ...], learnable: bool) -> None:
    with torch.device("meta"):
        loss = cls(k=7.0, delta=0.3, learnable=learnable, parameter_shape=shape)
    loss.to_empty(device="cpu")
    loss.reset_parameters()
    state = loss.state_dict()
    assert state["k"].equal(torch.full(shape, 7.0))
    assert state["delta"].equal(torch.full(shape, 0.3))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("saved", SHAPES)
@pytest.mark.parametrize("here", SHAPES)
def test_checkpoints_of_either_shape_load(
    cls: type[nn.Module], saved: tuple[int, ...], here: tuple[int, ...]
) -> None:
    state = nn.Sequential(cls(k=3.0, delta=0.4, parameter_shape=saved)).state_dict()
    model = nn.Sequential(cls(parameter_shape=here))
    model.load_state_dict(state)
    assert model[0].k.shape == here
    assert (model[0].k.item(), model[0].delta.item()) == (3.0, torch.tensor(0.4).item())
    state["0.k"] = torch.ones(2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cls", CLASSES)
def test_one_element_is_a_scalar(
    backend: Backend, cls: type[nn.Module], dtype: torch.dtype
) -> None:
    results = []
    for shape in SHAPES:
        loss = cls(parameter_shape=shape).to(backend.device)
        out = loss(*(x.to(dtype) for x in elements(backend.device)))
        out.backward()
        assert loss.k.grad.shape == shape
        results.append([out.detach(), *(p.grad.reshape(()) for p in loss.parameters())])
    for one, other in zip(*results, strict=True):
        assert one.equal(other)
        assert one.shape == ()


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter_shape: expected one of \(\(\), \(1,\)\), got"):
        DCLoss(parameter_shape=(2,))


# ---- FSDP --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.loss = DCLoss(parameter_shape=(1,))

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.linear(pred), target)


def steps(model: nn.Module) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(*elements())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fsdp_worker(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=1)
    try:
        losses = []
        for wrap in (
            lambda m: FullyShardedDataParallel(m, device_id=torch.device("cpu")),
            fully_shard,
        ):
            for device in ("cpu", "meta"):
                torch.manual_seed(0)
                with torch.device(device):
                    model = Net()
                model = wrap(model)
                if device == "meta" and wrap is fully_shard:
                    model.to_empty(device="cpu")
                    torch.manual_seed(0)
                    for module in (model.linear, model.loss):
                        module.reset_parameters()
                losses.append(steps(model))
        torch.save(losses, f"{folder}/losses.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs the gloo backend"
)
def test_fsdp_of_both_kinds_trains_it(tmp_path: Path) -> None:
    """From ordinary parameters and from the meta device, as without FSDP."""
    spawn(fsdp_worker, args=(str(tmp_path),), nprocs=1)
    torch.manual_seed(0)
    expected = steps(Net())
    for losses in torch.load(tmp_path / "losses.pt"):
        assert losses == pytest.approx(expected, rel=1e-5)


# ---- export ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_an_average_factor_that_is_a_size_exports(cls: type[nn.Module], strict: bool) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = cls()

        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            return self.loss(pred, target, avg_factor=pred.shape[0])

    dynamic = {0: torch.export.Dim.DYNAMIC}
    head = Head()
    program = torch.export.export(
        head, elements(), dynamic_shapes=(dynamic, dynamic), strict=strict
    ).module()
    longer = tuple(torch.cat([x, x + 1]) for x in elements())
    with torch.no_grad():
        torch.testing.assert_close(program(*longer), head(*longer))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("cls", CLASSES)
def test_ranges_export_while_training(cls: type[nn.Module], strict: bool) -> None:
    loss = cls(k=10.0, k_range=(1.0, 20.0), delta_range=(0.1, 0.2))
    program = torch.export.export(loss, elements(), strict=strict).module()
    with torch.no_grad():
        for p in program.parameters():
            p.fill_(30.0)
        expected = functional.dc_loss(*elements(), torch.tensor(20.0), torch.tensor(0.2))
        torch.testing.assert_close(program(*elements()), expected)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_an_exported_program_takes_any_strides(backend: Backend, reduction: str) -> None:
    loss = DCLoss(reduction=reduction).to(backend.device).eval()
    pred, target = elements(backend.device)
    weight = target.abs()
    program = torch.export.export(loss, (pred, target, weight)).module()
    crop = torch.full((12, 9), 7.0, device=backend.device)[::2, 1:5].copy_(pred)
    turned = target.t().contiguous().t()
    expanded = weight[:1].expand_as(weight)
    with torch.no_grad():
        for given in ((crop, turned, weight), (turned, crop, expanded), (expanded, pred, turned)):
            expected = loss(*(x.contiguous() for x in given))
            torch.testing.assert_close(program(*given), expected)


# ---- the operator, called directly -------------------------------------------------------------------------


def arguments(device: str) -> list:
    return [*elements(device), None, *(torch.tensor(v, device=device) for v in (10.0, 0.15)), 0]


@pytest.mark.parametrize("which", [0, 1, 3, 4])
def test_a_direct_call_has_a_gradient_or_raises(backend: Backend, which: int) -> None:
    """With ``with_grad`` the operator hands its own out; the other way it is differentiable, as in an export."""
    operators = getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace)
    given = arguments(backend.device)
    given[which].requires_grad_()
    name = ("pred", "target", "weight", "k", "delta")[which]
    with pytest.raises(RuntimeError, match=r"dc_loss: with_grad: expected False.*functional"):
        operators.dc_loss(*given, True, 1.0, True)
    for reduce in (True, False):
        loss = operators.dc_loss(*given, reduce, 1.0, False)[0]
        (grad,) = torch.autograd.grad(loss.sum(), given[which])
        plain = reference.dc_loss(*given[:2], *given[3:5], reduction="sum")
        torch.testing.assert_close(grad, torch.autograd.grad(plain, given[which])[0])
    with pytest.raises(RuntimeError, match=rf"dc_loss_backward: {name}: .*use_backend"):
        operators.dc_loss_backward(given[0].detach(), *given, 1.0)
    with torch.no_grad():
        operators.dc_loss(*given, True, 1.0, True)


def test_a_direct_call_takes_any_strides_and_checks_the_rest(backend: Backend) -> None:
    operators = getattr(torch.ops, backends.DESCRIPTORS[backend.name].namespace)
    pred, target, _, k, delta, form = arguments(backend.device)
    turned = pred.t().contiguous().t()
    for reduce in (True, False):
        expected = operators.dc_loss(pred, target, None, k, delta, form, reduce, 1.0, True)
        got = operators.dc_loss(turned, target, None, k, delta, form, reduce, 1.0, True)
        for one, other in zip(got, expected, strict=True):
            assert one.equal(other)
    expected = operators.dc_loss_backward(pred, pred, target, None, k, delta, form, 1.0)
    got = operators.dc_loss_backward(turned, turned, target, None, k, delta, form, 1.0)
    for one, other in zip(got, expected, strict=True):
        assert one.equal(other)
    wrong = (
        ("target", (pred, target[:3], None, k, delta, form)),
        ("weight", (pred, target, target[:, :1], k, delta, form)),
        ("k", (pred, target, None, k.expand(2), delta, form)),
        ("delta", (pred, target, None, k, delta.expand(0), form)),
        ("form", (pred, target, None, k, delta, 2)),
    )
    for name, given in wrong:
        with pytest.raises((RuntimeError, ValueError), match=f"dc_loss: {name}: expected"):
            operators.dc_loss(*given, True, 1.0, False)


# ---- what is kept for backward -----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pred", "target", "k", "delta"])
def test_an_argument_that_changes_after_a_reduced_loss(backend: Backend, which: str) -> None:
    """The first backward does not look at it; a second one would, and autograd complains."""
    leaf, target = (x.requires_grad_() for x in elements(backend.device))
    loss = DCLoss().to(backend.device)
    given = {"pred": leaf * 1, "target": target * 1, "k": loss.k, "delta": loss.delta}
    expected = torch.autograd.grad(
        loss(given["pred"], given["target"]), (leaf, loss.k), retain_graph=True
    )
    out = loss(given["pred"], given["target"])
    with torch.no_grad():
        given[which].add_(1)
    for got, want in zip(
        torch.autograd.grad(out, (leaf, loss.k), retain_graph=True), expected, strict=True
    ):
        assert got.equal(want)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out, leaf)


def test_an_argument_that_changes_after_an_elementwise_loss(backend: Backend) -> None:
    leaf, target = elements(backend.device)
    loss = DCLoss(reduction="none").to(backend.device)
    pred = leaf.requires_grad_() * 1
    out = loss(pred, target)
    with torch.no_grad():
        pred.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("which", ["pred", "target", "weight"])
def test_inference_tensors_cannot_be_kept(backend: Backend, which: str) -> None:
    given = dict(zip(("pred", "target"), elements(backend.device), strict=True))
    given["weight"] = given["target"].abs()
    with torch.inference_mode():
        given[which] = given[which].clone()
    loss = DCLoss().to(backend.device)
    with pytest.raises(RuntimeError, match=rf"{which}: expected .*inference_mode\(\); clone it"):
        loss(**given)
    with torch.no_grad():
        assert loss(**given).isfinite()
    given[which] = given[which].clone()
    loss(**given).backward()


def test_the_reference_takes_the_same_numbers(backend: Backend) -> None:
    """The values of both gates' ends, once more against the plain function."""
    pred, target = elements(backend.device)
    for form in reference.FORMS:
        loss = DCLoss(form=form).to(backend.device)
        got = loss(pred, target)
        with use_backend("reference"):
            torch.testing.assert_close(got, loss(pred, target))
