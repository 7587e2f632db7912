"""The plain twins, the kernels' contracts and the fused operators against numbers by another road.

Worked out by hand where a person can, and by the loops of ``by_hand.py`` from the paper's equations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType

import by_hand
import pytest
import torch
from conftest import Backend
from torch import Tensor

from checking import contracts
from efpn_kernels import functional, reference
from efpn_kernels.reference import FORMS

N, LOW, HIGH, HIDDEN = 2, 2, 3, 2
SIZES = {"upsampled": ((2, 2), (1, 2)), "larger": ((4, 3), (2, 2)), "downsampled": ((2, 3), (3, 4))}
CHANNELS = {"one gate": 1, "a gate per channel": LOW}


def close(actual: Tensor, expected: object, atol: float = 1e-12) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach().double().cpu(), wanted, rtol=0, atol=atol)


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def numbers(*shape: int, start: int) -> Tensor:
    """Tenths between -1.5 and 1.5 that repeat after 31, no two neighbours alike."""
    count = math.prod(shape)
    return f64([(17 * (i + start) % 31 - 15) / 10 for i in range(count)]).view(shape)


@functools.cache
def block(size: str, gates: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The two maps and the parameters of a block."""
    low_size, high_size = SIZES[size]
    G = CHANNELS[gates]
    shapes = {
        "project_weight": (LOW, HIGH, 1, 1),
        "high_conv_weight": (HIDDEN, HIGH, 3, 3),
        "high_gate_weight": (G, HIDDEN, 1, 1),
        "low_conv_weight": (HIDDEN, LOW, 3, 3),
        "low_gate_weight": (G, HIDDEN, 1, 1),
        "fuse_weight": (G, G, 3, 3),
        "refine_weight": (LOW, LOW, 3, 3),
    }
    parameters = {}
    for start, (name, shape) in enumerate(shapes.items()):
        parameters[name] = numbers(*shape, start=3 * start) / (2 if shape[-1] == 3 else 1)
        bias = name.replace("weight", "bias")
        parameters[bias] = numbers(shape[0], start=20 + start)
    p_low, p_high = numbers(N, LOW, *low_size, start=5), numbers(N, HIGH, *high_size, start=9)
    return p_low, p_high, parameters


def expected_of(operator: str, size: str, gates: str) -> list:
    p_low, p_high, parameters = block(size, gates)
    p = {name: x.tolist() for name, x in parameters.items()}
    function = getattr(by_hand, operator)
    last = (p["project_weight"], p["project_bias"]) if operator == "cem" else (p,)
    return [function(*maps, *last) for maps in zip(p_low.tolist(), p_high.tolist(), strict=True)]


def result_of(package: ModuleType, operator: str, size: str, gates: str, **to: object) -> Tensor:
    *maps, parameters = block(size, gates)
    chosen = {
        "cem": lambda name: name.startswith("project"),
        "fbsm": lambda name: not name.startswith("project"),
        "fbsm_mask": lambda name: not name.startswith(("project", "refine")),
        "efpn_bs": lambda name: True,
    }[operator]
    tensors = (*maps, *(x for name, x in parameters.items() if chosen(name)))
    return getattr(package, operator)(*(x.to(**to) for x in tensors))


blocks = pytest.mark.parametrize("size", SIZES)
each_gate = pytest.mark.parametrize("gates", CHANNELS)


@pytest.mark.parametrize("operator", ["cem", "fbsm_mask", "fbsm", "efpn_bs"])
@each_gate
@blocks
def test_the_plain_twins(operator: str, size: str, gates: str) -> None:
    close(
        result_of(reference, operator, size, gates, dtype=torch.float64),
        expected_of(operator, size, gates),
    )


@pytest.mark.parametrize("operator", ["cem", "fbsm", "efpn_bs"])
@each_gate
@blocks
def test_the_fused_operators(backend: Backend, operator: str, size: str, gates: str) -> None:
    ours = result_of(functional, operator, size, gates, device=backend.device, dtype=torch.float32)
    close(ours, expected_of(operator, size, gates), atol=3e-6)


