"""The developers' tools run from end to end on a CPU with a stand-in for the GPU: what they leave is whole."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import efpn_kernels
from benchmarks.kernels import gpu_kernels, gpu_memcheck, gpu_side_stream, table
from benchmarks.tests.capture import stub
from checking import cases

pytestmark = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("efpn::low_gate", "CPU"),
    reason="the CPU library is not built",
)

ENVIRONMENT = {"device_type": "cuda", "device": "a stub", "commit": "abc", "torch": "2"}


class OnCpu(gpu_kernels.DeviceMaker):
    """Makes everything on the CPU."""

    def __init__(self, dtype: torch.dtype, channels_last: bool, device: str) -> None:
        super().__init__(dtype, channels_last, "cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of which the clocks, the streams and the graphs are stand-ins."""
    stub(monkeypatch)
    monkeypatch.setattr(table, "poisoned", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a stub")
    properties = SimpleNamespace(L2_cache_size=2**12)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    for module in (gpu_kernels, gpu_side_stream):
        monkeypatch.setattr(module, "describe", lambda device: ENVIRONMENT)
        monkeypatch.setattr(module, "DeviceMaker", OnCpu)
    monkeypatch.setattr(gpu_kernels, "copy_bandwidth", lambda: 1e12)
    monkeypatch.setattr(
        gpu_kernels, "kernel_of", lambda space, name: getattr(torch.ops.efpn, name).default
    )


def run(monkeypatch: pytest.MonkeyPatch, module: object, file: Path, *options: str) -> int:
    """The exit code of a tool."""
    monkeypatch.setattr(sys, "argv", ["tool", "--json", str(file), *options])
    try:
        module.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def small(N: int):
    yield from cases.map_cases([(N, 8, 4, 6)])


def test_the_kernels_table(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_kernels, "real_cases", small)
    file = tmp_path / "kernels.json"
    options = ("--namespaces", "efpn", "--batches", "1,2", "--kernels", "context_add,low_gate")
    assert run(monkeypatch, gpu_kernels, file, *options) == 0
    found = json.loads(file.read_text())
    assert found["environment"] == ENVIRONMENT
    assert {row["kernel"] for row in found["rows"]} == {"context_add", "low_gate"}
    assert len(found["rows"]) == 2 * 2 * 2  # kernels, batches, formats
    # The event says that a millisecond passed for the calls of a graph: one of each set of arguments.
    for row in found["rows"]:
        assert row["us"] == pytest.approx(1000 / gpu_kernels.rotations(row["bytes"]))

    # Whoever continues measures nothing twice.
    monkeypatch.setattr(gpu_kernels, "graph_microseconds", lambda calls: 1 / 0)
    assert run(monkeypatch, gpu_kernels, file, *options, "--continue") == 0
    assert json.loads(file.read_text())["rows"] == found["rows"]


def test_a_kernel_that_breaks_its_contract_is_named_and_not_timed(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    good = torch.ops.efpn.context_add.default

    class Wrong:
        _schema = good._schema

        def __call__(self, *args: object) -> torch.Tensor:
            return good(*args) * 1.001

    monkeypatch.setattr(gpu_kernels, "real_cases", small)
    monkeypatch.setattr(gpu_kernels, "kernel_of", lambda space, name: Wrong())
    monkeypatch.setattr(gpu_kernels, "graph_microseconds", lambda calls: 5.0)
    file = tmp_path / "kernels.json"
    options = ("--namespaces", "efpn", "--batches", "1,8", "--kernels", "context_add")
    assert run(monkeypatch, gpu_kernels, file, *options) == 1
    rows = json.loads(file.read_text())["rows"]
    # float32 at the size that is checked, and at the other one because of that.
    wrong = [row for row in rows if row["dtype"] == "float32"]
    assert len(wrong) == 2
    assert all("context_add" in row["error"] and "us" not in row for row in wrong)
    # A thousandth is within a rounding of bfloat16: nothing is wrong with those.
    assert all(row["us"] == 5.0 for row in rows if row["dtype"] == "bfloat16")


def test_memcheck_runs_every_kernel_and_the_operators(capsys: pytest.CaptureFixture) -> None:
    from checking.cases import NOT_NEEDED
    from efpn_kernels.ops.kernels import KERNELS

    assert gpu_memcheck.main(["--backends", "cpu"]) == 0
    said = capsys.readouterr().out
    for name in KERNELS:
        left_out = name in NOT_NEEDED["efpn", "cpu"]
        assert (f"cpu {name} " in said) != left_out
    assert "cpu EFPNBS 64 torch.bfloat16" in said


def test_memcheck_goes_on_after_a_broken_contract(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(name: str, *_: object) -> None:
        assert name != "low_gate", "low_gate: not what the contract says"

    monkeypatch.setattr(gpu_memcheck, "check_results", check)
    assert gpu_memcheck.main(["--backends", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "FAILED cpu low_gate" in said
    assert "cpu mask_merge_" in said


def test_the_side_stream(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"LOW": (12, 12), "HIGH": (3, 3), "C": 16}.items():
        monkeypatch.setattr(gpu_side_stream, name, value)
    file = tmp_path / "side.json"
    assert run(monkeypatch, gpu_side_stream, file, "--namespaces", "efpn") == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert "error" not in row
    assert {"convolution_us", "in_turn_us", "beside_us"} < row.keys()


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_convolutions(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.kernels import gpu_convolutions

    def cudnn_fused(x, weight, bias, *_):  # loses NaN, as its engines may
        return torch.nn.functional.conv2d(x, weight, bias, padding=1).nan_to_num(0).relu_()

    monkeypatch.setattr(gpu_convolutions, "describe", lambda device: ENVIRONMENT)
    monkeypatch.setattr(gpu_convolutions, "DeviceMaker", OnCpu)
    monkeypatch.setattr(gpu_convolutions, "LOW", (12, 12))
    monkeypatch.setattr(gpu_convolutions, "C", 64)
    monkeypatch.setattr(gpu_convolutions, "relu_cudnn", cudnn_fused)
    monkeypatch.setattr(gpu_convolutions, "available", lambda namespace: namespace == "efpn")
    file = tmp_path / "convolutions.json"
    assert run(monkeypatch, gpu_convolutions, file, "--batches", "1") == 0
    rows = {(r["group"], r["candidate"]): r for r in json.loads(file.read_text())["rows"]}
    for key in (("conv", "cudnn"), ("relu", "eager"), ("low_gate", "cudnn + efpn")):
        assert rows[key]["repeatable"] and rows[key]["keeps_nan"], key
        assert rows[key]["max_error"] < 0.1
    assert not rows["relu", "cudnn fused"]["keeps_nan"]
    assert "error" in rows["relu", "triton"], "there is no GPU for it, and the others went on"


def test_every_tool_says_how_it_is_used(capsys: pytest.CaptureFixture) -> None:
    """The README's table names modules that exist."""
    text = (Path(gpu_kernels.__file__).parent / "README.md").read_text()
    modules = [word for word in text.replace("`", " ").split() if word.startswith("benchmarks.k")]
    assert len(modules) >= 6
    for module in modules:
        assert find_spec(module), module
    assert efpn_kernels.__version__
