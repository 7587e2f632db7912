"""Whatever somebody does to the modules inside is honoured, by the fused module as by its twin."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.utils.parametrize as parametrize
from conftest import Backend
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from efpn_kernels import EFPNBS, patch, reference

CONVOLUTIONS = (
    "cem.project",
    "fbsm.high_conv",
    "fbsm.high_gate",
    "fbsm.low_conv",
    "fbsm.low_gate",
    "fbsm.fuse_conv",
    "fbsm.refine_conv",
)
PARTS = (*CONVOLUTIONS, "cem", "fbsm")


class Doubling(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Adapter(nn.Module):
    """A low-rank adapter around a convolution, as libraries for fine-tuning put them."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Conv2d(base.in_channels, 2, base.kernel_size, padding=base.padding)
        self.up = nn.Conv2d(2, base.out_channels, 1)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def rebuilt(conv: nn.Conv2d, kind: type[nn.Conv2d] = nn.Conv2d, **settings: object) -> nn.Conv2d:
    """A convolution with the parameters of ``conv`` and other settings."""
    given = {"padding": conv.padding, "bias": True, **settings}
    new = kind(conv.in_channels, conv.out_channels, conv.kernel_size, **given)
    kept = {k: v for k, v in conv.state_dict().items() if k in new.state_dict()}
    kept = {k: v for k, v in kept.items() if v.shape == new.state_dict()[k].shape}
    new.load_state_dict(kept, strict=False)
    return new


def replace(block: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, new)


def replaced(make: Callable[[nn.Conv2d], nn.Module]) -> Callable[[nn.Module, str], None]:
    return lambda block, path: replace(block, path, make(block.get_submodule(path)))


def changed(change: Callable[[nn.Module], object]) -> Callable[[nn.Module, str], object]:
    return lambda block, path: change(block.get_submodule(path))


def halve_forward(part: nn.Module) -> None:
    plain = part.forward
    part.forward = lambda *args: plain(*args) / 2


# Of any part: what a caller of the module would notice.
WAYS: dict[str, Callable[[nn.Module, str], object]] = {
    "forward hook": changed(lambda m: m.register_forward_hook(lambda *a: a[-1] * 0.5)),
    "forward pre-hook": changed(
        lambda m: m.register_forward_pre_hook(lambda _, args: (args[0] * 0.5, *args[1:]))
    ),
    "backward hook": changed(
        lambda m: m.register_full_backward_hook(lambda _, grads, __: (grads[0] * 0.5, *grads[1:]))
    ),
    "backward pre-hook": changed(
        lambda m: m.register_full_backward_pre_hook(lambda _, grads: (grads[0] * 0.5,))
    ),
    "forward of the instance": changed(halve_forward),
    "Sequential": lambda block, path: replace(
        block, path, wrapped(block.get_submodule(path), path)
    ),
}
# Of a convolution.
CONV_WAYS: dict[str, Callable[[nn.Module, str], object]] = {
    "subclass": replaced(lambda c: rebuilt(c, Doubling)),
    "no bias": replaced(lambda c: rebuilt(c, bias=False)),
    "padding mode": replaced(lambda c: of_3x3(c, padding_mode="reflect")),
    "dilation": replaced(lambda c: of_3x3(c, dilation=2, padding=2)),
    "groups": replaced(lambda c: nn.Conv2d(c.in_channels, c.out_channels, 1, groups=groups(c))),
    "other kernel": replaced(lambda c: nn.Conv2d(c.in_channels, c.out_channels, 5, padding=2)),
    "adapter": replaced(Adapter),
    "prune": changed(lambda c: prune.l1_unstructured(c, "weight", 0.5)),
    "weight_norm of old": changed(weight_norm),
    "spectral_norm of old": changed(spectral_norm),
    "weight_norm": changed(parametrizations.weight_norm),
    "spectral_norm": changed(parametrizations.spectral_norm),
    "parametrization": changed(lambda c: parametrize.register_parametrization(c, "weight", Half())),
}


def of_3x3(conv: nn.Conv2d, **settings: object) -> nn.Conv2d:
    """Settings that a 1x1 convolution does not notice; that becomes another one instead."""
    return rebuilt(conv, **settings) if conv.kernel_size == (3, 3) else rebuilt(conv, Doubling)


def groups(conv: nn.Conv2d) -> int:
    return 2 if conv.in_channels % 2 == conv.out_channels % 2 == 0 else 1


