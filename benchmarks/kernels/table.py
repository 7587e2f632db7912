"""Rows in a JSON file, written one by one: what a process measured survives it, and another one goes on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..resume import DIED, LOST, Marker, poisoned

Row = dict[str, Any]


class Table:
    """The rows of one measurement, each with what identifies it.

    Args:
        path: of the JSON; None keeps nothing.
        environment: of this process, from :func:`benchmarks.environment.describe`.
        continues: whether to keep the rows that are there, from a process that lost the device or died.
    """

    def __init__(
        self, path: Path | None, environment: Mapping[str, Any], continues: bool = False
    ) -> None:
        self.path = path
        self.device = environment["device_type"]
        self.facts: dict[str, Any] = {"environment": dict(environment)}
        self.rows: list[Row] = []
        self.marker = Marker(path.with_suffix(".running") if path is not None else None)
        if continues and path is not None and path.exists():
            before = json.loads(path.read_text())
            for name in ("device", "commit", "torch"):
                if before["environment"][name] != environment[name]:
                    sys.exit(
                        f"--continue: expected {name} {before['environment'][name]!r} as in {path}, "
                        f"got {environment[name]!r}; name another file"
                    )
            self.rows = before.pop("rows")
            self.facts = before
            dead = self.marker.left_behind()
            if dead is not None:
                self.add(dead | {"error": DIED})
        else:
            self.marker.clear()

    def find(self, identity: Mapping[str, Any]) -> Row | None:
        """The row of an identity, if it has been measured."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in identity.items()):
                return row
        return None

    def measure(self, identity: Mapping[str, Any], call: Callable[[], Row]) -> Row:
        """The row of an identity: the one that is there, or what ``call`` finds, or its error.

        Leaves the process where the device is lost to it.
        """
        found = self.find(identity)
        if found is not None:
            return found
        self.marker.set(dict(identity))
        try:
            row = dict(identity) | call()
        except Exception as error:
            row = dict(identity) | {"error": f"{type(error).__name__}: {error}"[:600]}
        self.add(row)
        self.marker.clear()
        if "error" in row and poisoned(self.device):
            print(f"the device is lost to this process: {row}", flush=True)
            sys.exit(LOST)
        return row

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """An interrupted write leaves the previous file."""
        if self.path is not None:
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.facts | {"rows": self.rows}, indent=1) + "\n")
            os.replace(partial, self.path)
