"""One list of cases for every kernel of a backend: sizes and arguments.

A case builds its arguments for a dtype and a memory format; the same seed gives the same values on
every device, so that a case that fails on one backend can be repeated on another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]

MAPS: tuple[Shape, ...] = (
    (1, 3, 1, 1),
    (2, 4, 2, 3),
    (1, 5, 1, 6),
    (1, 2, 7, 2),
    (2, 3, 5, 7),
    (1, 20, 17, 19),
    (1, 64, 6, 9),
    (0, 4, 3, 3),
)
"""``N, C, H, W``: borders that meet, odd sizes, several tiles, whole vectors, nothing."""

LEVELS: tuple[Shape, ...] = (
    (1, 4, 3, 4, 32, 24),
    (2, 3, 2, 3, 7, 5),
    (1, 5, 4, 4, 4, 4),
    (1, 3, 5, 6, 3, 2),
    (1, 4, 1, 1, 5, 6),
    (1, 6, 2, 3, 1, 9),
    (1, 16, 3, 2, 2, 2),
    (1, 36, 3, 3, 11, 10),
    (1, 4, 12, 4, 45, 26),
    (1, 2, 12, 13, 7, 5),
    (0, 4, 2, 2, 4, 4),
)
"""``N, D, h, w, H, W``: x8, sizes that do not divide, identity, downsampling, one-pixel axes, strips."""

POOLS: tuple[tuple[Shape, int], ...] = (
    ((1, 3, 1, 1), 2),
    ((2, 5, 3, 4), 6),
    ((3, 40, 25, 25), 33),
    ((0, 4, 2, 2), 3),
)
"""``(N, Ch, h, w), Cl``."""

PRODUCTS: tuple[tuple[Shape, int], ...] = (
    ((1, 1, 1, 1), 1),
    ((2, 3, 2, 3), 5),
    ((1, 40, 7, 9), 36),
    ((3, 130, 4, 11), 15),
    ((1, 260, 3, 2), 33),
    ((2, 4, 1, 67), 2),
    ((0, 4, 2, 2), 3),
)
"""``(N, C, h, w), D``: less than a block of registers and more, sums of several runs, nothing."""

BORDERS: tuple[Shape, ...] = (
    (1, 3, 4, 1, 1),
    (2, 5, 3, 2, 1),
    (2, 40, 36, 3, 9),
    (1, 4, 20, 1, 2),
    (0, 3, 4, 5, 5),
)
"""``N, C, D, H, W``."""

ELEMENTS: tuple[Shape, ...] = ((0,), (1,), (7,), (3, 5, 4), (1000,), (9000,))
"""Shapes of DCLoss's arguments."""

# What a backend leaves out: a CPU's library adds the bias of a convolution itself.
NOT_NEEDED = {("efpn", "cpu"): {"bias_relu_"}}


class Maker:
    """Makes the arguments of one case, from a seed of its own."""

    def __init__(self, dtype: torch.dtype, channels_last: bool, device: str) -> None:
        self.dtype = dtype
        self.acc = torch.float64 if dtype == torch.float64 else torch.float32
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.device = device
        self.generator = torch.Generator().manual_seed(20260)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return values.to(self.device, dtype or self.dtype)

    def accumulated(self, *shape: int) -> Tensor:
        return self.normal(*shape, dtype=self.acc)

    def map(self, *shape: int) -> Tensor:
        return self.normal(*shape).contiguous(memory_format=self.format)

    def mask_map(self, *shape: int) -> Tensor:
        return self.map(*shape).sigmoid_()

    def gate(self, N: int, H: int, W: int) -> Tensor:
        return torch.sigmoid(self.accumulated(N, 1, H, W))

    def integers(self, high: int, *shape: int) -> Tensor:
        values = torch.randint(high, shape, generator=self.generator, dtype=torch.int32)
        return values.to(self.device)


Builder = Callable[[Maker], list]

WITHOUT_MAPS = (
    "upsampled_gate",
    "upsampled_gate_backward",
    "fuse_backward",
    "dc_loss",
    "dc_loss_backward",
)
"""Kernels that see gates and vectors only."""


class Case(NamedTuple):
    """Arguments of ``kernel`` as a function of a :class:`Maker`."""

    kernel: str
    build: Builder
    id: str

    @property
    def formats(self) -> tuple[bool, ...]:
        """The values of channels_last that differ for this kernel."""
        return (False,) if self.kernel in WITHOUT_MAPS else (False, True)


def label(*parts: object) -> str:
    return "-".join("x".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts)


