"""The emulator's objects are named by what they are made of: nothing stale is linked, nothing made twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import toolchain

import build_cuda
from checking.emulator import build


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the sources that a stubbed compiler gets; the kernels are a copy that may be changed."""
    for name in ("cuda", "common"):
        shutil.copytree(build_cuda.SOURCES.parent / name, tmp_path / "csrc" / name)
    compiled: list[str] = []

    def run(command: list[str]) -> str:
        if "-c" in command and "--dryrun" not in command:
            compiled.append(Path(command[command.index("-c") + 1]).name)
        if "--dryrun" not in command:
            Path(command[command.index("-o") + 1]).write_text("")
        return 'INCLUDES="-I/cuda/include"'

    monkeypatch.setattr(build_cuda, "SOURCES", tmp_path / "csrc" / "cuda")
    monkeypatch.setattr(toolchain, "run", run)
    monkeypatch.setattr(build_cuda, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(toolchain, "find_compiler", lambda: ["c++"])
    return compiled


def test_what_has_not_changed_is_not_compiled_again(compiled: list[str], tmp_path: Path) -> None:
    build.build(tmp_path / "out")
    assert "cem_context_add.cu" in compiled and "emulate.cpp" in compiled
    compiled.clear()
    for path in (tmp_path / "csrc").rglob("*.cu*"):
        os.utime(path)  # as a checkout or a copy does
    build.build(tmp_path / "out")
    assert not compiled


def test_what_has_changed_is_compiled_though_its_time_is_old(
    compiled: list[str], tmp_path: Path
) -> None:
    build.build(tmp_path / "out")
    everything = sorted(compiled)
    for name, expected in (("dc_loss.cu", ["dc_loss.cu"]), ("map.cuh", everything)):
        compiled.clear()
        source = tmp_path / "csrc" / "cuda" / name
        source.write_text(source.read_text() + "\n// changed\n")
        os.utime(source, (1, 1))
        build.build(tmp_path / "out")
        assert sorted(compiled) == expected
    objects = list((tmp_path / "out").glob("*.o"))
    assert len(objects) == len(everything), "objects of former contents are gone"