@each_gate
def test_the_modules(gates: str) -> None:
    p_low, p_high, parameters = block("larger", gates)
    module = reference.EFPNBS(HIGH, LOW, HIDDEN, CHANNELS[gates]).double()
    with torch.no_grad():
        for one, x in zip(module.parameters(), parameters.values(), strict=True):
            one.copy_(x)
    close(module(p_low, p_high), expected_of("efpn_bs", "larger", gates))
    part = {"use_fbsm": False}, {"use_cem": False}
    for options, operator in zip(part, ("cem", "fbsm"), strict=True):
        alone = reference.EFPNBS(HIGH, LOW, HIDDEN, CHANNELS[gates], **options).double()
        alone.load_state_dict(
            {k: v for k, v in module.state_dict().items() if k.startswith(operator)}
        )
        close(alone(p_low, p_high), expected_of(operator, "larger", gates))


# ---- by hand ----------------------------------------------------------------------------------------


def test_cem_by_hand() -> None:
    """Maxima 4 and -1; phi: 2 * 4 - 3 * -1 - 1 = 10 and 1 * 4 + 6 * -1 + 1 = -1, which relu makes 0."""
    p_low = f64([[[[1, 2], [3, 4]], [[-1, 0], [0.5, 8]]]])
    p_high = f64([[[[1, 4], [-7, 2]], [[-1, -2], [-3, -4]]]])
    weight, bias = f64([[2, -3], [1, 6]]).view(2, 2, 1, 1), f64([-1, 1])
    out = [[[[11, 12], [13, 14]], [[-1, 0], [0.5, 8]]]]
    for function in (reference.cem, functional.cem):
        close(function(p_low, p_high, weight, bias), out)


def test_the_upsample_by_hand() -> None:
    """Two pixels 0 and 4 on four places: 0, 1, 3, 4. In steps of the larger grid, half a pixel in."""
    row = [0.0, 1.0, 3.0, 4.0]
    assert by_hand.upsample([[[0.0, 4.0]]], 2, 4) == [[row, row]]
    assert by_hand.upsample([[[0.0], [4.0]]], 4, 1) == [[[v] for v in row]]


def test_fbsm_by_hand() -> None:
    """Convolutions of the middle alone. The mask of the first pixel: both gates 1/2, fused 2 * 1 - 2 = 0, so 1/2."""

    def middle(value: float) -> Tensor:
        weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
        weight[..., 1, 1] = value
        return weight

    c_low, p_high = f64([[[[-2, 4], [6, 8]]]]), f64([[[[-3, -3], [-3, 5]]]])
    one, none, gate = middle(1), f64([0]), f64([[[[math.log(3)]]]])
    # relu leaves 0, 4, 6, 8 of the low map and 0, 0, 0, 5 of the high one; the gates: sigma of ln 3 times that.
    parameters = (
        one,
        none,
        gate,
        none,
        one,
        none,
        gate,
        none,
        middle(2),
        f64([-2]),
        one,
        f64([0.5]),
    )
    low, high = ([3**v / (1 + 3**v) for v in values] for values in ((0, 4, 6, 8), (0, 0, 0, 5)))
    mask = [1 / (1 + math.exp(2 - 2 * (a + b))) for a, b in zip(low, high, strict=True)]
    assert mask[0] == 0.5
    close(reference.fbsm_mask(c_low, p_high, *parameters[:10]).flatten(), mask)
    out = [0, *(v * m + 0.5 for v, m in zip((4, 6, 8), mask[1:], strict=True))]  # relu(-1 + 0.5)
    for function in (reference.fbsm, functional.fbsm):
        close(function(c_low, p_high, *parameters).flatten(), out)


def test_border_by_hand() -> None:
    """All weights 1 on a map of ones: 4 neighbours at a corner of 2 x 2, 6 and 9 further in."""
    ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    bias = contracts.border_bias(f64([[1]]), ones, f64([0]), 3, 3)[0]
    close(bias.flatten(), [4, 6, 4, 6, 9, 6, 4, 6, 4])
    assert by_hand.conv([[[1.0] * 2] * 2], ones.tolist(), [0.0]) == [[[4.0] * 2] * 2]


