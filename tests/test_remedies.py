"""Every command that ``efpn doctor`` can print is run in the state that it is for, and helps."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from installation import Environment, copy_clone, stub_wheel

from efpn_kernels import _libraries, _stamp, doctor
from efpn_kernels._libraries import Cause, SharedLibrary

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csrc"))
import toolchain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(toolchain.find_compiler() is None, reason="no C++ compiler"),
]
ONLY_PYTORCH = "Only plain PyTorch runs here."


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """With torch, pip and setuptools, and nothing of this project."""
    environment = Environment(tmp_path)
    environment.install_setuptools()
    return environment


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    yield copy_clone(tmp_path / "a clone")


def doctor_says(environment: Environment, cwd: Path | None = None, **variables: str) -> str:
    return environment.shell("python -m efpn_kernels doctor", cwd, **variables).stdout


def fix(report: str, library: str) -> str:
    """The command for a library in a report."""
    section = report.split(f"\n  {library} ")[1].split("\n  tensors")[0]
    line = re.search(r"to fix it: (.*)", section)
    assert line is not None, report
    return line[1].split(", then run: ")[-1]


def follow(environment: Environment, report: str, library: str, cwd: Path | None = None) -> str:
    """Run what the report says, and ask again."""
    command = fix(report, library)
    again = environment.shell(f"{{ {command}; }} >&2 && python -m efpn_kernels doctor", cwd)
    assert again.returncode == 0, f"{command}\n{again.stdout}"
    return again.stdout


def is_loaded(report: str, library: str) -> bool:
    return re.search(rf"^  {library} +loaded$", report, re.MULTILINE) is not None


def test_sources_that_nobody_built(environment: Environment, clone: Path) -> None:
    report = doctor_says(environment, clone)
    assert f"{clone} holds sources, and nothing has been built in it" in report
    assert fix(report, "cpu") == "pip install --no-build-isolation -e ."
    assert is_loaded(follow(environment, report, "cpu", clone), "cpu")


def test_sources_that_hide_the_installed_package(environment: Environment, clone: Path) -> None:
    """The warning says it as well; away from the clone the installed package runs."""
    environment.install("--no-build-isolation", "--no-deps", "-q", ".", cwd=clone)
    assert is_loaded(doctor_says(environment), "cpu")
    used = environment.shell(
        "python -c 'import torch, efpn_kernels as e; x = torch.ones(1, 2, 3, 4); e.CEM(2, 2)(x, x)'",
        clone,
    )
    report = doctor_says(environment, clone)
    for said in (used.stdout, report):
        assert f"Python runs the sources in {clone}, which hide the package" in said
        assert str(environment.site / "efpn_kernels") in said
    assert fix(report, "cpu") == "pip install --no-build-isolation -e ."
    assert is_loaded(follow(environment, report, "cpu", clone), "cpu")


def test_installed_without_a_compiler(environment: Environment, clone: Path) -> None:
    """With the reason in warning, explain and doctor; quick; from the folder that it came from."""
    path = environment.folder / "tools"
    path.mkdir()
    for tool in ("sh", "bash"):
        (path / tool).symlink_to(f"/bin/{tool}")
    bare = {"PATH": f"{environment.bin}:{path}"}
    environment.install("--no-build-isolation", "--no-deps", "-q", ".", cwd=clone, **bare)
    used = environment.shell(
        "python -c 'import torch, efpn_kernels as e; x = torch.ones(1, 2, 3, 4); e.CEM(2, 2)(x, x);"
        "print(e.explain(x))'"
    )
    report = doctor_says(environment, **bare)
    reason = "no C++ compiler was found at installation (CXX, g++, clang++ or c++)"
    assert used.stdout.count(f"the cpu library was not built: {reason}") == 2
    assert f"the cpu library was not built: {reason}" in report
    assert ONLY_PYTORCH in report
    assert "to fix it: install a C++ compiler such as g++, then run: pip" in report
    assert is_loaded(follow(environment, report, "cpu"), "cpu")


def test_installed_with_the_libraries_switched_off(environment: Environment, clone: Path) -> None:
    switched_off = {"EFPN_KERNELS_NO_EXTENSION": "1"}
    environment.install("--no-build-isolation", "--no-deps", "-q", ".", cwd=clone, **switched_off)
    report = doctor_says(environment, **switched_off)
    assert "was not built: EFPN_KERNELS_NO_EXTENSION was set at installation" in report
    assert fix(report, "cpu").startswith("unset EFPN_KERNELS_NO_EXTENSION && pip install ")
    environment.variables |= switched_off
    assert is_loaded(follow(environment, report, "cpu"), "cpu")


def test_a_library_of_another_time(environment: Environment, clone: Path) -> None:
    """An editable installation keeps the file when the sources move on."""
    stamp = _stamp.source().encode()
    assert _libraries.CPU.path is not None
    content = _libraries.CPU.path.read_bytes()
    environment.install(
        "--no-build-isolation",
        "--no-deps",
        "-q",
        "-e",
        ".",
        cwd=clone,
        EFPN_KERNELS_NO_EXTENSION="1",
    )
    for changed, said in (
        (content.replace(b'{"version": "', b'{"version": "9'), "was built for version 9"),
        (content.replace(b'"schemas": "', b'"schemas": "x'), "was built for other schemas"),
        (stamp.replace(b"\\", b"").replace(b'";', b"\0"), "did not load: "),  # last: it is fixed
    ):
        (clone / "efpn_kernels" / "_cpu.abi3.so").write_bytes(changed)
        report = doctor_says(environment)
        assert f"_cpu.abi3.so {said}" in report
        assert ONLY_PYTORCH in report
        assert "'" + str(clone) + "'" in fix(report, "cpu")
    assert is_loaded(follow(environment, report, "cpu"), "cpu")


def test_a_wrong_variable(environment: Environment, clone: Path) -> None:
    environment.install("--no-build-isolation", "--no-deps", "-q", ".", cwd=clone)
    for library in ("/no/such/library.so", "/tmp", __file__):
        environment.variables["EFPN_KERNELS_CPU_LIBRARY"] = library
        report = doctor_says(environment)
        assert f"EFPN_KERNELS_CPU_LIBRARY: expected a cpu library, got {library}: it " in report
    assert is_loaded(follow(environment, report, "cpu"), "cpu")


def test_a_wrong_backend(environment: Environment, clone: Path) -> None:
    environment.variables["EFPN_KERNELS_BACKEND"] = "gpu"
    report = doctor_says(environment, clone)
    command = re.findall(r"to fix it: (unset .*)", report)
    assert len(command) == 1
    again = environment.shell(f"{command[0]} && python -m efpn_kernels doctor", clone)
    assert "Backends (choice: auto)" in again.stdout


def test_a_build_tool_that_is_missing(environment: Environment, clone: Path) -> None:
    """setuptools is installed first where there is none, or an old one."""
    for path in (*environment.site.glob("setuptools*"), *environment.site.glob("_distutils*")):
        shutil.rmtree(path)
    report = doctor_says(environment, clone)
    assert fix(report, "cpu").startswith("pip install 'setuptools>=77' && pip install ")
    assert is_loaded(follow(environment, report, "cpu", clone), "cpu")


def test_triton_is_the_one_that_torch_wants(environment: Environment, clone: Path) -> None:
    """Not the newest, which pip would then report as a conflict."""
    for version in ("3.6.0", "3.9.0"):
        stub_wheel(environment.wheels, "triton", version)
    (info,) = environment.site.glob("torch-*.dist-info")
    head, rest = (info / "METADATA").read_text().split("\n\n", 1)
    pin = 'Requires-Dist: triton==3.6.0; platform_system == "Linux"'
    (info / "METADATA").write_text(f"{head}\n{pin}\n\n{rest}")
    environment.variables["TRITON_INTERPRET"] = "1"  # lets Triton count on a CPU
    report = doctor_says(environment, clone)
    assert "Triton is not installed" in report
    assert fix(report, "triton") == "pip install 'triton==3.6.0'"
    assert environment.shell(fix(report, "triton")).returncode == 0
    broken = doctor_says(environment, clone)  # the stub is no Triton
    assert "Triton did not load: " in broken
    assert fix(broken, "triton") == "pip install --force-reinstall --no-deps 'triton==3.6.0'"
    done = environment.shell(f"{fix(broken, 'triton')} && pip check | grep -i triton")
    assert "Successfully installed triton-3.6.0" in done.stdout
    assert done.returncode == 1, done.stdout  # pip has nothing to say about it
    stub_wheel(environment.wheels, "triton", "3.2.0")
    environment.install("-q", "triton==3.2.0")
    old = doctor_says(environment, clone)
    assert "needs Triton >= 3.6, found 3.2.0" in old
    assert environment.shell(f"{fix(old, 'triton')} && pip list").stdout.count("3.6.0") > 0


def test_an_old_torch(environment: Environment) -> None:
    for version in ("2.5.1", "2.11.0"):
        stub_wheel(environment.wheels, "torch", version)
    shutil.rmtree(next(environment.site.glob("torch-*.dist-info")))
    (environment.site / "torch").unlink()
    environment.install("-q", "torch==2.5.1")
    way_out = doctor.remedy(SharedLibrary("cpu", "needs torch", cause=Cause.OLD_TORCH))
    assert way_out is not None
    done = environment.shell(way_out.command)
    assert "Successfully installed torch-2.11.0" in done.stdout


def test_the_command_line_without_torch(environment: Environment, clone: Path) -> None:
    """Help and version need none; the rest says what to run, which works."""
    shutil.rmtree(next(environment.site.glob("torch-*.dist-info")))
    (environment.site / "torch").unlink()
    stub_wheel(environment.wheels, "torch", "2.11.0")
    for option in ("--help", "--version"):
        done = environment.shell(f"python -m efpn_kernels {option}", clone)
        assert (done.returncode, "Traceback" in done.stdout) == (0, False), done.stdout
    for command in ("doctor", "train"):
        done = environment.shell(f"python -m efpn_kernels {command}", clone)
        assert (done.returncode, "Traceback" in done.stdout) == (1, False), done.stdout
        assert f"efpn {command}: needs " in done.stdout
    used = environment.shell("python -c 'from efpn_kernels import EFPNBS'", clone)
    assert "ImportError: efpn_kernels.EFPNBS: needs PyTorch" in used.stdout
    report = environment.shell("python -m efpn_kernels doctor", clone).stdout
    assert environment.shell(report.strip().split("run: ")[1]).returncode == 0


def test_every_cause_has_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a torch that the library is not for; a CUDA library of other CUDA is built anew."""
    for cause in Cause:
        found = doctor.remedy(SharedLibrary("cuda", "a problem", cause=cause))
        assert (found is None) == (cause in (Cause.NONE, Cause.NO_GPU_BUILD)), cause
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    other = doctor.remedy(SharedLibrary("cuda", "a problem", cause=Cause.OTHER_CUDA))
    stale = doctor.remedy(SharedLibrary("cuda", "a problem", cause=Cause.STALE))
    assert other is not None and stale is not None
    assert other.command == stale.command
    assert str(other.before).startswith("install a toolkit of CUDA 12 and set CUDA_HOME to it")
