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
from stub_tools import Machine

from efpn_kernels import _stamp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))

import toolchain  # noqa: E402
from toolchain import BuildError  # noqa: E402

import build_cpu  # noqa: E402
import build_cuda  # noqa: E402


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


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


# What lets a compiler change numbers, whoever spells it.
CHANGES_NUMBERS = re.compile(
    r"fast[-_]?math|Ofast|unsafe-math|associative-math|reciprocal-math|finite-math|no-signed-zeros"
    r"|rounding-math|cx-limited-range|ftz|prec-div|prec-sqrt|fmad|ffp-|mrecip|march|mtune|mcpu"
)


def test_no_flag_changes_numbers(machine: Machine, tmp_path: Path) -> None:
    """NaN stays, zeros keep their sign, sums their order; and a library runs on every processor."""
    machine.tool("g++")
    home = machine.nvcc("13.0", machine.folder / "cuda" / "bin").parent.parent
    machine.patch.setenv("CUDA_HOME", str(home))
    build_cpu.build_cpu(tmp_path / "_cpu.abi3.so")
    build_cuda.build_cuda(tmp_path / "_cuda.abi3.so")
    calls = [call for call in machine.calls() if " -c " in call or " -shared " in call]
    assert {Path(call.split()[0]).name for call in calls} == {"g++", "nvcc"}
    for call in calls:
        words = [word for word in call.split() if word.startswith("-")]
        assert not [word for word in words if CHANGES_NUMBERS.search(word)], call
    for flag in ("-ffast-math", "--use_fast_math", "-Ofast", "-fassociative-math", "-ftz=true"):
        assert CHANGES_NUMBERS.search(flag), flag


def test_what_the_libraries_are_compiled_with(machine: Machine, tmp_path: Path) -> None:
    """Optimised, for the stable ABI of the oldest torch, with nothing visible but what is meant to be."""
    machine.tool("g++")
    home = machine.nvcc("13.0", machine.folder / "cuda" / "bin").parent.parent
    machine.patch.setenv("CUDA_HOME", str(home))
    build_cpu.build_cpu(tmp_path / "_cpu.abi3.so")
    build_cuda.build_cuda(tmp_path / "_cuda.abi3.so")
    compiles = [call for call in machine.calls() if " -c " in call]
    assert compiles
    for call in compiles:
        words = call.replace(",", " ").split()
        for word in ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden"):
            assert word in words, call
        assert "-DTORCH_TARGET_VERSION=0x020b000000000000" in words
    ours = [call for call in machine.calls() if "libtorch_cuda.so" in call and "-o" in call]
    assert any("--no-as-needed" in call and "-cudart static" in call for call in ours)


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
