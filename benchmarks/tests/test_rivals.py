"""The engines of others take part where they are asked for, with our threads and our inputs, checked as all are."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import bench_cem, bench_dc_loss, bench_efpn_bs, bench_fbsm, plots, report, rivals
from benchmarks.baselines import Entrant, build, entrants
from benchmarks.goals import goals_of
from benchmarks.plan import Options
from benchmarks.readme_table import Headline, table_line
from benchmarks.records import (
    COMPILE,
    EAGER,
    FORWARD,
    ONNX_RUNTIME,
    OPENVINO,
    OURS,
    RIVALS,
    TRAINING,
)
from benchmarks.tests.planted import changed, group, measure, workload
from benchmarks.tests.rows import row
from benchmarks.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
BENCHES = (bench_cem, bench_dc_loss, bench_efpn_bs, bench_fbsm)
REAL = pytest.mark.skipif(
    not rivals.installed(), reason=f"not installed: {', '.join(rivals.missing(OPENVINO))}"
)


class Stub(rivals.Engine):
    """An engine that is the reference module itself."""

    def start(self, model: bytes) -> None:
        assert model == b"a model"

    def run(self, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        with torch.no_grad():
            out.copy_(self.workload.master(*inputs))


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "exported", lambda workload: b"a model")
    for name in RIVALS:
        monkeypatch.setitem(rivals.ENGINES, name, Stub)


@pytest.mark.usefixtures("stubs")
def test_rivals_are_rows_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, omissions = measure(monkeypatch, {}, variants=(EAGER, *RIVALS))
    assert not omissions
    assert rows.keys() == {EAGER, OURS, *RIVALS}
    lines = report.group_table(list(rows.values())).splitlines()
    for name in RIVALS:
        (line,) = [line for line in lines if line.startswith(f"| {name} ")]
        assert f"{rows[name].median_s / rows[OURS].median_s:.2f}x" in line
        assert rows[name].error == rows[EAGER].error
        assert rows[name].peak_bytes is rows[name].saved_bytes is None, "PyTorch cannot know"


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("change", [lambda x: x * 1.001, lambda x: x + torch.nan, torch.zeros_like])
def test_a_wrong_rival_is_named_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]
) -> None:
    rows, omissions = measure(
        monkeypatch, {OPENVINO: changed(change)}, variants=(EAGER, *RIVALS)
    )  # fmt: skip
    assert rows.keys() == {EAGER, OURS, ONNX_RUNTIME}
    assert "exceeds" in omissions[OPENVINO].reason


def test_a_rival_that_does_not_run_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_export(workload: Workload) -> bytes:
        raise RuntimeError("the exporter has changed")

    monkeypatch.setattr(rivals, "exported", no_export)
    rows, omissions = measure(monkeypatch, {}, variants=(EAGER, *RIVALS))
    assert rows.keys() == {EAGER, OURS}
    assert {omissions[name].reason for name in RIVALS} == {"RuntimeError: the exporter has changed"}


@pytest.mark.usefixtures("stubs")
def test_spinning_threads_of_a_rival_do_not_run_into_other_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    monkeypatch.setattr(rivals.time, "sleep", lambda _: order.append("waits"))
    names = (OURS, EAGER, OPENVINO)
    noting = {name: changed(lambda x, name=name: (order.append(name), x)[1]) for name in names}
    rows, _ = measure(monkeypatch, noting, variants=(EAGER, OPENVINO))
    sampled = order[
        -rows[OPENVINO].rounds * (2 + sum(rows[name].calls_per_round for name in names)) :
    ]
    turns = [name for i, name in enumerate(sampled) if i == 0 or sampled[i - 1] != name]
    assert turns == [EAGER, OURS, "waits", OPENVINO, "waits"] * rows[OPENVINO].rounds


# ---- who takes part -----------------------------------------------------------------------------------


def options(size: str = "full", **changes: object) -> Options:
    settings = dict(
        size=size,
        device="cpu",
        backends=("auto",),
        dtypes=(torch.float32,),
        formats=("contiguous", "channels_last"),
        compiled="auto",
        rivals=RIVALS,
    )
    return Options(**settings | changes)


@pytest.mark.parametrize("size", ["quick", "full"])
def test_rivals_run_every_forward_pass_of_a_network_in_one_format(size: str) -> None:
    for bench in BENCHES:
        for one in bench.plan(options(size)):
            found = [who for who in entrants(one, ("auto",)) if who.variant in RIVALS]
            takes_part = bench is not bench_dc_loss and one.direction == FORWARD
            assert found == [Entrant(name, "contiguous") for name in RIVALS if takes_part]


@pytest.mark.parametrize(
    "change",
    [
        {"rivals": ()},
        {"dtypes": (torch.bfloat16,)},
        {"formats": ("channels_last",)},
    ],
    ids=str,
)
def test_rivals_take_part_in_nothing_else(change: dict[str, object]) -> None:
    for bench in BENCHES:
        for one in bench.plan(options("quick", **change)):
            assert not {who.variant for who in entrants(one, ("auto",))} & {*RIVALS}


def test_torch_compile_takes_part_in_every_direction_of_a_full_run() -> None:
    for bench in BENCHES:
        for one in bench.plan(options()):
            assert COMPILE in one.variants, str(one.key)
    for bench in (bench_cem, bench_efpn_bs):
        for one in bench.plan(options("quick")):
            assert COMPILE in one.variants, str(one.key)


# ---- threads --------------------------------------------------------------------------------------------


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    present = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(present)


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_engines_are_told_the_threads_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """On stand-ins for both packages, which note what they are asked for."""
    asked: dict[str, object] = {}

    class Core:
        def read_model(self, model: bytes) -> bytes:
            return model

        def compile_model(self, model: bytes, device: str, settings: dict) -> SimpleNamespace:
            asked.update(settings)
            return SimpleNamespace(get_property=settings.get, create_infer_request=lambda: None)

    class Session:
        def __init__(self, model: bytes, options: SimpleNamespace, providers: list[str]) -> None:
            asked["ort"] = options.intra_op_num_threads, options.inter_op_num_threads
            asked["providers"] = providers

        def io_binding(self) -> None:
            pass

    openvino, onnxruntime = ModuleType("openvino"), ModuleType("onnxruntime")
    openvino.Core, onnxruntime.InferenceSession = Core, Session
    onnxruntime.SessionOptions = SimpleNamespace
    monkeypatch.setitem(sys.modules, "openvino", openvino)
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)
    for engine in (rivals.OpenVINO, rivals.OnnxRuntime):
        engine(workload()).start(b"")
    assert asked["INFERENCE_NUM_THREADS"] == threads
    assert asked["NUM_STREAMS"] == 1
    assert asked["INFERENCE_PRECISION_HINT"] == "f32"
    assert asked["ort"] == (threads, 1)
    assert asked["providers"] == ["CPUExecutionProvider"]


# ---- the real ones, where they are installed ------------------------------------------------------------


@REAL
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "threads", [1], indirect=True
)  # OpenVINO takes no more than there are cores
@pytest.mark.parametrize("operator", ["CEM", "EFPNBS"])
def test_real_engines_run_the_block(operator: str, threads: int) -> None:
    one = group(operator=operator, input_shapes=((2, 4, 12, 10), (2, 4, 3, 2)))
    inputs = tuple(x.detach() for x in one.workload.inputs("cpu", "contiguous"))
    others = tuple(x + 1 for x in inputs)
    truth = copy.deepcopy(one.workload.master).double()
    expected = [truth(*(x.double() for x in some)).float() for some in (inputs, others)]
    for variant in rivals.installed():
        engine = build(Entrant(variant, "contiguous"), one, "cpu", 1).module
        found = [engine(*some) for some in (inputs, others)]  # the second over the first's memory?
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert threads in (
            engine.settings.get("INFERENCE_NUM_THREADS"),
            engine.settings.get("intra_op_num_threads"),
        )


@REAL
@pytest.mark.filterwarnings("ignore")
def test_real_engines_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, omissions = measure(monkeypatch, {}, variants=(EAGER, *rivals.installed()))
    assert not omissions
    assert all(rows[name].error < 1e-6 for name in rivals.installed())


# ---- installed or not -----------------------------------------------------------------------------------


def test_a_rival_that_is_not_installed_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"onnx", "onnxscript", "openvino"}
    monkeypatch.setattr(rivals, "find_spec", lambda name: name if name in here else None)
    monkeypatch.setattr(rivals, "version", lambda name: "1.2.3")
    assert rivals.installed() == (OPENVINO,)
    assert rivals.versions() == {
        OPENVINO: "1.2.3",
        ONNX_RUNTIME: "not measured, onnxruntime not installed: pip install '.[rivals]'",
    }
    here.remove("onnx")
    assert rivals.installed() == ()
    assert "onnxruntime and onnx not installed" in rivals.versions()[ONNX_RUNTIME]


def test_a_run_without_them_says_so_and_succeeds(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    arguments = ["benchmarks/bench_cem.py", "-q", "--backend", "reference", "--size", "smoke"]
    arguments += ["--output", str(tmp_path), "-p", "no:cacheprovider", "--rivals"]
    hidden = "import sys; sys.modules |= dict.fromkeys(['openvino', 'onnxruntime'])"
    program = f"{hidden}; import pytest; sys.exit(pytest.main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    environment, rows, omissions = report.read_json(tmp_path)
    assert rows
    assert not omissions
    for name in RIVALS:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert "not installed" in line
        assert "not installed" in environment[name]
        assert f"| {name}" in (tmp_path / report.MARKDOWN).read_text()


# ---- headline, goals, pictures --------------------------------------------------------------------------


def test_the_headline_with_and_without_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import readme_table

    one = Headline("title", "cpu", "EFPNBS", "shape", FORWARD)
    rows = [row(OURS, 2.0, shape="shape"), row(EAGER, 6.0, shape="shape")]
    others = [row(OPENVINO, 1.0, shape="shape"), row(ONNX_RUNTIME, 5.0, shape="shape")]
    line = table_line(one, "CPU", rows + others, ("cpu",))
    assert (line[f"vs {OPENVINO}"], line[f"vs {ONNX_RUNTIME}"]) == ("0.50x", "2.50x")

    environment = {"device": "CPU", "device_type": "cpu"}
    monkeypatch.setattr(readme_table, "HEADLINES", (one,))
    monkeypatch.setattr(report, "headline", lambda environment: "headline")
    for measured in (rows, rows + others):
        monkeypatch.setattr(report, "read_json", lambda folder, m=measured: (environment, m, []))
        names = readme_table.section().splitlines()[0]
        assert (f"vs {OPENVINO}" in names) == (f"vs {ONNX_RUNTIME}" in names) == (measured != rows)
        assert f"vs {EAGER}" in names


def test_goals_over_the_rivals() -> None:
    rows = [row(OURS, 1.0), row(OPENVINO, 2.5), row(ONNX_RUNTIME, 3.5)]
    found = {goal.what.split(": ")[-1]: goal for goal in goals_of(rows)}
    first, second = (found[f"speed-up over {name}"] for name in RIVALS)
    assert (first.measured, first.met) == (2.5, False)
    assert (second.measured, second.met) == (3.5, True)
    training = [row(one.variant, one.median_s, direction=TRAINING) for one in rows]
    assert not [goal for goal in goals_of(training) if "over O" in goal.what]


def test_rivals_are_in_the_pictures() -> None:
    rows = [row(OURS, 0.002), row(EAGER, 0.006), row(OPENVINO, 0.004), row(ONNX_RUNTIME, 0.005)]
    (panel,) = plots.block_times(rows).axes
    labels = {label.get_text() for label in panel.get_yticklabels()}
    assert labels >= {*RIVALS}
    (panel,) = plots.speedups(rows).axes
    assert {*RIVALS} <= {*panel.get_legend_handles_labels()[1]}