# ---- the kernels' contracts ---------------------------------------------------------------------------


@each_gate
@blocks
def test_the_contracts_compose_to_the_equations(size: str, gates: str) -> None:
    """Every forward kernel, one after the other as the operator calls them."""
    p_low, p_high, p = block(size, gates)
    size_low = p_low.shape[2:]
    added, _, index = contracts.pooled_context(
        p_high, p["project_weight"].flatten(1), p["project_bias"]
    )
    lists = p_high.tolist()
    project = p["project_weight"].tolist(), p["project_bias"].tolist()
    close(added, [by_hand.context(image, *project) for image in lists])
    for image, places in zip(lists, index.tolist(), strict=True):
        for plane, place in zip(image, places, strict=True):
            flat = [v for row in plane for v in row]
            assert flat.index(max(flat)) == place
    close(contracts.context_add(p_low, added)[0], expected_of("cem", size, gates))

    taps = contracts.taps(p_high, p["high_conv_weight"])[0]
    border = contracts.border_bias(added, p["low_conv_weight"], p["low_conv_bias"], *size_low)[0]
    conv = torch.nn.functional.conv2d(p_low, p["low_conv_weight"], padding=1)
    if CHANNELS[gates] == 1:
        m_high = contracts.upsampled_gate(
            taps,
            p["high_conv_bias"],
            p["high_gate_weight"].flatten(),
            p["high_gate_bias"],
            *size_low,
        )[0]
        m_low = contracts.low_gate(
            conv, border, p["low_gate_weight"].flatten(), p["low_gate_bias"]
        )[0]
        x, mask = contracts.gate_apply(
            p_low, added, m_high, m_low, p["fuse_weight"], p["fuse_bias"]
        )
    else:
        hidden = (
            contracts.upsampled_relu(taps, p["high_conv_bias"], *size_low, False)[0],
            contracts.border_relu(conv, border)[0],
        )
        names = ("high_gate", "low_gate")
        m_high, m_low = (
            torch.nn.functional.conv2d(h, p[f"{n}_weight"], p[f"{n}_bias"]).sigmoid()
            for h, n in zip(hidden, names, strict=True)
        )
        mask = torch.nn.functional.conv2d(
            m_high + m_low, p["fuse_weight"], p["fuse_bias"], padding=1
        ).sigmoid()
        x = contracts.mask_apply(p_low, added, mask)[0]
    refined = torch.nn.functional.conv2d(x, p["refine_weight"], padding=1)
    close(contracts.bias_relu_(refined, p["refine_bias"])[0], expected_of("efpn_bs", size, gates))
    c_low = expected_of("cem", size, gates)
    parameters = {name: value.tolist() for name, value in p.items()}
    masks = [by_hand.fbsm_mask(*maps, parameters) for maps in zip(c_low, lists, strict=True)]
    close(mask, masks)


