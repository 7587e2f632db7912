"""What a call costs on a machine of this kind, where the clone holds a report of one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from . import _libraries

OPERATORS = {"cem": "CEM", "fbsm": "FBSM", "efpn_bs": "EFPNBS", "dc_loss": "DCLoss"}
FORWARD, TRAINING = "forward", "forward + backward"
NEAR = 2.0
"""A measured size speaks for those up to so many times larger or smaller."""


@dataclass(frozen=True)
class Call:
    """What is asked about: an operator of a first tensor."""

    operator: str
    device_type: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Pixels of all images, or elements of a loss."""
        counted = self.shape if self.operator == "dc_loss" else (*self.shape[:1], *self.shape[2:])
        return prod(counted)


def reports(root: Path | None = None) -> list[Path]:
    """The reports of the clone, those of its own machine first."""
    root = root or _libraries.source_tree()
    if root is None:
        return []
    own = sorted(root.glob("build/benchmarks-*/report.json"))
    return own + sorted(root.glob("benchmarks/results/*/report.json"))


def machine(device_type: str) -> tuple[str, ...]:
    """The kind of this machine, in the words of a report."""
    if device_type == "cuda":
        return (torch.cuda.get_device_name(0),)
    try:
        found = re.search(
            r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        found = None
    return (found[1] if found else "", torch.backends.cpu.get_cpu_capability())


def kind_of(environment: dict[str, Any]) -> tuple[str, ...]:
    """The kind of machine that a report is of; of none if its instructions were limited."""
    if environment["device_type"] == "cuda":
        return (environment["device"],)
    if environment.get("limits"):
        return ()
    return (environment["cpu"], environment["cpu_capability"])


@lru_cache
def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def report_for(device_type: str, root: Path | None = None) -> dict[str, Any] | None:
    """The first report of this kind of machine; None if there is none."""
    if device_type not in ("cpu", "cuda") or (
        device_type == "cuda" and not torch.cuda.is_available()
    ):
        return None
    for path in reports(root):
        report = _read(path)
        environment = report.get("environment", {})
        if environment.get("device_type") == device_type and kind_of(environment) == machine(
            device_type
        ):
            return report
    return None


def cost(call: Call, backend: str, root: Path | None = None) -> str | None:
    """The measured call that is nearest in size, in words; None if none is near, or of this kind of machine."""
    report = report_for(call.device_type, root)
    if report is None or not call.size:
        return None
    rows = [row for row in report["rows"] if _fits(row, call)]
    ours = [row for row in rows if row["ran_on"] == backend]
    sizes = {row["shape"]: max(_size(row["shape"]), 1) for row in ours}
    far = {shape: max(size / call.size, call.size / size) for shape, size in sizes.items()}
    nearest = min(far, key=far.__getitem__, default=None)
    if nearest is None or far[nearest] > NEAR:
        return None
    times = []
    for direction in (FORWARD, TRAINING):
        mine, eager = (
            [r["median_s"] for r in some if (r["shape"], r["direction"]) == (nearest, direction)]
            for some in (ours, [row for row in rows if row["variant"] == "eager"])
        )
        if mine:
            beside = f" (plain PyTorch {_duration(min(eager))})" if eager else ""
            times.append(f"{direction} {_duration(min(mine))}{beside}")
    environment = report["environment"]
    return f"{nearest}: {', '.join(times)}; {environment['threads']} threads, {environment['date'][:10]}"


def headlines(device_type: str, backend: str, root: Path | None = None) -> list[str]:
    """The costs of the block and of the loss, of the sizes that detectors have."""
    dtype = "float32" if device_type == "cpu" else "bfloat16"
    calls = (
        Call("efpn_bs", device_type, dtype, (1, 256, 200, 200)),
        Call("dc_loss", device_type, dtype, (2048,)),
    )
    found = [(OPERATORS[call.operator], cost(call, backend, root)) for call in calls]
    return [f"{name}, {text}" for name, text in found if text is not None]


def _fits(row: dict[str, Any], call: Call) -> bool:
    """Ordinary calls of the same operator and dtype on the same tensors in every call."""
    wanted = (OPERATORS[call.operator], call.dtype, "warm")
    return (row["operator"], row["dtype"], row["cache"]) == wanted and row["clock"] != "graph"


def _size(shape: str) -> int:
    """Of a report's ``"AI-TOD 800x800, N=1, P2 200x200, hidden 256"`` or ``"2 048 elements"``."""
    found = re.search(r"N=(\d+), P2 (\d+)x(\d+)", shape)
    if found is not None:
        return prod(map(int, found.groups()))
    return int(re.sub(r"\D", "", shape) or 0)


def _duration(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
