"""``graphed`` on imitated graphs: results and gradients are the module's own, whatever a caller does."""

from __future__ import annotations

import copy
import importlib
import warnings

import cpu_graphs
import pytest
import torch
from torch import Tensor, nn

import efpn_kernels
from efpn_kernels import EFPNBS, graphed, reference

# The function hides its module of the same name.
MODULE = importlib.import_module("efpn_kernels.graphed")
C, HIGH, LOW = 4, (2, 3), (8, 9)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> type[cpu_graphs.Graph]:
    monkeypatch.setattr(MODULE, "_on_gpu", lambda x: True)
    return cpu_graphs.install(monkeypatch)


def maps(seed: int, requires_grad: bool = True, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, C, *size, generator=generator).requires_grad_(requires_grad)
        for size in (LOW, HIGH)
    )


def block(kind: type[nn.Module] = EFPNBS) -> nn.Module:
    torch.manual_seed(0)
    return kind(C, C)


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [EFPNBS, reference.EFPNBS])
def test_training_steps_are_those_of_the_module(
    graphs: type[cpu_graphs.Graph], kind: type[nn.Module]
) -> None:
    ours, plain = block(kind), block(kind)
    call = graphed(ours, *maps(0))
    count = len(graphs.made)
    for seed in range(1, 4):
        results = []
        for module, run in ((ours, call), (plain, plain)):
            inputs = maps(seed)
            module.zero_grad()
            out = run(*inputs)
            out.square().sum().backward()
            results.append([out.detach().clone(), *(x.grad for x in inputs), *gradients(module)])
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= 0.01 * parameter.grad
        same(*results)
    assert len(graphs.made) == count, "captured once"
    assert graphs.made[0].replays >= 3


def test_gradients_of_several_calls_add_up(graphs: type[cpu_graphs.Graph]) -> None:
    """Autograd makes the graph's memory the parameters' gradient; the next replay must not write it."""
    ours, plain = block(), block()
    call = graphed(ours, *maps(0))
    for run in (call, plain):
        for seed in (1, 2, 3):
            run(*maps(seed)).square().sum().backward()
    same(gradients(ours), gradients(plain))


def test_the_same_graph_twice_with_retain_graph(graphs: type[cpu_graphs.Graph]) -> None:
    ours, plain = block(), block()
    for run in (graphed(ours, *maps(0)), plain):
        out = run(*maps(1))
        out.sum().backward(retain_graph=True)
        (3 * out).sum().backward()
    same(gradients(ours), gradients(plain))


