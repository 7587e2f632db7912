"""The modules: the reference's twins in constructor, state_dict and result; and ``patch``."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from accuracy import complaint
from conftest import Backend
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from efpn_kernels import CEM, EFPNBS, FBSM, DCLoss, patch, reference

BLOCKS: dict[str, tuple[type[nn.Module], type[nn.Module], dict[str, object]]] = {
    "cem": (CEM, reference.CEM, {}),
    "fbsm": (FBSM, reference.FBSM, {}),
    "fbsm_hidden": (FBSM, reference.FBSM, {"hidden_channels": 5}),
    "fbsm_per_channel": (FBSM, reference.FBSM, {"gate_channels": 6}),
    "efpn_bs": (EFPNBS, reference.EFPNBS, {}),
    "efpn_bs_hidden": (EFPNBS, reference.EFPNBS, {"hidden_channels": 9, "gate_channels": 6}),
    "cem_only": (EFPNBS, reference.EFPNBS, {"use_fbsm": False}),
    "fbsm_only": (EFPNBS, reference.EFPNBS, {"use_cem": False}),
    "neither": (EFPNBS, reference.EFPNBS, {"use_cem": False, "use_fbsm": False}),
}
every_block = pytest.mark.parametrize("name", BLOCKS)


def twins(name: str, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    """A fused block and its reference twin with the same weights."""
    fused, plain, options = BLOCKS[name]
    torch.manual_seed(0)
    block, twin = fused(7, 6, **options), plain(7, 6, **options)
    twin.load_state_dict(block.state_dict())
    return block.to(device), twin.to(device)


def maps(device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(shape, generator=generator).to(device)
        for shape in ((2, 6, 9, 10), (2, 7, 3, 4))
    )


def gradients(block: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    out = block(*inputs)
    out.square().sum().backward()
    named = {f"input {i}": x.grad for i, x in enumerate(inputs) if x.grad is not None}
    named |= {name: p.grad for name, p in block.named_parameters()}
    return {"out": out.detach(), **named}


@every_block
def test_same_result_and_gradients_as_the_twin(backend: Backend, name: str) -> None:
    block, twin = twins(name, backend.device)
    inputs = maps(backend.device)
    exact = gradients(copy.deepcopy(twin).double(), *(x.double() for x in inputs))
    eager, ours = gradients(twin, *inputs), gradients(block, *inputs)
    assert list(ours) == list(eager)
    for key in exact:
        assert complaint(key, [(eager, exact, ours)]) is None


@every_block
def test_state_dict_goes_both_ways(name: str) -> None:
    block, twin = twins(name)
    assert list(block.state_dict()) == list(twin.state_dict())
    for target, source in ((block, twin), (twin, block)):
        changed = {key: value + 1 for key, value in source.state_dict().items()}
        target.load_state_dict(changed, strict=True)
        for key, value in target.state_dict().items():
            assert value.equal(changed[key])


def test_names_of_the_parameters() -> None:
    convs = ("high_conv", "high_gate", "low_conv", "low_gate", "fuse_conv", "refine_conv")
    expected = [f"fbsm.{conv}.{kind}" for conv in convs for kind in ("weight", "bias")]
    assert list(EFPNBS(3, 4).state_dict()) == ["cem.project.weight", "cem.project.bias", *expected]
    assert list(DCLoss().state_dict()) == ["k", "delta"]
    assert list(DCLoss(learnable=False).state_dict()) == ["k", "delta"]
    assert [name for name, _ in DCLoss().named_parameters()] == ["k", "delta"]
    assert not list(DCLoss(learnable=False).parameters())


@pytest.mark.parametrize("name", ["CEM", "FBSM", "EFPNBS", "DCLoss"])
def test_constructor_is_that_of_the_twin(name: str) -> None:
    fused, plain = globals()[name], getattr(reference, name)
    assert inspect.signature(fused) == inspect.signature(plain)
    assert inspect.signature(fused.forward) == inspect.signature(plain.forward)


@every_block
def test_copy_pickle_and_save(backend: Backend, name: str) -> None:
    block, _ = twins(name, backend.device)
    inputs = maps(backend.device)
    expected = block(*inputs)
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    copies = {
        "deepcopy": copy.deepcopy(block),
        "pickle": pickle.loads(pickle.dumps(block)),
        "save": torch.load(file, weights_only=False),
    }
    for how, other in copies.items():
        assert type(other) is type(block), how
        assert other(*inputs).equal(expected), how
    for p in copies["deepcopy"].parameters():
        nn.init.zeros_(p)
    assert block(*inputs).equal(expected)


def test_copy_and_pickle_of_the_loss(backend: Backend) -> None:
    loss = DCLoss(k=7.0, form="text", k_range=(1.0, 20.0)).to(backend.device)
    inputs = [x.flatten() for x in maps(backend.device)[0].chunk(2)]
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(*inputs).equal(loss(*inputs))
        assert (other.form, other.k_range) == ("text", (1.0, 20.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_conversion(backend: Backend, dtype: torch.dtype) -> None:
    block, twin = twins("efpn_bs", backend.device)
    inputs = [x.to(dtype) for x in maps(backend.device)]
    ours, eager = (gradients(m.to(dtype), *inputs) for m in (block, twin))
    exact = gradients(copy.deepcopy(twin).double(), *(x.double() for x in inputs))
    for key in exact:
        assert complaint(key, [(eager, exact, ours)]) is None


def test_memory_format_of_the_module(backend: Backend) -> None:
    block, twin = twins("efpn_bs", backend.device)
    block.to(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in maps(backend.device)]
    out = block(*inputs)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, twin(*inputs), rtol=1e-5, atol=1e-5)


def test_mask_is_there_to_look_at(backend: Backend) -> None:
    block, twin = twins("efpn_bs", backend.device)
    mask = block.mask(*maps(backend.device))
    torch.testing.assert_close(mask, twin.mask(*maps(backend.device)))


def test_the_loss_says_what_it_is() -> None:
    loss = DCLoss(k=7.0, form="text", loss_weight=2.0, k_range=(1.0, 20.0))
    assert repr(loss) == (
        "DCLoss(k=7, delta=0.15, learnable=True, form='text', reduction='mean', loss_weight=2, "
        "k_range=(1.0, 20.0))"
    )
    assert "k=unknown" in repr(loss.to("meta"))
    with FakeTensorMode() as mode:
        loss = DCLoss()
    loss.k = nn.Parameter(mode.from_tensor(torch.ones(())))
    assert "k=unknown" in repr(loss)


@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("form", ["equation", "text"])
def test_loss_module(backend: Backend, form: str, learnable: bool) -> None:
    options = {"learnable": learnable, "form": form, "loss_weight": 2.0}
    loss, twin = (cls(**options).to(backend.device) for cls in (DCLoss, reference.DCLoss))
    pred, target = (x.flatten() for x in maps(backend.device)[0].chunk(2))
    weight = target.abs()
    for arguments in ((), (weight,), (weight, 3.0), (None, None, "sum"), (weight, None, "none")):
        torch.testing.assert_close(loss(pred, target, *arguments), twin(pred, target, *arguments))
    assert [p.requires_grad for p in loss.parameters()] == [True, True] * learnable


def test_ranges_hold_while_training_and_leave_evaluation_alone(backend: Backend) -> None:
    loss = DCLoss(k_range=(2.0, 12.0), delta_range=(0.1, 0.2)).to(backend.device)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e4)
    pred, target = (x.flatten() for x in maps(backend.device)[0].chunk(2))
    loss(pred, target).backward()
    optimizer.step()
    moved = loss.k.item(), loss.delta.item()
    assert not (2.0 <= moved[0] <= 12.0 and 0.1 <= moved[1] <= 0.2)
    loss.eval()(pred, target)
    assert (loss.k.item(), loss.delta.item()) == moved
    loss.train()(pred, target)
    assert 2.0 <= loss.k.item() <= 12.0
    assert 0.1 <= round(loss.delta.item(), 6) <= 0.2


def test_learning_moves_the_parameters(backend: Backend) -> None:
    loss = DCLoss().to(backend.device)
    pred, target = (x.flatten() for x in maps(backend.device)[0].chunk(2))
    loss(pred.requires_grad_(), target).backward()
    for parameter in (loss.k, loss.delta):
        assert parameter.grad.shape == ()
        assert parameter.grad.abs() > 0


class Detector(nn.Module):
    """A model with twins at several depths, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.ModuleDict({"block": reference.EFPNBS(7, 6), "conv": nn.Conv2d(6, 6, 1)})
        self.heads = nn.ModuleList([reference.FBSM(7, 6), reference.CEM(7, 6)])
        self.again = self.heads[1]
        self.loss = reference.DCLoss(k=8.0, k_range=(1.0, 20.0))

    def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        out = self.neck["conv"](self.neck["block"](p_low, p_high))
        for head in (*self.heads, self.again):
            out = head(out, p_high)
        return self.loss(out, p_low)


