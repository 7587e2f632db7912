"""What the build makes of compilers, of nvcc and of the environment: stubs stand in for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from efpn_kernels import _stamp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))

import build_cpu  # noqa: E402
import build_cuda  # noqa: E402
import toolchain  # noqa: E402
from toolchain import BuildError  # noqa: E402

VARIABLES = (
    "CXX",
    "CXXFLAGS",
    "LDFLAGS",
    "MAX_JOBS",
    "CUDA_HOME",
    "CUDA_PATH",
    "TORCH_CUDA_ARCH_LIST",
)
# Writes its arguments to a log and whatever was asked for to the file after -o.
STUB = """#!/bin/sh
echo "$0 $*" >> {log}
case "$*" in *--version*) echo "{says}"; exit 0;; {more} esac
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo "{says}" > "$2"; shift; done
exit 0
"""
# What nvcc of CUDA 12.4 and of 13.0 answers to --list-gpu-arch.
KNOWN = {
    "12.4": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    "13.0": (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}


class Machine:
    """A path with nothing on it but the stubs that are asked for."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        (folder / "bin").mkdir()
        patch.setenv("PATH", str(folder / "bin"))
        patch.setenv("EFPN_KERNELS_OBJECTS", str(folder / "objects"))
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setattr(build_cuda, "USUAL_NVCC", str(folder / "none"))
        toolchain._version_of.cache_clear()

    def tool(self, name: str, says: str = "", more: str = "", path: Path | None = None) -> Path:
        path = (path or self.folder / "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB.format(log=self.folder / "log", says=says or name, more=more))
        path.chmod(0o755)
        return path

    def nvcc(self, release: str, path: Path | None = None) -> Path:
        listed = "\\n".join(f"compute_{number}" for number in KNOWN[release])
        more = f'*--list-gpu-arch*) printf "{listed}\\n"; exit 0;;'
        says = f"Cuda compilation tools, release {release}, V{release}.1"
        return self.tool("nvcc", says, more, path)

    def calls(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("LC_ALL", "C")
    machine = Machine(tmp_path, monkeypatch)
    for tool in ("sh", "echo", "printf"):
        if Path(f"/bin/{tool}").exists():
            (tmp_path / "bin" / tool).symlink_to(f"/bin/{tool}")
    return machine


@pytest.mark.parametrize(
    ("variable", "value", "function"),
    [
        ("CXX", "g++-99", toolchain.find_compiler),
        ("CXX", "g++ '-O2", toolchain.find_compiler),
        ("CXX", "none -m64", build_cuda.host_compiler),
        ("MAX_JOBS", "0", toolchain.jobs),
        ("MAX_JOBS", "-2", toolchain.jobs),
        ("MAX_JOBS", "many", toolchain.jobs),
        ("CUDA_HOME", "/no/such/cuda", build_cuda.find_nvcc),
        ("CUDA_PATH", "/tmp", build_cuda.find_nvcc),
        ("CXXFLAGS", '-DX="a', lambda: toolchain.words("CXXFLAGS")),
        ("LDFLAGS", "-Wl,'-z", lambda: toolchain.words("LDFLAGS")),
    ],
)
def test_a_wrong_variable_is_named(machine: Machine, variable, value, function) -> None:
    """With what it holds, and nothing else is taken in its place."""
    machine.tool("g++")
    machine.nvcc("13.0")
    machine.patch.setenv(variable, value)
    with pytest.raises(BuildError) as caught:
        function()
    assert str(caught.value).startswith(f"{variable}: expected ")
    assert repr(value) in str(caught.value)


def test_the_first_compiler_on_the_path(machine: Machine) -> None:
    assert toolchain.find_compiler() is None
    machine.tool("c++")
    machine.tool("clang++")
    assert toolchain.find_compiler() == ["clang++"]
    machine.tool("g++")
    machine.patch.setenv("CXX", "")
    assert toolchain.find_compiler() == ["g++"]


def test_a_compiler_with_arguments(machine: Machine) -> None:
    """ccache in front of it, flags behind it; nvcc gets the compiler alone."""
    machine.tool("ccache")
    machine.tool("g++-12")
    machine.patch.setenv("CXX", "ccache g++-12 -m64")
    assert toolchain.find_compiler() == ["ccache", "g++-12", "-m64"]
    assert build_cuda.host_compiler() == "g++-12"


def test_flags_reach_compiler_and_link(machine: Machine, tmp_path: Path) -> None:
    machine.tool("g++")
    machine.patch.setenv("CXX", "g++ -pipe")
    machine.patch.setenv("CXXFLAGS", "-fno-plt '-DNAME=a b'")
    machine.patch.setenv("LDFLAGS", "-Wl,-z,now")
    build_cpu.build_cpu(tmp_path / "out" / "_cpu.abi3.so")
    compiles = [call for call in machine.calls() if " -c " in call]
    (link,) = (call for call in machine.calls() if "-ltorch_cpu" in call)
    assert len(compiles) == len(list(build_cpu.SOURCES.glob("*.cpp"))) + 1
    for call in (*compiles, link):
        assert "g++ -pipe -std=c++17" in call
        assert "-fno-plt -DNAME=a b" in call
    assert link.index("-ltorch_cpu") < link.index("-Wl,-z,now")


def test_a_compiler_that_is_too_old(machine: Machine, tmp_path: Path) -> None:
    """One sentence with its own first error, before anything is built."""
    machine.tool("g++", more='*probe.cpp*) echo "probe.cpp:9: error: no such builtin"; exit 1;;')
    machine.patch.setenv("CXXFLAGS", "-Wrong")
    with pytest.raises(BuildError) as caught:
        build_cpu.build_cpu(tmp_path / "_cpu.abi3.so")
    (sentence,) = str(caught.value).splitlines()
    for fragment in ("`g++`", "CXXFLAGS='-Wrong'", "no such builtin", toolchain.TESTED_COMPILERS):
        assert fragment in sentence
    assert "EFPN_KERNELS_NO_EXTENSION=1" in sentence
    assert not [call for call in machine.calls() if "dc_loss.cpp" in call]


def test_the_compiler_at_hand_passes_the_probe() -> None:
    compiler = toolchain.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    toolchain.check_compiler(compiler)


def test_objects_are_kept_by_what_they_depend_on(machine: Machine, tmp_path: Path) -> None:
    machine.tool("g++", "version 1")
    source = tmp_path / "a.cpp"
    source.write_text("int a;")

    def compile_object(*flags: str) -> Path:
        torch_dir = toolchain.find_torch()
        return toolchain.compile_object(["g++", *flags], "1", source, torch_dir)[0]

    first = compile_object("-O2")
    assert compile_object("-O2") == first
    assert len([call for call in machine.calls() if " -c " in call]) == 1
    others = [compile_object("-O3")]
    source.write_text("int b;")
    others.append(compile_object("-O2"))
    assert len({first, *others}) == 3
    os.utime(first, (0, 0))
    toolchain.forget_old_objects()
    assert not first.exists()
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("version", ["2.5.1", "2.10.0+cu128"])
def test_an_old_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    place_torch(tmp_path, monkeypatch, version)
    with pytest.raises(
        BuildError, match=rf"^torch: expected 2\.11 or newer, found {re.escape(version)}"
    ):
        toolchain.find_torch()


@pytest.mark.parametrize("version", ["2.11.0+cu130", "3.0.0a0+git1234567", "main"])
def test_torch_is_found_where_pip_isolates_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """By the folder of packages; a build from source may call itself anything."""
    place_torch(tmp_path, monkeypatch, version)
    assert toolchain.find_torch() == tmp_path / "torch"


def test_no_torch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_torch(tmp_path, monkeypatch, None)
    with pytest.raises(BuildError, match=r"^torch: expected .*--no-build-isolation"):
        toolchain.find_torch()


def place_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    if version is not None:
        (folder / "torch").mkdir()
        (folder / "torch" / "version.py").write_text(f"__version__ = '{version}'\ndebug = False\n")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name, vars: str(folder))
    monkeypatch.setattr(toolchain.site, "ENABLE_USER_SITE", False)


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
    assert build_cuda.architectures(nvcc) == build_cuda.DEFAULT_ARCHITECTURES


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


def test_the_stamp_changes_with_schemas_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment in the contract leaves it, a schema does not."""
    shutil.copytree(_stamp.PACKAGE / "ops", tmp_path / "ops")
    contract = tmp_path / "ops" / "kernels.py"
    text = contract.read_text()
    ours = _stamp.schemas()
    monkeypatch.setattr(_stamp, "PACKAGE", tmp_path)

    def schemas(changed: str) -> str:
        contract.write_text(changed)
        return _stamp.schemas.__wrapped__()

    assert schemas(text) == ours
    assert schemas("# a comment\n" + text.replace("# ----", "# ====")) == ours
    assert schemas(text.replace("bool reduce", "bool reduced")) != ours
    assert schemas(text.replace('"relu_backward"', '"relu_bwd"')) != ours
    assert schemas(text.replace('"relu_backward"', "'relu_' 'backward'")) == ours
    (tmp_path / "ops" / "another.py").write_text('SCHEMA = f"(Tensor a{NAME}) -> Tensor"')
    assert schemas(text) != ours


def test_a_file_without_a_stamp(tmp_path: Path) -> None:
    for content in (b"", b"an older library"):
        (tmp_path / "library.so").write_bytes(content)
        assert _stamp.mismatch(_stamp.read(tmp_path / "library.so")) == "carries no version"


def test_the_installed_library_carries_no_builders_path() -> None:
    """And says what it was made for."""
    from efpn_kernels import _libraries

    path = _libraries.CPU.path
    assert path is not None
    assert _stamp.mismatch(_stamp.read(path)) is None
    content = path.read_bytes()
    assert b"csrc/cpu/tensor.h" in content
    for place in (ROOT, Path(torch.__file__).parent):
        assert str(place).encode() not in content


@pytest.mark.slow
def test_a_build_repeats_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: the same object from two clones, which share what they keep."""
    compiler = toolchain.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    torch_dir, made = toolchain.find_torch(), []
    for name in ("one", "another"):
        clone = tmp_path / name
        shutil.copytree(ROOT / "csrc", clone / "csrc")
        monkeypatch.setattr(toolchain, "ROOT", clone)
        monkeypatch.setenv("EFPN_KERNELS_OBJECTS", str(tmp_path / f"objects of {name}"))
        flags = [*build_cpu.FLAGS, *toolchain.without_paths(torch_dir), f"-I{torch_dir}/include"]
        source = clone / "csrc" / "cpu" / "capability.cpp"
        made.append(toolchain.compile_object([*compiler, *flags], "", source, torch_dir)[0])
    assert made[0].name == made[1].name
    assert made[0].read_bytes() == made[1].read_bytes()
    assert b"capability.cpp" in made[0].read_bytes()
    assert json.dumps(str(tmp_path)).strip('"').encode() not in made[0].read_bytes()
