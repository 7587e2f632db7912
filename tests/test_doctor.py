"""``efpn doctor``: what it reports, and the command that mends what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from efpn_kernels import __version__, _libraries, backends, env_report
from efpn_kernels._libraries import Library

MISSING = {
    "built": Library("cpu", "the extension was not built: no C++ compiler at installation"),
    "old_torch": Library("cpu", "needs torch >= 2.11, found 2.5.1"),
    "broken": Library("cpu", "_cpu.abi3.so did not load: undefined symbol: aoti_torch_empty"),
}


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
    report = env_report.report()
    for name in ("cpu", "cuda", "triton"):
        assert f"  {name:10} " in report
    for name in backends.BACKENDS:
        assert f"    {name:10} " in report
    assert env_report.cpu_capability() in report


def test_the_compiled_library_is_there_and_names_its_instructions() -> None:
    assert _libraries.CPU.problem is None
    assert env_report.cpu_capability() in ("portable", "avx2", "avx512")


@pytest.mark.parametrize("why", MISSING)
def test_a_missing_library_has_a_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    library = MISSING[why]
    monkeypatch.setattr(_libraries, "CPU", library)
    report = env_report.report()
    remedy = env_report.remedy(library)
    assert remedy is not None
    assert "pip install" in remedy
    assert library.problem in report
    assert f"to mend it: {remedy}" in report
    assert ("--upgrade 'torch>=2.11'" in remedy) == (why == "old_torch")


def test_nothing_to_mend_where_it_cannot_run() -> None:
    """A CPU-only torch needs no CUDA library and no Triton."""
    if torch.version.cuda is None and torch.version.hip is None:
        for name in ("cuda", "triton"):
            assert env_report.remedy(Library(name, f"torch {torch.__version__} is not one")) is None
    assert env_report.remedy(Library("cpu", None)) is None


def test_plain_pytorch_alone_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CPU", "CUDA", "TRITON"):
        monkeypatch.setattr(_libraries, name, Library(name.lower(), "not here"))
    assert env_report.main() == 1
    assert "Only plain PyTorch" in capsys.readouterr().err


@pytest.mark.parametrize("library", ["absent", "damaged"])
def test_the_package_works_without_its_library(tmp_path: Path, library: str) -> None:
    """A copy without the compiled files imports, explains itself and runs plain PyTorch."""
    package = tmp_path / "efpn_kernels"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(_libraries.PACKAGE, package, ignore=ignored)
    if library == "damaged":
        (package / "_cpu.abi3.so").write_bytes(b"not a library")
    result = run("doctor", cwd=tmp_path)
    expected = "the extension was not built" if library == "absent" else "did not load"
    assert expected in result.stdout
    assert "to mend it: " in result.stdout
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
