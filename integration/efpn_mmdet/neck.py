"""E-FPN-BS behind any neck of mmdet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from efpn_kernels import EFPNBS, graphed, use_backend


@MODELS.register_module()
class EFPNBSNeck(BaseModule):
    """Runs a base neck and replaces one of its levels by E-FPN-BS of that level and a higher one.

    The base's channels must be the same at all levels, as they are in mmdet's pyramids.

    Args:
        base: config of the base neck, such as ``dict(type="FPN", ...)`` or ``dict(type="RFP", ...)``.
        low_level: index of the level that is replaced (0: P2 of a two-stage detector).
        high_level: index of the level that guides it (3: P5).
        hidden_channels: channels of the gates' convolutions; ``None``: those of the base.
        gate_channels: 1 for a spatial gate, or the base's channels for a gate per channel.
        use_cem: ``False`` leaves the context enhancement out (Table 5).
        use_fbsm: ``False`` leaves the foreground-background separation out (Table 5).
        backend: "reference", "cpu", "cuda" or "triton" for this neck alone; "auto" leaves the choice
            to :func:`efpn_kernels.use_backend`.
        graphed: on a GPU, replay the block from CUDA graphs for the first shape that comes
            (:func:`efpn_kernels.graphed`): for images of one size.
    """

    def __init__(
        self,
        base: dict,
        low_level: int = 0,
        high_level: int = 3,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
        use_cem: bool = True,
        use_fbsm: bool = True,
        backend: str = "auto",
        graphed: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_levels(low_level, high_level, base.get("num_outs"))
        self.low_level = low_level
        self.high_level = high_level
        self.backend = backend
        self.graphed = graphed
        self._replayed: Callable[[Tensor, Tensor], Tensor] | None = None
        self.base = MODELS.build(base)
        channels = _channels(self.base, base)
        self.block = EFPNBS(channels, channels, hidden_channels, gate_channels, use_cem, use_fbsm)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The base's levels, ``low_level`` replaced; ``inputs`` are whatever the base takes."""
        levels = list(self.base(inputs))
        with self._backend():
            levels[self.low_level] = self._run(levels[self.low_level], levels[self.high_level])
        return tuple(levels)

    def _run(self, p_low: Tensor, p_high: Tensor) -> Tensor:
        if not (self.graphed and p_low.is_cuda):
            return self.block(p_low, p_high)
        if self._replayed is None:
            self._replayed = graphed(self.block, p_low, p_high)
        return self._replayed(p_low, p_high)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which capture for themselves."""
        return self.__dict__ | {"_replayed": None}

    def _backend(self) -> AbstractContextManager:
        return nullcontext() if self.backend == "auto" else use_backend(self.backend)


class GateProbe:
    """Keeps the block's inputs while attached, to compute the gate M (Eq. 7) when it is asked for.

    A context manager::

        with GateProbe(detector.neck) as probe:
            detector(...)
        mask = probe.mask()

    Args:
        neck: an :class:`EFPNBSNeck`.
    """

    def __init__(self, neck: EFPNBSNeck) -> None:
        self._neck = neck
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def __enter__(self) -> GateProbe:
        self._handle = self._neck.block.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, Tensor], __: Tensor) -> None:
        # Half precision under autocast; the gate is computed outside of it.
        dtype = self._neck.block.fbsm.fuse_conv.weight.dtype
        self._inputs = tuple(one.detach().to(dtype) for one in inputs)

    @torch.no_grad()
    def mask(self) -> Tensor:
        """``[N, G, H, W]`` of the latest forward.

        Raises:
            RuntimeError: nothing has run since the probe was attached.
        """
        if self._inputs is None:
            raise RuntimeError("GateProbe.mask: expected a forward of the neck first, got none")
        return self._neck.block.mask(*self._inputs)


def gated_necks(model: nn.Module) -> dict[str, EFPNBSNeck]:
    """The necks of a model that have a gate, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, EFPNBSNeck) and module.block.use_fbsm
    }


def _check_levels(low_level: int, high_level: int, num_outs: int | None) -> None:
    if not 0 <= low_level < high_level:
        raise ValueError(
            f"low_level, high_level: expected 0 <= low_level < high_level, "
            f"got {low_level} and {high_level}"
        )
    if num_outs is not None and high_level >= num_outs:
        raise ValueError(
            f"high_level: expected less than the base's {num_outs} levels, got {high_level}"
        )


def _channels(base: nn.Module, config: dict) -> int:
    channels = getattr(base, "out_channels", config.get("out_channels"))
    if not isinstance(channels, int):
        raise ValueError(
            f"base: expected a neck with one number of out_channels for all levels, "
            f"{type(base).__name__} has {channels}"
        )
    return channels