def test_patch(backend: Backend) -> None:
    torch.manual_seed(0)
    model = Detector().to(backend.device).eval()
    inputs = maps(backend.device)
    expected = model(*inputs)
    keys = list(model.state_dict())
    parameters = [id(p) for p in model.parameters()]
    calls = []
    model.heads[0].register_forward_hook(lambda *_: calls.append("hook"))

    changed = patch(model)

    assert {"neck.block", "heads.0", "heads.1", "loss"} <= set(changed)
    assert "neck.conv" not in changed
    fused = {CEM, FBSM, EFPNBS, DCLoss}
    assert {type(model.get_submodule(name)) for name in changed} == fused
    assert type(model.neck["block"].fbsm) is FBSM, "also inside of a block that leaves a part out"
    assert model.again is model.heads[1]
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == parameters, "an optimizer keeps working"
    assert not any(m.training for m in model.modules())
    assert model.loss.k_range == (1.0, 20.0)
    torch.testing.assert_close(model(*inputs), expected, rtol=1e-5, atol=1e-6)
    assert calls == ["hook"]


HOOKS = {
    "forward": lambda module, call: module.register_forward_hook(lambda *_: call()),
    "forward_pre": lambda module, call: module.register_forward_pre_hook(lambda *_: call()),
    "backward": lambda module, call: module.register_full_backward_hook(lambda *_: call()),
    "backward_pre": lambda module, call: module.register_full_backward_pre_hook(lambda *_: call()),
}


