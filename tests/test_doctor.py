"""``efpn doctor``: what it reports. ``test_remedies.py`` runs the commands that it prints."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from efpn_kernels import __version__, _libraries, _stamp, backends, doctor
from efpn_kernels._libraries import Cause, SharedLibrary


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "efpn_kernels", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_command() -> None:
    result = run("doctor")
    assert result.returncode == 0, result.stderr
    for fragment in (__version__, torch.__version__, "Libraries", "Backends", "reference"):
        assert fragment in result.stdout


def test_a_command_that_does_not_exist_and_none_at_all() -> None:
    assert run().returncode == 2
    assert "doctor" in run("--help").stdout


def test_version_and_help() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.split()) == (0, ["efpn_kernels", __version__])
    citation = Path(__file__).resolve().parents[1] / "CITATION.cff"
    assert f"\nversion: {__version__}\n" in citation.read_text()
    result = run("doctor", "--help")
    assert (result.returncode, "Libraries" in result.stdout) == (0, False)
    assert "usage: efpn doctor" in result.stdout


@pytest.mark.parametrize("arguments", [("doctor", "--verbose"), ("doctor", "now"), ("repair",)])
def test_unknown_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert arguments[-1] in result.stderr
    assert "Traceback" not in result.stderr


def test_report_names_every_library_and_backend() -> None:
    report = doctor.report()
    for name in ("cpu", "cuda", "triton"):
        assert f"  {name:10} " in report
    for name in backends.BACKENDS:
        assert f"    {name:10} " in report
    assert doctor.cpu_capability() in report


def test_the_compiled_library_is_there_and_names_its_instructions() -> None:
    assert _libraries.CPU.problem is None
    assert doctor.cpu_capability() in backends.CPU_CAPABILITIES


@pytest.mark.skipif(
    platform.machine() != "x86_64" or "EFPN_KERNELS_CPU_CAPABILITY" in os.environ,
    reason="x86-64 without a lesser instruction set",
)
def test_the_instruction_set_is_what_the_system_says() -> None:
    """The library asks the processor; Linux lists what it and the processor can."""
    listed = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert listed is not None
    flags = set(listed[1].split())
    expected = "avx2" if {"avx2", "fma", "f16c"} <= flags else "portable"
    if expected == "avx2" and {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        expected = "avx512_bf16" if "avx512_bf16" in flags else "avx512"
        expected = "amx" if {"amx_bf16", "amx_tile"} <= flags else expected
    assert doctor.cpu_capability() == expected


@pytest.mark.parametrize("cause", [Cause.NOT_BUILT, Cause.OLD_TORCH, Cause.STALE])
def test_a_missing_library_has_a_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, cause: Cause
) -> None:
    library = SharedLibrary("cpu", "the reason of a test", cause=cause)
    monkeypatch.setattr(_libraries, "CPU", library)
    report = doctor.report()
    assert "  cpu        the reason of a test\n" in report
    assert f"to fix it: {doctor.remedy(library)}" in report


def test_nothing_to_fix_where_it_cannot_run() -> None:
    """A CPU-only torch needs no CUDA library and no Triton."""
    if torch.version.cuda is None and torch.version.hip is None:
        for library in (_libraries.CUDA, _libraries.TRITON):
            if not library.loaded:
                assert (library.cause, doctor.remedy(library)) == (Cause.NO_GPU_BUILD, None)
    assert doctor.remedy(SharedLibrary("cpu", None)) is None


def test_the_report_says_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        "cpu": {"built": True, "compiler": "g++ 11.3"},
        "cuda": {"built": True, "architectures": "8.0 9.0+PTX", "left out": "10.0 12.0"},
    }
    monkeypatch.setattr(_libraries, "build_record", lambda name: records.get(name, {}))
    report = doctor.report()
    for fragment in ("compiler g++ 11.3", "architectures 8.0 9.0+PTX", "left out 10.0 12.0"):
        assert fragment in report


@pytest.mark.parametrize(
    ("built", "torch_cuda", "refused"),
    [
        ("13.0", "12.8", True),
        ("12.4", "13.0", True),
        ("13.0", "13.1", False),
        ("12.8", "12.6", False),
    ],
)
def test_a_cuda_library_of_another_cuda_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: str, torch_cuda: str, refused: bool
) -> None:
    """The driver that a torch for CUDA 12 needs may be too old for CUDA 13."""
    path = tmp_path / "_cuda.abi3.so"
    stamp = _stamp.source(cuda=built, architectures="9.0").encode()
    path.write_bytes(stamp.replace(b"\\", b"").replace(b'";', b"\0"))
    monkeypatch.setattr(_libraries, "PACKAGE", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    library = _libraries._load_cuda()
    if refused:
        assert library.cause is Cause.OTHER_CUDA
        assert (
            f"built with CUDA {built}, but torch {torch.__version__} is a build for CUDA "
            in str(library.problem)
        )
    else:  # it is no library, which is found out next
        assert library.cause is Cause.DAMAGED


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        ("8.0", (8, 6), True),
        ("8.6", (8, 0), False),
        ("8.0", (8, 7), False),  # Tegra
        ("8.7", (8, 7), True),
        ("10.0", (10, 3), True),
        ("12.0", (12, 1), True),
        ("10.0", (12, 0), False),
        ("9.0", (10, 0), False),
        ("9.0+PTX", (12, 1), True),
        ("8.0+PTX 9.0", (8, 9), True),
        ("12.0+PTX", (10, 3), False),
        ("9.0a", (9, 0), True),
        ("10.0a", (10, 3), False),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("10.0f+PTX", (12, 0), False),
    ],
)
def test_which_gpus_run_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch, built: str, capability: tuple[int, int], runs: bool
) -> None:
    monkeypatch.setattr(_libraries, "CUDA_ARCHITECTURES", tuple(built.split()))
    problem = _libraries.architecture_problem(capability)
    assert (problem is None) == runs
    if problem is not None:
        assert built.replace(" ", ", ") in problem
        assert f"this GPU is {capability[0]}.{capability[1]}" in problem


@pytest.mark.parametrize("version", ["main", "2.11.0", "3.0.0a0+git12"])
def test_versions_of_torch_that_are_new_enough(version: str) -> None:
    assert not _libraries._older(version, _libraries.MINIMUM_TORCH)
    assert _libraries._older("2.10.1", _libraries.MINIMUM_TORCH)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ('triton==3.6.0; platform_system == "Linux"', "triton==3.6.0"),
        ("triton-rocm==3.7.0 ; sys_platform == 'linux'", "triton-rocm==3.7.0"),
        ("pytorch-triton (==3.8.0+git1)", "pytorch-triton==3.8.0+git1"),
        ("numpy", "triton>=3.6"),
    ],
)
def test_the_triton_of_a_torch(
    monkeypatch: pytest.MonkeyPatch, requirement: str, expected: str
) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["sympy", requirement])
    assert doctor._triton_for_torch() == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "file:///", "dir_info": {}}, "/"),
        ({"url": "file:///no/such/folder", "dir_info": {}}, None),
        (
            {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "git+https://example.org/x.git@abc",
        ),
    ],
)
def test_where_it_was_installed_from(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object], expected: str | None
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            return json.dumps(origin)

    monkeypatch.setattr(doctor.metadata, "distribution", lambda name: Installed())
    assert doctor._origin() == expected


def test_plain_pytorch_alone_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CPU", "CUDA", "TRITON"):
        monkeypatch.setattr(_libraries, name, SharedLibrary(name.lower(), "not here"))
    assert doctor.main() == 1
    assert "Only plain PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["absent", "damaged"])
def test_the_package_works_without_its_library(tmp_path: Path, library: str) -> None:
    """A copy without the compiled files imports, explains itself and runs plain PyTorch."""
    package = tmp_path / "efpn_kernels"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(_libraries.PACKAGE, package, ignore=ignored)
    (package / "_build.json").unlink(missing_ok=True)
    if library == "damaged":
        (package / "_cpu.abi3.so").write_bytes(b"not a library")
    result = run("doctor", cwd=tmp_path)
    expected = "the cpu library was not built" if library == "absent" else "carries no version"
    assert expected in result.stdout
    assert "to fix it: " in result.stdout
    code = (
        "import torch, efpn_kernels as e; x = torch.ones(1, 2, 3, 4); print(e.__file__);"
        "print(e.explain(x).backend, e.CEM(2, 2)(x, x).shape)"
    )
    used = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert used.returncode == 0, used.stderr
    assert str(tmp_path) in used.stdout
    assert "reference torch.Size([1, 2, 3, 4])" in used.stdout
    assert "runs plain PyTorch" in used.stderr


@pytest.mark.parametrize("source", ["raise RuntimeError('no driver')", "__version__ = 'unknown'"])
def test_a_triton_that_fails_is_a_reason(tmp_path: Path, source: str) -> None:
    """Whatever it raises when imported: the package imports, and the report says it."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(source)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import efpn_kernels.cli as c; c.main(['doctor'])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "Triton did not load: " in result.stdout
