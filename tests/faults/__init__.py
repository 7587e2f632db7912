"""Single faults, by area: each is one change of one file, with the tests that should notice it."""

from __future__ import annotations

import importlib
from typing import NamedTuple

AREAS = (
    "arguments",
    "operators",
    "composition",
    "cpu",
    "cuda",
    "triton",
    "modules",
    "backends",
    "reference",
    "integration",
    "build",
    "benchmarks",
)


class Fault(NamedTuple):
    """``old``, which stands once in ``file``, becomes ``new``; ``tests`` are arguments of pytest."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    area: str = ""

    @property
    def change(self) -> str:
        """What is changed, on one line."""
        return " -> ".join(" ".join(text.split()) or "(nothing)" for text in (self.old, self.new))


def faults(areas: tuple[str, ...] = AREAS) -> list[Fault]:
    """The lists of some areas, in their order."""
    found = []
    for area in areas:
        listed = importlib.import_module(f"faults.{area}").FAULTS
        found += [Fault(*fault)._replace(area=area) for fault in listed]
    return found