def pooled_cases(sizes: Iterable[tuple[Shape, int]] = POOLS) -> Iterator[Case]:
    def forward(m: Maker, shape: Shape, Cl: int, special: bool) -> list:
        p_high = m.map(*shape)
        if special:  # ties; of several NaNs the first, whichever lane or thread finds it
            p_high.clamp_(max=0.5)
            pixels = shape[2] * shape[3]
            for channel, tenths in enumerate(((9, 5, 3), (0, 9), (7, 2, 4))):
                for tenth in tenths:
                    i, j = divmod(tenth * pixels // 10, shape[3])
                    p_high[0, channel, i, j] = float("nan")
            p_high[0, 3, -1, -1] = 4.0  # the last place is looked at too
        return [p_high, m.normal(Cl, shape[1]), m.normal(Cl)]

    def backward(m: Maker, shape: Shape, Cl: int) -> list:
        N, C, h, w = shape
        grad_context, context = m.accumulated(N, Cl), m.accumulated(N, Cl).relu()
        pooled, index = m.normal(N, C), m.integers(h * w, N, C)
        return [grad_context, context, pooled, index, m.normal(Cl, C), m.map(*shape)]

    for shape, Cl in sizes:
        build = functools.partial(forward, shape=shape, Cl=Cl, special=shape[0] > 1)
        yield Case("pooled_context", build, label(shape, Cl))
        build = functools.partial(backward, shape=shape, Cl=Cl)
        yield Case("pooled_context_backward", build, label(shape, Cl))


def level_cases(sizes: Iterable[Shape] = LEVELS) -> Iterator[Case]:
    def taps(m: Maker, size: Shape) -> list:
        N, D, h, w, _, _ = size
        return [m.accumulated(N, h, w, 9, D), m.normal(D)]

    def gate(m: Maker, size: Shape) -> list:
        return [*taps(m, size), m.normal(size[1]), m.normal(1), *size[4:]]

    def gate_backward(m: Maker, size: Shape) -> list:
        N, D, _, _, H, W = size
        return [m.accumulated(N, 1, H, W), m.gate(N, H, W), *taps(m, size), m.normal(D)]

    def relu(m: Maker, size: Shape) -> list:
        return [*taps(m, size), *size[4:], m.format == torch.channels_last]

    def relu_backward(m: Maker, size: Shape) -> list:
        N, D, _, _, H, W = size
        return [m.map(N, D, H, W), *taps(m, size)]

    for size in sizes:
        for name, build in (
            ("upsampled_gate", gate),
            ("upsampled_gate_backward", gate_backward),
            ("upsampled_relu", relu),
            ("upsampled_relu_backward", relu_backward),
        ):
            yield Case(name, functools.partial(build, size=size), label(size))


def product_cases(sizes: Iterable[tuple[Shape, int]] = PRODUCTS) -> Iterator[Case]:
    def weight(m: Maker, C: int, D: int, turned: bool) -> Tensor:
        other = (torch.channels_last, torch.contiguous_format)[m.format == torch.channels_last]
        return m.normal(D, C, 3, 3).contiguous(memory_format=other if turned else m.format)

    def forward(m: Maker, shape: Shape, D: int, turned: bool) -> list:
        return [m.map(*shape), weight(m, shape[1], D, turned)]

    def backward(m: Maker, shape: Shape, D: int, turned: bool) -> list:
        N, _, h, w = shape
        return [m.accumulated(N, h, w, 9, D), *forward(m, shape, D, turned)]

    for shape, D in sizes:
        for turned in (False, True):
            arguments = {"shape": shape, "D": D, "turned": turned}
            variant = ("turned",) if turned else ()
            for name, build in (("taps", forward), ("taps_backward", backward)):
                yield Case(name, functools.partial(build, **arguments), label(*variant, shape, D))


def border_cases(sizes: Iterable[Shape] = BORDERS) -> Iterator[Case]:
    def forward(m: Maker, N: int, C: int, D: int, H: int, W: int) -> list:
        return [m.accumulated(N, C), m.map(D, C, 3, 3), m.normal(D), H, W]

    def backward(m: Maker, N: int, C: int, D: int, H: int, W: int) -> list:
        return [m.accumulated(N, 3, 3, D), m.accumulated(N, C), m.map(D, C, 3, 3), H, W]

    for size in sizes:
        arguments = dict(zip("NCDHW", size, strict=True))
        yield Case("border_bias", functools.partial(forward, **arguments), label(size))
        yield Case("border_bias_backward", functools.partial(backward, **arguments), label(size))


def map_cases(shapes: Iterable[Shape] = MAPS) -> Iterator[Case]:
    builders: tuple[tuple[str, str, Callable[..., list]], ...] = (
        ("context_add", "", lambda m, s: [m.map(*s), m.accumulated(*s[:2])]),
        ("spatial_sum", "", lambda m, s: [m.map(*s)]),
        ("bias_relu_", "", lambda m, s: [m.map(*s), m.normal(s[1])]),
        ("relu_backward", "", lambda m, s: [m.map(*s), m.map(*s).relu_()]),
        ("border_sum", "", lambda m, s: [m.map(*s)]),
        ("border_relu", "", lambda m, s: [m.map(*s), m.accumulated(s[0], 3, 3, s[1])]),
        ("low_gate", "", low_gate),
        ("low_gate_backward", "", low_gate_backward),
        ("gate_apply", "context", lambda m, s: gate_apply(m, s, m.accumulated(*s[:2]))),
        ("gate_apply", "plain", lambda m, s: gate_apply(m, s, None)),
        ("fuse_backward", "", fuse_backward),
    )
    for shape in shapes:
        for name, variant, build in builders:
            yield Case(
                name, functools.partial(build, s=shape), label(*filter(None, (variant,)), shape)
            )
        for gated in (True, False):
            for with_context in (True, False):
                arguments = {"s": shape, "gated": gated, "with_context": with_context}
                variant = label("gate" if gated else "map", "context" if with_context else "plain")
                for name, build in (
                    ("mask_apply", mask_apply),
                    ("mask_apply_backward", mask_apply_backward),
                ):
                    yield Case(name, functools.partial(build, **arguments), label(variant, shape))
            build = functools.partial(mask_merge, s=shape, gated=gated)
            yield Case("mask_merge_", build, label("gate" if gated else "map", shape))


def low_gate(m: Maker, s: Shape) -> list:
    N, D, _, _ = s
    return [m.map(*s), m.accumulated(N, 3, 3, D), m.normal(D), m.normal(1)]


def low_gate_backward(m: Maker, s: Shape) -> list:
    N, D, H, W = s
    gates = [m.accumulated(N, 1, H, W), m.gate(N, H, W)]
    return [*gates, m.map(*s), m.accumulated(N, 3, 3, D), m.normal(D)]


def gate_apply(m: Maker, s: Shape, context: Tensor | None) -> list:
    N, _, H, W = s
    gates = [m.gate(N, H, W), m.gate(N, H, W)]
    return [m.map(*s), context, *gates, m.normal(1, 1, 3, 3), m.normal(1)]


def fuse_backward(m: Maker, s: Shape) -> list:
    N, _, H, W = s
    gates = [m.gate(N, H, W), m.gate(N, H, W)]
    return [m.accumulated(N, 1, H, W), *gates, m.normal(1, 1, 3, 3)]


def a_mask(m: Maker, s: Shape, gated: bool) -> Tensor:
    N, _, H, W = s
    return m.gate(N, H, W) if gated else m.mask_map(*s)


def mask_apply(m: Maker, s: Shape, gated: bool, with_context: bool) -> list:
    context = m.accumulated(*s[:2]) if with_context else None
    return [m.map(*s), context, a_mask(m, s, gated)]


def mask_apply_backward(m: Maker, s: Shape, gated: bool, with_context: bool) -> list:
    return [m.map(*s), *mask_apply(m, s, gated, with_context)]


def mask_merge(m: Maker, s: Shape, gated: bool) -> list:
    return [m.map(*s), m.map(*s), a_mask(m, s, gated)]


def loss_cases(shapes: Iterable[Shape] = ELEMENTS) -> Iterator[Case]:
    def arguments(m: Maker, s: Shape, weighted: bool) -> list:
        pred, target = m.normal(*s), m.normal(*s)
        pred.view(-1)[:2] = target.view(-1)[:2]  # the kink of |pred - target|
        weight = m.normal(*s).abs() if weighted else None
        k = torch.tensor(10.0, device=m.device)
        return [pred, target, weight, k, torch.tensor([0.15], dtype=m.dtype, device=m.device)]

    def forward(
        m: Maker, s: Shape, weighted: bool, form: int, reduce: bool, with_grad: bool
    ) -> list:
        return [*arguments(m, s, weighted), form, reduce, 0.37, with_grad]

    def backward(m: Maker, s: Shape, weighted: bool, form: int, of_sum: bool) -> list:
        grad_loss = m.accumulated() if of_sum else m.normal(*s)
        return [grad_loss, *arguments(m, s, weighted), form, 0.37]

    for s in shapes:
        for weighted, form in ((False, 0), (True, 1)):
            name = label("weighted" if weighted else "plain", ("equation", "text")[form])
            common = {"s": s, "weighted": weighted, "form": form}
            for reduce, with_grad in ((True, True), (True, False), (False, False)):
                mode = ("sum-grad" if with_grad else "sum") if reduce else "none"
                build = functools.partial(forward, **common, reduce=reduce, with_grad=with_grad)
                yield Case("dc_loss", build, label(name, mode, s))
            for of_sum in (False, True):
                build = functools.partial(backward, **common, of_sum=of_sum)
                mode = "sum" if of_sum else "none"
                yield Case("dc_loss_backward", build, label(name, mode, s))


def kernel_cases() -> Iterator[Case]:
    """Every case of every kernel."""
    yield from pooled_cases()
    yield from product_cases()
    yield from level_cases()
    yield from border_cases()
    yield from map_cases()
    yield from loss_cases()
