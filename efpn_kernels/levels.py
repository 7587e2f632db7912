"""E-FPN-BS behind any pyramid that gives a list, a tuple or a dict of maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from .modules import EFPNBS

__all__ = ["EFPNBSLevel"]

Maps = TypeVar("Maps", bound="list[Tensor] | tuple[Tensor, ...] | Mapping[str, Tensor]")


class EFPNBSLevel(nn.Module):
    """Replaces one level of a pyramid by :class:`EFPNBS` of that level and a coarser one.

    It goes behind the pyramid: ``nn.Sequential(fpn, EFPNBSLevel(256))``. With the defaults it does what the paper
    does in a pyramid that begins at stride 4: P2 is replaced, guided by P5. One that begins at stride 8 needs
    ``high=2`` for P5.

    Args:
        channels: of the two levels, as FPNs give the same number to all; ``(high, low)`` where they differ.
        low: the level that is replaced: its index, in a dict too (in the dict's order), or its key in a dict.
        high: the level that guides it, in the same way.
        hidden_channels: see :class:`FBSM`.
        gate_channels: see :class:`FBSM`.
        use_cem: see :class:`EFPNBS`.
        use_fbsm: see :class:`EFPNBS`.

    Raises:
        TypeError: for a level that is neither an index nor a key.
        ValueError: for a negative index, where ``low`` is ``high``, and for other than one or two numbers of
            channels.
    """

    def __init__(
        self,
        channels: int | tuple[int, int],
        low: int | str = 0,
        high: int | str = 3,
        hidden_channels: int | None = None,
        gate_channels: int = 1,
        use_cem: bool = True,
        use_fbsm: bool = True,
    ) -> None:
        super().__init__()
        for name, level in (("low", low), ("high", high)):
            if isinstance(level, bool) or not isinstance(level, (int, str)):
                raise TypeError(f"{name}: expected an index or a key, got {level!r}")
            if isinstance(level, int) and level < 0:
                raise ValueError(f"{name}: expected an index from 0, got {level}")
        if low == high:
            raise ValueError(f"low, high: expected two levels, got {low!r} twice")
        self.low, self.high = low, high
        both = channels if isinstance(channels, (list, tuple)) else (channels, channels)
        if len(both) != 2:
            raise ValueError(f"channels: expected a number, or (high, low), got {channels!r}")
        high_channels, low_channels = both
        self.block = EFPNBS(
            high_channels, low_channels, hidden_channels, gate_channels, use_cem, use_fbsm
        )

    def forward(self, maps: Maps) -> Maps:
        """The maps in a new container of the same type, ``low`` replaced by a map of its shape and dtype.

        Args:
            maps: of each level ``[N, C, H, W]``; ``low`` and ``high`` of one dtype and device.

        Raises:
            TypeError: if ``maps`` is no list, tuple or dict.
            ValueError: if it lacks one of the levels.
        """
        if isinstance(maps, Mapping):
            keys = list(maps)
            low, high = _key("low", self.low, keys), _key("high", self.high, keys)
            out = maps.copy()
        elif isinstance(maps, (list, tuple)):
            keys = list(range(len(maps)))
            low, high = _key("low", self.low, keys), _key("high", self.high, keys)
            out = list(maps)
        else:
            raise TypeError(
                f"maps: expected a list, tuple or dict of maps, got {type(maps).__name__}"
            )
        out[low] = self.block(maps[low], maps[high])
        if isinstance(maps, tuple):
            return type(maps)(*out) if hasattr(maps, "_fields") else tuple(out)
        return out

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"low={self.low!r}, high={self.high!r}"


def _key(name: str, level: int | str, keys: list) -> int | str:
    """The key of ``level`` among ``keys``."""
    if level in keys:
        return level
    if isinstance(level, int) and level < len(keys):
        return keys[level]
    raise ValueError(f"{name}: expected one of the levels {keys}, got {level!r}")
