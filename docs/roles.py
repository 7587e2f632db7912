"""Docstrings name things as ``:class:`CEM` ``; on a page of Markdown that is code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Leaves the name and drops the role."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of every module, class and function that was read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