def test_inference_is_captured_apart(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    with torch.no_grad():
        call = graphed(ours, *maps(0))
        for seed in (1, 2):
            torch.testing.assert_close(call(*maps(seed)), ours(*maps(seed)))
    inference = len(graphs.made)
    with torch.inference_mode():
        inputs = maps(3, requires_grad=False)
        torch.testing.assert_close(call(*inputs), ours(*inputs))
    assert len(graphs.made) == inference, "the same capture"
    inputs, others = maps(4), maps(4)
    call(*inputs).sum().backward()
    got = [inputs[0].grad, *gradients(ours)]
    ours.zero_grad()
    ours(*others).sum().backward()
    same(got, [others[0].grad, *gradients(ours)])
    assert len(graphs.made) > inference


def test_captured_in_inference_mode_and_called_outside_of_it(
    graphs: type[cpu_graphs.Graph],
) -> None:
    ours = block()
    with torch.inference_mode():
        call = graphed(ours, *maps(0, requires_grad=False))
    with torch.no_grad():
        torch.testing.assert_close(call(*maps(1)), ours(*maps(1)))


def test_examples_without_gradients_do_not_lose_those_of_later_calls(
    graphs: type[cpu_graphs.Graph],
) -> None:
    ours = block()
    call = graphed(ours, *maps(0, requires_grad=False))
    inputs, others = maps(1), maps(1)
    call(*inputs).sum().backward()
    ours(*others).sum().backward()
    same([x.grad for x in inputs], [x.grad for x in others])


def test_frozen_and_thawed_parameters(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block().requires_grad_(False)
    call = graphed(ours, *maps(0))
    call(*maps(1)).sum().backward()
    assert all(parameter.grad is None for parameter in ours.parameters())
    ours.fbsm.refine_conv.requires_grad_(True)
    call(*maps(1)).sum().backward()
    got = ours.fbsm.refine_conv.weight.grad.clone()
    ours.zero_grad()
    ours(*maps(1)).sum().backward()
    same([got], [ours.fbsm.refine_conv.weight.grad])


def test_parameters_in_other_memory_are_captured_anew(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    with torch.no_grad():
        call = graphed(ours, *maps(0))
        state = {name: value + 1 for name, value in ours.state_dict().items()}
        ours.load_state_dict(state, assign=True)
        torch.testing.assert_close(call(*maps(1)), ours(*maps(1)))


def test_another_shape_is_an_ordinary_call_with_one_warning(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    call = graphed(ours, *maps(0))
    other = maps(1, batch=2)
    with pytest.warns(UserWarning, match=r"expected the captured inputs.*\(1, 4, 8, 9\).*got.*\(2"):
        out = call(*other)
    torch.testing.assert_close(out, ours(*other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(*other)
        channels_last = [x.contiguous(memory_format=torch.channels_last) for x in maps(1)]
        call(*channels_last)
        torch.testing.assert_close(call(*maps(2)), ours(*maps(2)))


def test_a_call_before_the_backward_pass_of_the_last_one(graphs: type[cpu_graphs.Graph]) -> None:
    """Two calls in one step: the second must not overwrite what the first still needs."""
    ours, plain = block(), block()
    call = graphed(ours, *maps(0))
    with pytest.warns(UserWarning, match="before the backward pass"):
        (call(*maps(1)).square() + call(*maps(2)).square()).sum().backward()
    (plain(*maps(1)).square() + plain(*maps(2)).square()).sum().backward()
    same(gradients(ours), gradients(plain))
    before = [graph.replays for graph in graphs.made]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(*maps(3)).sum().backward()
    assert [graph.replays for graph in graphs.made] != before, "and then it is replayed again"


def test_a_result_that_is_dropped_does_not_block_the_next_call(
    graphs: type[cpu_graphs.Graph],
) -> None:
    call = graphed(block(), *maps(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            call(*maps(seed))


def test_a_result_that_is_changed_in_place(graphs: type[cpu_graphs.Graph]) -> None:
    call = graphed(block(), *maps(0))
    out = call(*maps(1))
    out.mul_(2)
    with pytest.raises(RuntimeError, match=r"graphed: .*changed in place"):
        out.sum().backward()


def test_hooks_are_called(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    call = graphed(ours, *maps(0))
    seen = []
    handle = ours.register_forward_hook(lambda *_: seen.append(1))
    with pytest.warns(UserWarning, match="hook"):
        call(*maps(1))
    assert seen == [1]
    handle.remove()
    call(*maps(1))
    assert seen == [1]


def test_autocast_and_the_backend_are_part_of_a_capture(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    call = graphed(ours, *maps(0))
    count = len(graphs.made)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(*maps(1)).dtype == torch.bfloat16
    with efpn_kernels.use_backend("reference"):
        call(*maps(1))
    ours.eval()
    call(*maps(1))
    assert len(graphs.made) == count + 3 * 2
    assert call(*maps(1)).dtype == torch.float32


def test_there_is_an_end_to_captures(
    graphs: type[cpu_graphs.Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "MOST_CAPTURES", 1)
    call = graphed(block(), *maps(0))
    with torch.no_grad(), pytest.warns(UserWarning, match="more than 1 kinds"):
        call(*maps(1))


def test_the_module_stays_as_it_is(graphs: type[cpu_graphs.Graph]) -> None:
    ours = block()
    names = list(ours.state_dict())
    call = graphed(ours, *maps(0))
    assert call.module is ours
    assert list(ours.state_dict()) == names
    assert "forward" not in vars(ours)
    copy.deepcopy(ours)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_what_it_refuses() -> None:
    ours = block()
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Module, got function"):
        graphed(lambda x: x, *maps(0))
    with pytest.raises(ValueError, match="example_inputs: expected the tensors of a call"):
        graphed(ours)
    with pytest.raises(TypeError, match=r"example_inputs\[0\]: expected a tensor, got int"):
        graphed(ours, 3)
    with pytest.raises(ValueError, match=r"example_inputs\[0\]: expected a CUDA device.*got cpu"):
        graphed(ours, *maps(0))
