"""Shapes of real detectors: the pyramid levels P2 and P5 of an FPN, and the sizes of losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

SIZES = ("smoke", "quick", "full")

PAD = 32  # detectors pad images to a multiple of the coarsest stride of P2..P5
LOW_STRIDE = 4  # P2
HIGH_STRIDE = 32  # P5


@dataclass(frozen=True)
class NeckShape:
    """Feature maps of a neck: ``p_low [N, C, H, W]`` and ``p_high [N, C, h, w]``."""

    name: str
    batch: int
    height: int
    width: int
    high_height: int
    high_width: int
    channels: int = 256
    hidden: int = 256
    gate_channels: int = 1

    @property
    def low(self) -> tuple[int, int, int, int]:
        """``[N, C, H, W]`` of ``p_low``."""
        return self.batch, self.channels, self.height, self.width

    @property
    def high(self) -> tuple[int, int, int, int]:
        """``[N, C, h, w]`` of ``p_high``."""
        return self.batch, self.channels, self.high_height, self.high_width

    @property
    def label(self) -> str:
        """For people: the data set, the batch and the level."""
        return f"{self.name}, N={self.batch}, P2 {self.height}x{self.width}"

    @property
    def block_label(self) -> str:
        """:attr:`label` with the sizes inside the block."""
        gate = f", gate {self.gate_channels}" if self.gate_channels != 1 else ""
        return f"{self.label}, hidden {self.hidden}{gate}"


def from_image(name: str, height: int, width: int, batch: int = 1) -> NeckShape:
    """The levels of an image of ``height`` x ``width`` pixels, padded as detectors pad it."""
    height, width = (-(-size // PAD) * PAD for size in (height, width))
    return NeckShape(
        name,
        batch,
        height // LOW_STRIDE,
        width // LOW_STRIDE,
        height // HIGH_STRIDE,
        width // HIGH_STRIDE,
    )


AITOD = from_image("AI-TOD 800x800", 800, 800)
VISDRONE = from_image("VisDrone 1333x800", 800, 1333)
DOTA = from_image("DOTA 1024x1024", 1024, 1024)
DATA_SETS = {"aitod": AITOD, "visdrone": VISDRONE, "dota": DOTA}
CALL = NeckShape("one call", 1, 8, 8, 2, 2, channels=8, hidden=8)
"""So small that a call's own cost is all of its time: Python, dispatch, autograd, launches."""
SMOKE = NeckShape("smoke", 1, 24, 20, 3, 5, channels=16, hidden=16)

# A two-stage head has some thousand elements, a dense head up to ten million.
LOSS_GOAL_SIZES = (2_048, 10_000_000)
LOSS_SIZES = {
    "smoke": (2_048, 4_096),
    "quick": (2_048, 65_536, 1_000_000, 10_000_000),
    "full": (2_048, 16_384, 131_072, 1_000_000, 10_000_000),
}


def neck_shapes(size: str, device: str) -> tuple[NeckShape, ...]:
    """The shapes that a run of ``size`` measures on ``device`` (``"cpu"`` or ``"cuda"``)."""
    if size == "smoke":
        return (SMOKE,)
    batches = (1, 2, 8) if device == "cuda" else (1, 2)
    goal_shapes = tuple(replace(AITOD, batch=batch) for batch in batches)
    if size == "quick":
        return (*(goal_shapes if device == "cuda" else goal_shapes[:1]), CALL)
    return (*goal_shapes, VISDRONE, DOTA, CALL)


def block_shapes(size: str, device: str) -> tuple[NeckShape, ...]:
    """:func:`neck_shapes`, and in a full run the smaller hidden size and a mask per channel."""
    shapes = neck_shapes(size, device)
    if size != "full":
        return shapes
    return (
        *shapes,
        replace(AITOD, hidden=64),
        replace(DOTA, hidden=64),
        replace(AITOD, gate_channels=AITOD.channels),
    )