@pytest.mark.parametrize("size", ["upsampled", "larger"])
@each_gate
def test_the_gradient_of_every_argument(backend: Backend, size: str, gates: str) -> None:
    """Of the sum of squares, at six elements or more: finite differences of the loops."""
    if backend.interpreted:
        pytest.skip("float64 by the interpreter: gradcheck has it")
    p_low, p_high, parameters = block(size, gates)
    tensors = [p_low[:1], p_high[:1], *parameters.values()]
    leaves = [x.to(backend.device).requires_grad_() for x in tensors]
    functional.efpn_bs(*leaves).square().sum().backward()
    names = ["p_low", "p_high", *parameters]

    def loss(lists: list) -> float:
        p = dict(zip(names[2:], lists[2:], strict=True))
        out = by_hand.efpn_bs(lists[0][0], lists[1][0], p)
        return sum(v * v for plane in out for row in plane for v in row)

    for number, (name, x) in enumerate(zip(names, tensors, strict=True)):
        wanted = torch.empty_like(x).flatten()
        for i in range(0, x.numel(), max(x.numel() // 6, 1)):
            step, values = 1e-6, []
            for sign in (1, -1):
                moved = x.clone().flatten()
                moved[i] += sign * step
                lists = [t.tolist() for t in tensors]
                lists[number] = moved.view_as(x).tolist()
                values.append(loss(lists))
            wanted[i] = (values[0] - values[1]) / (2 * step)
            got = leaves[number].grad.flatten()[i].item()
            assert got == pytest.approx(wanted[i].item(), rel=1e-6, abs=1e-7), f"{name}[{i}]"


# ---- DCLoss ---------------------------------------------------------------------------------------------

PRED, TARGET = [0.5, -1.0, 2.0, 0.25], [0.25, 1.0, 2.0, 0.5]  # errors 0.25, 2, 0, 0.25
WEIGHT = [1.0, 0.5, 3.0, 0.0]


def loss_of(function: Callable[..., Tensor], k: float, delta: float, **options: object) -> Tensor:
    weight = options.pop("weight", None)
    return function(
        f64(PRED),
        f64(TARGET),
        f64(k),
        f64(delta),
        None if weight is None else f64(weight),
        **options,
    )


@pytest.mark.parametrize("package", [reference, functional], ids=["plain", "fused"])
def test_dc_loss_by_hand(package: ModuleType) -> None:
    """With k = ln 3 / 0.25 and delta 0.25 the gate is 1/2 at 0.25, 1/4 at 0 and 3^7 / (1 + 3^7) at 2."""
    k, seven = math.log(3) / 0.25, 3**7
    middle = (0.25**2 + 0.25) / 2
    for form, alpha in (("equation", seven / (1 + seven)), ("text", 1 / (1 + seven))):
        far = 4 * alpha + 2 * (1 - alpha)
        elements = [middle, far, 0, middle]
        weighted = [v * w for v, w in zip(elements, WEIGHT, strict=True)]
        loss = functools.partial(loss_of, package.dc_loss, k, 0.25, form=form)
        close(loss(reduction="none"), elements)
        close(loss(reduction="sum"), 2 * middle + far)
        close(loss(reduction="mean"), (2 * middle + far) / 4)
        close(loss(reduction="mean", avg_factor=3.0), (2 * middle + far) / 3)
        close(loss(reduction="none", weight=WEIGHT), weighted)
        close(loss(reduction="sum", weight=WEIGHT), sum(weighted))
        close(loss(reduction="mean", weight=WEIGHT), sum(weighted) / 4)


@pytest.mark.parametrize("form", FORMS)
def test_dc_loss_in_loops(form: str) -> None:
    k, delta = 10.0, 0.15
    errors = [abs(a - b) for a, b in zip(PRED, TARGET, strict=True)]
    elements = [by_hand.dc_loss(e, k, delta, form) for e in errors]
    number = FORMS.index(form)
    arguments = (f64(PRED), f64(TARGET), None, f64(k), f64(delta), number)
    close(contracts.dc_loss(*arguments, False, 1.0, False)[0], elements)
    close(contracts.dc_loss(*arguments, True, 0.5, False)[0], 0.5 * sum(elements))
    weighted = (*arguments[:2], f64(WEIGHT), *arguments[3:])
    expected = [2 * v * w for v, w in zip(elements, WEIGHT, strict=True)]
    close(contracts.dc_loss(*weighted, False, 2.0, False)[0], expected)
    close(loss_of(reference.dc_loss, k, delta, form=form, reduction="none"), elements)
    close(loss_of(functional.dc_loss, k, delta, form=form, reduction="none"), elements)


def test_the_module_of_the_loss() -> None:
    """Its own defaults: k 10, delta 0.15, the printed form, the mean; times the weight of the loss."""
    errors = [abs(a - b) for a, b in zip(PRED, TARGET, strict=True)]
    mean = sum(by_hand.dc_loss(e, 10.0, 0.15, "equation") for e in errors) / 4
    close(reference.DCLoss().double()(f64(PRED), f64(TARGET)), mean, atol=1e-7)
    close(reference.DCLoss(loss_weight=3.0).double()(f64(PRED), f64(TARGET)), 3 * mean, atol=3e-7)
