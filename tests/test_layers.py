"""The layers of the package: imports run one way, and importing changes nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import efpn_kernels
from efpn_kernels import checks, functional, reference
from efpn_kernels.ops import efpn_bs

PACKAGE = Path(efpn_kernels.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What each layer may import from the package; a layer is a module, or a folder with all in it.
ALLOWED: dict[str, set[str]] = {
    "reference": set(),
    "version": set(),
    "composition": {"checks", "ops"},
    "triton": {"composition", "ops"},
    "ops": set(),
    "_stamp": set(),
    "_libraries": {"_stamp", "ops", "triton"},
    "measured": {"_libraries"},
    "selftest": {"backends", "modules", "reference"},
    "_switch": set(),
    "backends": {"_libraries", "_switch", "checks", "measured", "ops"},
    "precision": {"_switch"},
    "checks": {"reference"},
    "functional": {"backends", "checks", "ops", "precision", "reference"},
    "plain": set(),
    "graphed": {"backends"},
    "modules": {"backends", "checks", "functional", "plain", "reference"},
    "levels": {"modules"},
    "doctor": {"_libraries", "backends", "measured", "selftest", "version"},
    "cli": {"doctor", "version"},
    "__main__": {"cli"},
    "__init__": {
        "backends",
        "functional",
        "graphed",
        "levels",
        "modules",
        "precision",
        "reference",
        "version",
    },
}
FOREIGN = {
    "reference": {"torch"},
    "ops": {"torch"},
    "triton": {"torch", "triton"},
}


# What nothing in a folder may import: the roots of the others' modules.
ROOT = Path(__file__).resolve().parents[1]
TESTS = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests"}
OUTSIDE = {"benchmarks", "integration"} | TESTS
SEPARATE: dict[str, set[str]] = {
    "tests": {"benchmarks"},
    "benchmarks": TESTS - {"conftest"},
    "csrc": OUTSIDE,
    "integration": (OUTSIDE | {"checking"}) - {"integration"},
}


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, inside of functions too."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parts[: -node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def relative(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_run_one_way(file: Path) -> None:
    layer = layer_of(file)
    assert layer in ALLOWED, f"{layer}: a new layer; say here what it may import"
    for name in imports(file):
        if name.startswith("efpn_kernels."):
            other = name.split(".")[1]
            if other != layer and other in ALLOWED:
                assert other in ALLOWED[layer], f"{layer} must not import {other}"


@pytest.mark.parametrize("folder", SEPARATE)
def test_tests_and_benchmarks_share_only_what_checks_the_kernels(folder: str) -> None:
    """Neither imports the other, and what both import knows of neither: there is no circle."""
    found = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(file)
        if name.split(".")[0] in SEPARATE[folder]
    ]
    assert not found


def test_users_benchmarks_do_not_need_the_developers_tools() -> None:
    """``benchmarks/kernels`` builds on ``benchmarks``, and not the other way."""
    kernels, tests = (ROOT / "benchmarks" / name for name in ("kernels", "tests"))
    found = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "benchmarks").rglob("*.py"))
        if not {kernels, tests} & set(file.parents)
        for name in imports(file)
        if name.startswith(("benchmarks.kernels", "benchmarks.tests", "checking"))
    ]
    assert not found


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_what_a_layer_imports_from_outside(file: Path) -> None:
    layer = layer_of(file)
    for name in imports(file):
        root = name.split(".")[0]
        assert root not in {"mmdet", "mmcv", "mmengine", "tests", "benchmarks", "checking"}
        # The command line hands its detector commands over, without needing them.
        assert root != "efpn_mmdet" or layer == "cli"
        if layer in FOREIGN and root != "efpn_kernels" and root not in sys.stdlib_module_names:
            assert root in FOREIGN[layer], f"{layer} must not import {root}"


@pytest.mark.parametrize(
    "file", [f for f in FILES if layer_of(f) in ("ops", "modules", "functional")], ids=relative
)
def test_only_the_choice_of_backends_reads_the_environment(file: Path) -> None:
    assert "environ" not in file.read_text()
    assert "getenv" not in file.read_text()


def test_importing_patches_nothing_and_needs_no_mmdet() -> None:
    code = """
import sys, torch
from torch import nn
watched = (torch, torch.Tensor, nn, nn.Module, nn.Conv2d, nn.functional)
before = [dict(vars(o)) for o in watched]
defaults = torch.get_num_threads(), torch.get_default_dtype(), torch.initial_seed()
import efpn_kernels
for o, old in zip(watched, before):
    new = vars(o)
    changed = [k for k in old if k in new and new[k] is not old[k]]
    assert not changed, (o, changed)
assert defaults == (torch.get_num_threads(), torch.get_default_dtype(), torch.initial_seed())
mm = [m for m in sys.modules if m.split(".")[0] in ("mmdet", "mmcv", "mmengine", "efpn_mmdet")]
assert not mm, mm
block = efpn_kernels.reference.EFPNBS(2, 2)
assert type(block).__module__.startswith("efpn_kernels.reference")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_public_names() -> None:
    for name in efpn_kernels.__all__:
        assert hasattr(efpn_kernels, name), name
    modules = {"CEM", "FBSM", "EFPNBS", "EFPNBSLevel", "DCLoss"}
    assert modules | {"patch", "use_backend", "explain", "graphed"} <= set(efpn_kernels.__all__)
    assert set(efpn_kernels.functional.__all__) == {"cem", "fbsm", "efpn_bs", "dc_loss"}


def test_the_parameters_of_fbsm_have_one_order() -> None:
    """``ops`` must not import the reference, so the names stand in more than one place."""
    expected = efpn_bs.PARAMETERS[2:]
    for function in (reference.fbsm, functional.fbsm):
        assert tuple(inspect.signature(function).parameters)[2:] == expected, function
    for function in (reference.efpn_bs, functional.efpn_bs, checks.block):
        names = tuple(inspect.signature(function).parameters)
        assert names[2 : 2 + len(efpn_bs.PARAMETERS)] == efpn_bs.PARAMETERS, function
    assert tuple(inspect.signature(reference.fbsm_mask).parameters)[2:] == expected[:-2]