@pytest.mark.parametrize("part", ["cem", "fbsm"])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_on_the_parts_of_a_block_fire(backend: Backend, part: str, hook: str) -> None:
    """One fused operator calls neither part: then both run one after the other."""
    block, twin = twins("efpn_bs", backend.device)
    patched = copy.deepcopy(twin)
    calls = []
    handles = [HOOKS[hook](getattr(m, part), lambda: calls.append(part)) for m in (block, patched)]
    patch(patched)
    inputs = maps(backend.device)
    expected = gradients(twin, *inputs)
    for count, module in enumerate((block, patched), 1):
        torch.testing.assert_close(gradients(module, *inputs), expected, rtol=1e-4, atol=1e-4)
        assert len(calls) == count
    for handle in handles:
        handle.remove()
    gradients(block, *inputs)
    assert len(calls) == 2


def test_a_part_that_somebody_replaced_is_called(backend: Backend) -> None:
    class Other(reference.CEM):
        def forward(self, p_low: Tensor, p_high: Tensor) -> Tensor:
            return p_low

    block, _ = twins("efpn_bs", backend.device)
    block.cem = Other(7, 6)
    inputs = maps(backend.device)
    torch.testing.assert_close(block(*inputs), block.fbsm(*inputs))


def test_patch_is_idempotent() -> None:
    model = Detector()
    assert patch(model)
    types = [type(m) for m in model.modules()]
    assert patch(model) == []
    assert [type(m) for m in model.modules()] == types


def test_patch_of_nothing_and_of_subclasses() -> None:
    class Changed(reference.CEM):
        """Somebody's own forward: not ours to replace."""

    model = nn.Sequential(Changed(2, 2), CEM(2, 2), nn.Identity())
    assert patch(model) == []
    assert type(model[0]) is Changed


def test_patch_of_a_twin_itself() -> None:
    block = reference.CEM(7, 6)
    assert patch(block) == [""]
    assert type(block) is CEM
