"""Which architectures the CUDA library is built for, by what was asked for and what nvcc knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stub_tools import Machine
from torch.utils import cpp_extension

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csrc"))

from toolchain import BuildError

import build_cuda
from efpn_kernels import _libraries


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_an_older_toolkit_loses_the_newest_architectures(machine: Machine, tmp_path: Path) -> None:
    """The rest is built, with the PTX of the last one for newer GPUs; the report says so."""
    machine.tool("g++")
    home = machine.nvcc("12.4", machine.folder / "cuda" / "bin").parent.parent
    machine.patch.setenv("CUDA_HOME", str(home))
    report = build_cuda.build_cuda(tmp_path / "_cuda.abi3.so")
    assert report["architectures"] == "8.0 8.6 8.9 9.0+PTX"
    assert report["left out"] == "10.0 12.0"
    assert report["cuda"] == "12.4"
    compiles = [call for call in machine.calls() if " -c " in call and "nvcc" in call]
    assert len(compiles) == len(list(build_cuda.SOURCES.glob("*.cu"))) + 1
    for call in compiles:
        assert "sm_90" in call and "code=compute_90" in call and "sm_100" not in call
        assert " -ccbin g++ " in call


def test_the_newest_toolkit_keeps_the_list(machine: Machine) -> None:
    nvcc = str(machine.nvcc("13.0"))
    assert build_cuda.architectures(nvcc) == ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")


def test_every_supported_gpu_runs_the_default_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 8.0 on, those that are newer than the list too, by its PTX; Tegra is built for by name."""
    built = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX")
    monkeypatch.setattr(_libraries, "CUDA_ARCHITECTURES", built)
    for capability in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1), (13, 0)):
        assert _libraries.architecture_problem(capability) is None, capability
    for capability in ((7, 5), (8, 7)):
        assert _libraries.architecture_problem(capability) is not None, capability


@pytest.mark.parametrize("wanted", ["9.0;12.0+PTX", "Hopper;Blackwell", "10.3f"])
def test_an_architecture_that_was_asked_for_is_not_left_out(machine: Machine, wanted: str) -> None:
    machine.patch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    with pytest.raises(
        BuildError, match=r"^TORCH_CUDA_ARCH_LIST: expected .*9\.0\), got 1[02]\."
    ) as caught:
        build_cuda.architectures(str(machine.nvcc("12.4")))
    assert "release 12.4" in str(caught.value)


def test_nvcc_without_a_compiler(machine: Machine, tmp_path: Path) -> None:
    machine.nvcc("13.0")
    with pytest.raises(BuildError, match=r"^nvcc: needs a C\+\+ compiler.*CXX"):
        build_cuda.build_cuda(tmp_path / "_cuda.abi3.so")


def test_linker_flags_survive_nvcc() -> None:
    assert build_cuda.linker_flags(["-Wl,-rpath,/opt/x", "-L/opt/y"]) == [
        *("-Xlinker", "-rpath", "-Xlinker", "/opt/x"),
        *("-Xcompiler", "-L/opt/y"),
    ]


def test_refuses_an_architecture_it_cannot_read() -> None:
    for name in ("Maxwell", "hopper", "Hopper+PTX", "90"):
        with pytest.raises(BuildError, match=r"TORCH_CUDA_ARCH_LIST: .*Hopper.* got '"):
            build_cuda.architecture_flags(build_cuda.numbered([name]))


def test_names_of_architectures_are_pytorchs(machine: Machine) -> None:
    for name, numbers in build_cuda.NAMED_ARCHITECTURES.items():
        machine.patch.setenv("TORCH_CUDA_ARCH_LIST", f"{name};9.0")
        ours = build_cuda.architecture_flags(build_cuda.numbered((*numbers, "9.0")))
        assert set(ours) == set(cpp_extension._get_cuda_arch_flags()), name


@pytest.mark.parametrize("listed", ["8.0;9.0+PTX", "8.0 9.0+PTX", "8.0, 9.0+PTX;"])
def test_architecture_list_of_the_environment(machine: Machine, listed: str) -> None:
    machine.patch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert build_cuda.architectures(str(machine.nvcc("13.0"))) == ("8.0", "9.0+PTX")
    assert build_cuda.architecture_flags(["8.0", "9.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