class Twice(nn.Module):
    """Around a part of two inputs."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return 2 * self.part(low, high)


def wrapped(part: nn.Module, path: str) -> nn.Module:
    if path in CONVOLUTIONS:
        return nn.Sequential(part, nn.Tanh())
    return Twice(part)


def twins(device: str, gates: int = 6) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    """The fused block, its twin and inputs; of four channels everywhere but in p_high."""
    torch.manual_seed(0)
    ours = EFPNBS(8, 6, 4, gates).to(device)
    twin = reference.EFPNBS(8, 6, 4, gates).to(device)
    twin.load_state_dict(ours.state_dict())
    inputs = (torch.randn(2, 6, 9, 10), torch.randn(2, 8, 3, 4))
    return ours, twin, tuple(x.to(device).requires_grad_() for x in inputs)


def outcome(block: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The output, and the gradients of inputs and parameters."""
    out = block(*inputs)
    wanted = {"low": inputs[0], "high": inputs[1], **dict(block.named_parameters())}
    grads = torch.autograd.grad(out.square().sum(), list(wanted.values()), allow_unused=True)
    return {"out": out.detach(), **dict(zip(wanted, grads, strict=True))}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@pytest.mark.parametrize(
    ("way", "path"),
    [(w, p) for w in WAYS for p in PARTS] + [(w, p) for w in CONV_WAYS for p in CONVOLUTIONS],
)
def test_every_way_of_every_part(backend: Backend, way: str, path: str) -> None:
    ours, twin, inputs = twins(backend.device)
    before = outcome(ours, inputs)
    for block in (ours, twin):
        torch.manual_seed(1)
        (WAYS | CONV_WAYS)[way](block, path)
        block.to(backend.device)
    got, expected = outcome(ours, inputs), outcome(twin, inputs)
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert (value is None) == (got[name] is None), name
        if value is not None:
            torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-3, msg=name)
    same = [n for n in before.keys() & got.keys() if n in ("out", "low", "high")]
    assert any(not torch.equal(before[n], got[n]) for n in same), "nothing came of it"


@pytest.mark.parametrize("path", CONVOLUTIONS)
def test_a_reparametrised_weight_trains_and_loads(backend: Backend, path: str) -> None:
    """What a hook computes before each call is computed before each call."""
    ours, _, inputs = twins(backend.device)
    prune.l1_unstructured(ours.get_submodule(path), "weight", 0.5)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.01)
    outputs = []
    for _ in range(3):
        optimizer.zero_grad()
        out = ours(*inputs)
        out.square().mean().backward()
        optimizer.step()
        outputs.append(out.detach())
    assert not outputs[0].equal(outputs[2])
    state = ours.state_dict()
    state[f"{path}.weight_orig"] = 3 * state[f"{path}.weight_orig"]
    with torch.no_grad():
        before = ours(*inputs)
        ours.load_state_dict(state)
        assert not ours(*inputs).equal(before)


@pytest.mark.parametrize("path", ["fbsm.high_conv", "fbsm.low_conv", "fbsm.refine_conv"])
def test_a_part_that_does_not_fit_is_pytorchs_error(backend: Backend, path: str) -> None:
    ours, twin, inputs = twins(backend.device)
    for block in (ours, twin):
        new = nn.Conv2d(2, 2, 3, padding=1).to(backend.device)
        replace(block, path, nn.Sequential(new))
        with pytest.raises(RuntimeError, match="channels"):
            block(*inputs)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_global_hooks_see_every_part(backend: Backend, kind: str) -> None:
    seen: dict[str, list[str]] = {}
    for name, block, inputs in zip(("ours", "twin"), twins(backend.device)[:2], [None] * 2):
        inputs = twins(backend.device)[2]
        parts = {module: path for path, module in block.named_modules()}
        calls = seen.setdefault(name, [])
        register = getattr(nn.modules.module, f"register_module_{kind}_hook")
        handle = register(lambda m, *_, parts=parts, calls=calls: calls.append(parts[m]))
        try:
            block(*inputs).sum().backward()
        finally:
            handle.remove()
    assert set(seen["ours"]) == set(seen["twin"]) == {"", *PARTS}


def test_functional_call_takes_other_parameters(backend: Backend) -> None:
    ours, twin, inputs = twins(backend.device, gates=1)
    other = {name: 2 * p.detach() for name, p in ours.named_parameters()}
    got = torch.func.functional_call(ours, other, inputs)
    torch.testing.assert_close(got, torch.func.functional_call(twin, other, inputs))


def test_quantisation_aware_training(backend: Backend) -> None:
    if backend.device != "cpu":
        pytest.skip("PyTorch's quantised modules run on a CPU")
    import torch.ao.quantization as quantization

    ours, _, inputs = twins(backend.device)
    model = nn.Sequential()
    model.add_module("block", ours)
    model.train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    quantization.prepare_qat(model, inplace=True)
    calls = []
    for name, module in model.named_modules():
        if isinstance(module, quantization.FakeQuantizeBase):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.block(*inputs)
    assert {name.split(".")[2] for name in calls} >= {p.split(".")[1] for p in CONVOLUTIONS}


def test_patched_twins_are_the_same(backend: Backend) -> None:
    _, twin, inputs = twins(backend.device)
    patched = copy.deepcopy(twin)
    patch(patched)
    for block in (twin, patched):
        CONV_WAYS["prune"](block, "fbsm.low_conv")
    torch.testing.assert_close(patched(*inputs), twin(*inputs), rtol=1e-4, atol=1e-5)
