"""The pictures of a report. Colours are Okabe and Ito's, told apart by colour-blind readers too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .environment import headline
from .records import (
    AUTOGRAD,
    COMPILE,
    COMPILE_MAX,
    COPY,
    EAGER,
    FLOOR,
    FORWARD,
    HEADLINE,
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    PICTURES,
    REDUCED,
    RIVALS,
    TRAINING,
    GroupKey,
    Row,
    by_group,
    ours_in,
    speedup_over,
)
from .shapes import CALL

COLOURS = {
    OURS: "#0072B2",
    REDUCED: "#332288",
    EAGER: "#8C8C8C",
    COMPILE: "#E69F00",
    COMPILE_MAX: "#D55E00",
    FLOOR: "#000000",
    COPY: "#009E73",
    OPENVINO: "#CC79A7",
    ONNX_RUNTIME: "#F0E442",
}
BASELINES = (EAGER, COMPILE, COMPILE_MAX, *RIVALS)
SECOND_BACKEND = "#56B4E9"
HATCHES = {"contiguous": "", "channels_last": "////"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": "#E0E0E0",
    "hatch.linewidth": 0.6,
    "figure.dpi": 130,
    "legend.frameon": False,
}
MAX_PANELS = 6
CAPTION_INCHES = 0.3


def draw(folder: Path, environment: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Write every picture that the rows have data for; returns the files' names."""
    caption = headline(environment)
    makers = (block_times, speedups, loss_throughput, kept_memory)
    written = []
    with plt.rc_context(STYLE):
        for name, picture in zip(PICTURES, makers, strict=True):
            (folder / name).unlink(missing_ok=True)
            figure = picture(rows)
            if figure is None:
                continue
            bottom = CAPTION_INCHES / figure.get_figheight()
            figure.get_layout_engine().set(rect=(0, bottom, 1, 1 - bottom))
            figure.text(0.01, 0.2 * bottom, caption, fontsize=6, color="#666666", wrap=True)
            figure.savefig(folder / name)
            plt.close(figure)
            written.append(name)
    return written


def block_times(rows: Sequence[Row]) -> plt.Figure | None:
    """Time of the block per candidate, the library floor as a line, one panel per group."""
    groups = [
        (key, members)
        for key, members in by_group(list(rows)).items()
        if key.operator == "EFPNBS" and _in_pictures(key)
    ][:MAX_PANELS]
    if not groups:
        return None
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(6.8 * columns, 3.4 * lines), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(groups) :]:
        panel.remove()
    for panel, (key, members) in zip(panels.flat, groups, strict=False):
        _time_bars(panel, key, members)
    return figure


