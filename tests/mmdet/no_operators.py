"""Pytest plugin (`-p no_operators`): mmcv without its compiled operators; a test that calls one is skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest


class _Operators(ModuleType):
    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: pytest.skip(f"mmcv.ops.{name} is not compiled")


_operators = _Operators("mmcv._ext")
_operators.__spec__ = ModuleSpec("mmcv._ext", None)
sys.modules["mmcv._ext"] = _operators
