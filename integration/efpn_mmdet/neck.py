"""E-FPN-BS behind any neck of mmdet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from efpn_kernels import EFPNBS, graphed, use_backend

from .pretrained import take_plain_neck

# Pyramids whose first level has the stride of input ``start_level`` and each further one twice as much.
_PYRAMIDS = ("FPN", "PAFPN", "RFP", "NASFPN", "FPN_CARAFE", "HRFPN")
_INPUT_STRIDES = (4, 8, 16, 32)  # of a backbone with four outputs


@MODELS.register_module()
class EFPNBSNeck(BaseModule):
    """Runs a base neck and replaces one of its levels by E-FPN-BS of that level and a higher one.

    The base's channels must be the same at all levels, as they are in mmdet's pyramids. Weights of a plain
    detector's checkpoint go into the base. While ``torch.jit`` traces the neck, as mmdet's ``get_flops`` does,
    ``backend="auto"`` runs the plain PyTorch block, so that its convolutions are seen.

    Args:
        base: config of the base neck, such as ``dict(type="FPN", ...)``, or a list of configs that run one
            after the other, such as ``[dict(type="FPN", ...), dict(type="BFP", ...)]``.
        low_level: index of the level that is replaced; 0, the finest, unless ``low_stride`` is given.
        high_level: index of the level that guides it; 3 unless ``high_stride`` is given. In a pyramid that
            begins at stride 4 that is P5, in one that begins at stride 8 P6.
        hidden_channels: channels of the gates' convolutions; ``None``: those of the base.
        gate_channels: 1 for a spatial gate, or the base's channels for a gate per channel.
        use_cem: ``False`` leaves the context enhancement out (Table 5).
        use_fbsm: ``False`` leaves the foreground-background separation out (Table 5).
        backend: "reference", "cpu", "cuda" or "triton" for this neck alone; "auto" leaves the choice
            to :func:`efpn_kernels.use_backend`.
        graphed: on a GPU, replay the block from CUDA graphs for the first shape that comes
            (:func:`efpn_kernels.graphed`): for images of one size.
        low_stride: stride of the level that is replaced, in place of ``low_level``: 4 for P2, 8 for P3. For
            bases whose strides follow from their config: FPN and its like on four backbone outputs.
        high_stride: the same for the level that guides it: 32 for P5.

    Raises:
        TypeError: ``base`` is no config. ValueError: levels that the base does not have, channels that differ
            from level to level, an unknown backend.
    """

    def __init__(
        self,
        base: dict | Sequence[dict],
        low_level: int | None = None,
        high_level: int | None = None,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
        use_cem: bool = True,
        use_fbsm: bool = True,
        backend: str = "auto",
        graphed: bool = False,
        low_stride: int | None = None,
        high_stride: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        configs = _base_configs(base)
        self.low_level = _level("low", low_level, low_stride, 0, configs)
        self.high_level = _level("high", high_level, high_stride, 3, configs)
        if self.low_level >= self.high_level:
            raise ValueError(
                "low_level, high_level: expected a low level below the high one, "
                f"got {self.low_level} and {self.high_level}"
            )
        self.backend = backend
        self.graphed = graphed
        self._replayed: Callable[[Tensor, Tensor], Tensor] | None = None
        with self._backend():  # refuses an unknown name
            self.base = MODELS.build(base)
        channels = _channels(self.base, configs)
        self.block = EFPNBS(channels, channels, hidden_channels, gate_channels, use_cem, use_fbsm)
        self.register_load_state_dict_pre_hook(take_plain_neck)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The base's levels, ``low_level`` replaced; ``inputs`` are whatever the base takes."""
        levels = list(self.base(inputs))
        if self.high_level >= len(levels):
            raise ValueError(_no_such_level("high_level", self.high_level, len(levels)))
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
        if self.backend != "auto":
            return use_backend(self.backend)
        return use_backend("reference") if torch.jit.is_tracing() else nullcontext()


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


def _base_configs(base: object) -> list[dict]:
    """``base`` as a list, if it is what ``MODELS.build`` makes a neck of."""
    configs = list(base) if isinstance(base, (list, tuple)) else [base]
    if not configs or not all(isinstance(one, dict) and "type" in one for one in configs):
        raise TypeError(
            'base: expected the config of a neck, dict(type="FPN", ...), or a list of such configs, '
            f"got {base!r}"
        )
    return configs


def _level(
    name: str, level: int | None, stride: int | None, default: int, configs: list[dict]
) -> int:
    """The index that ``{name}_level`` or ``{name}_stride`` names among the base's levels."""
    strides, count = _strides(configs), _level_count(configs)
    if stride is None:
        level = default if level is None else level
        if isinstance(level, bool) or not isinstance(level, int) or level < 0:
            raise ValueError(f"{name}_level: expected an index from 0, got {level!r}")
        if count is not None and level >= count:
            raise ValueError(_no_such_level(f"{name}_level", level, count, strides))
        return level
    if level is not None:
        raise ValueError(
            f"{name}_level, {name}_stride: expected one of the two, got {level} and {stride}"
        )
    if strides is None:
        raise ValueError(
            f"{name}_stride: expected a base of known strides ({', '.join(_PYRAMIDS)} on "
            f"{len(_INPUT_STRIDES)} backbone outputs), got {_name(configs[0])}; give {name}_level, an index"
        )
    if stride not in strides:
        raise ValueError(
            f"{name}_stride: expected one of {strides}, the base's strides, got {stride}"
        )
    return strides.index(stride)


def _no_such_level(name: str, level: int, count: int, strides: list[int] | None = None) -> str:
    of_strides = f" (strides {', '.join(map(str, strides))})" if strides else ""
    return f"{name}: expected an index below the base's {count} levels{of_strides}, got {level}"


def _level_count(configs: list[dict]) -> int | None:
    """How many levels the base gives, where its configs say so; a refining neck keeps their number."""
    counts = [one.get("num_outs", one.get("num_levels")) for one in configs]
    return next((count for count in reversed(counts) if isinstance(count, int)), None)


def _strides(configs: list[dict]) -> list[int] | None:
    """The strides of the base's levels, where they follow from its first config."""
    pyramid = configs[0]
    inputs, count = pyramid.get("in_channels"), pyramid.get("num_outs")
    known = _name(pyramid) in _PYRAMIDS and isinstance(count, int)
    if not known or not isinstance(inputs, (list, tuple)) or len(inputs) != len(_INPUT_STRIDES):
        return None
    first = _INPUT_STRIDES[pyramid.get("start_level", 0)]
    return [first << level for level in range(count)]


def _name(config: dict) -> str:
    """The class that a config names, by a string, with or without a scope, or by itself."""
    return getattr(config["type"], "__name__", str(config["type"])).rpartition(".")[2]


def _channels(base: nn.Module, configs: list[dict]) -> int:
    necks = list(base) if isinstance(base, nn.Sequential) else [base]
    for neck, config in zip(reversed(necks), reversed(configs)):
        channels = getattr(neck, "out_channels", config.get("out_channels"))
        if channels is None:  # a refining neck keeps the channels
            channels = getattr(neck, "in_channels", config.get("in_channels"))
        if channels is not None:
            break
    if isinstance(channels, bool) or not isinstance(channels, int):
        raise ValueError(
            "base: expected a neck with one number of out_channels for all levels, "
            f"{type(neck).__name__} has {channels}"
        )
    return channels