def _time_bars(panel: Axes, key: GroupKey, rows: Sequence[Row]) -> None:
    bars = [row for row in rows if row.variant not in (FLOOR, COPY)]
    bars.sort(key=lambda row: (row.memory_format != "contiguous", row.variant != OURS, row.label))
    unit, factor = _unit(max(row.median_s for row in rows))
    gap = 0.6  # between the formats
    positions = [i + gap * (row.memory_format != "contiguous") for i, row in enumerate(bars)]
    for position, row in zip(positions, bars, strict=True):
        time = row.median_s * factor
        spread = [[time - row.q25_s * factor], [row.q75_s * factor - time]]
        panel.barh(position, time, 0.72, color=_colour(row), edgecolor="white",
                   hatch=HATCHES[row.memory_format],
                   xerr=spread, error_kw={"lw": 1, "ecolor": "#333333"})  # fmt: skip
        panel.annotate(f"{time:.3g}", (row.q75_s * factor, position), xytext=(4, 0),
                       textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    panel.set_yticks(positions, [row.label for row in bars])
    panel.invert_yaxis()
    for floor in (row for row in rows if row.variant == FLOOR):
        span = [p for p, row in zip(positions, bars, strict=True)
                if row.memory_format == floor.memory_format]  # fmt: skip
        if span:
            panel.plot([floor.median_s * factor] * 2, [min(span) - 0.45, max(span) + 0.45],
                       color=COLOURS[FLOOR], lw=1.6, ls=(0, (4, 2)), label=FLOOR)  # fmt: skip
    formats = dict.fromkeys(row.memory_format for row in bars)
    handles = [Patch(facecolor="#BBBBBB", edgecolor="white", hatch=HATCHES[name], label=name)
               for name in formats]  # fmt: skip
    handles += panel.get_legend_handles_labels()[0][:1]
    panel.legend(handles=handles, fontsize=7, loc="upper center", ncols=3,
                 bbox_to_anchor=(0.5, -0.16))  # fmt: skip
    panel.set_title(f"{key.direction}, {key.dtype}\n{key.shape}")
    panel.set_xlabel(f"time [{unit}]", loc="right")
    panel.set_xlim(0, 1.12 * max(row.q75_s for row in rows) * factor)
    panel.grid(axis="x")


def speedups(rows: Sequence[Row]) -> plt.Figure | None:
    """How many times faster ours is than each baseline, one line per group and format."""
    lines: list[tuple[str, dict[str, float]]] = []
    for key, members in by_group(list(rows)).items():
        if not _in_pictures(key):
            continue
        for memory_format in dict.fromkeys(row.memory_format for row in members):
            found = {
                row.variant: speedup_over(row, members)
                for row in members
                if row.memory_format == memory_format and row.variant in BASELINES
            }
            if ours_in(members, memory_format) and found:
                case = (key.operator, key.shape, key.dtype, key.direction, memory_format)
                lines.append((", ".join(case), found))
    if not lines:
        return None
    figure, panel = plt.subplots(figsize=(9, 1.2 + 0.26 * len(lines)), layout="constrained")
    for position, (_, found) in enumerate(lines):
        panel.plot([1, max(found.values())], [position] * 2, color="#D0D0D0", lw=1, zorder=1)
        for variant, value in found.items():
            panel.scatter(value, position, 34, color=COLOURS[variant], zorder=2, label=variant)
    panel.axvline(1, color="black", lw=1)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    panel.set_yticks(range(len(lines)), [label for label, _ in lines], fontsize=7)
    panel.set_ylim(len(lines) - 0.5, -0.5)
    panel.grid(axis="x")
    _headed(figure, "Speed-up of efpn_kernels (right of 1x: we are faster)")
    named = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    panel.legend(named.values(), named.keys(), ncols=2, loc="upper left", fontsize=8,
                 bbox_to_anchor=(0, -0.4 / figure.get_figheight()))  # fmt: skip
    return figure


def loss_throughput(rows: Sequence[Row]) -> plt.Figure | None:
    """DCLoss, forward and backward: elements per second against the number of elements."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        user_clock = row.clock in ("wall", "events")
        if row.operator != "DCLoss" or row.direction != TRAINING or not user_clock:
            continue
        if row.cache == "warm" and row.variant not in (COPY, AUTOGRAD):
            elements = int(row.shape.removesuffix(" elements").replace(" ", ""))
            label = f"{row.label}, {row.dtype}"
            series.setdefault((label, _colour(row)), []).append((elements, elements / row.median_s))
    if not series:
        return None
    figure, panel = plt.subplots(figsize=(7, 4.2), layout="constrained")
    styles = iter(("o-", "s--", "^:", "D-.") * len(series))
    for (label, colour), points in series.items():
        panel.plot(*zip(*sorted(points), strict=True), next(styles), color=colour, label=label)
    panel.set(xscale="log", yscale="log", xlabel="elements", ylabel="elements per second")
    panel.set_title("DCLoss forward + backward, warm, calls included")
    panel.grid(which="major")
    panel.legend(fontsize=8)
    return figure


def kept_memory(rows: Sequence[Row]) -> plt.Figure | None:
    """What a block keeps for backward: its own activations, and its inputs and outputs."""
    bars: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.shape.startswith(CALL.name):
            continue
        if row.operator == "EFPNBS" and row.saved_bytes and row.variant in (OURS, EAGER):
            bars.setdefault((f"{row.shape}\n{row.dtype}", row.label), row)
    if not bars:
        return None
    figure, panel = plt.subplots(figsize=(8, 1.3 + 0.34 * len(bars)), layout="constrained")
    labels = []
    for position, ((where, who), row) in enumerate(bars.items()):
        own, rest = row.saved_own_bytes / 2**20, (row.saved_bytes - row.saved_own_bytes) / 2**20
        panel.barh(position, own, 0.72, color=_colour(row))
        panel.barh(position, rest, 0.72, left=own, color=_colour(row), alpha=0.35)
        panel.annotate(f"{own:.3g} + {rest:.3g}", (own + rest, position), xytext=(4, 0),
                       textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        labels.append(f"{where}, {who}")
    panel.set_yticks(range(len(bars)), labels, fontsize=7)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.grid(axis="x")
    panel.set_xlabel("MiB")
    _headed(figure, "Kept for backward: own activations (solid), own inputs and outputs (pale)")
    return figure


def _in_pictures(key: GroupKey) -> bool:
    headline = key.direction in (FORWARD, TRAINING) and (key.clock, key.cache) in HEADLINE
    return headline and not key.shape.startswith(CALL.name)


def _headed(figure: plt.Figure, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")


def _colour(row: Row) -> str:
    return SECOND_BACKEND if row.ran_on == "triton" else COLOURS[row.variant]


def _unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
