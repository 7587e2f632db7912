"""The choice of a backend: setter, context, environment, refusals and explanations."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import BLOCK_OPERATORS, LossCase, Problem, block_problem, case, loss_problem
from conftest import Backend

from efpn_kernels import backends, current_backend, explain, functional, use_backend


@pytest.fixture(autouse=True)
def start_from_auto() -> Iterator[None]:
    with use_backend("auto"):
        yield


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_setter_and_context() -> None:
    use_backend("reference")
    assert current_backend() == "reference"
    with use_backend("cpu"):
        assert current_backend() == "cpu"
        with use_backend("auto"):
            assert current_backend() == "auto"
        assert current_backend() == "cpu"
    assert current_backend() == "reference"


def test_context_is_left_by_an_exception_too() -> None:
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert current_backend() == "auto"


def test_an_object_is_entered_again_and_inside_of_itself() -> None:
    reference = use_backend("reference")
    assert current_backend() == "reference", "a setter until it is entered"
    for _ in range(2):
        with reference:
            assert current_backend() == "reference"
            with use_backend("cpu"), reference:
                assert current_backend() == "reference"
            assert current_backend() == "reference"
        assert current_backend() == "auto"


def test_made_first_entered_later() -> None:
    reference = use_backend("reference")
    use_backend("cpu")
    with reference:
        assert current_backend() == "reference"
    assert current_backend() == "cpu"


def test_a_setter_inside_of_a_block_ends_with_it() -> None:
    with use_backend("reference"):
        use_backend("cpu")
        assert current_backend() == "cpu"
        with use_backend("auto"):
            assert current_backend() == "auto"
        assert current_backend() == "cpu"
    assert current_backend() == "auto"


def in_a_thread(function: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_the_choice_is_of_the_process() -> None:
    """As that of ``torch.backends``: autograd's threads, which recompute checkpoints, see it too."""
    with use_backend("reference"):
        assert in_a_thread(current_backend) == "reference"
    assert in_a_thread(current_backend) == current_backend() == "auto"
    assert in_a_thread(lambda: (use_backend("cpu"), current_backend())[1]) == "cpu"
    assert current_backend() == "cpu"


def test_as_a_decorator() -> None:
    @use_backend("reference")
    def chosen() -> str:
        return current_backend()

    assert current_backend() == "auto", "nothing is chosen before the function is called"
    assert [chosen(), chosen()] == ["reference", "reference"]
    assert current_backend() == "auto"


@pytest.mark.parametrize("name", ["gpu", "CPU", "", None])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"use_backend: .*'auto'.*'triton'") as caught:
        use_backend(name)
    assert repr(name) in str(caught.value)
    assert current_backend() == "auto"


def test_environment_variable() -> None:
    code = "import efpn_kernels; print(efpn_kernels.current_backend())"
    result = run_python(code, EFPN_KERNELS_BACKEND="reference")
    assert (result.returncode, result.stdout.strip()) == (0, "reference"), result.stderr


def test_an_empty_environment_variable_is_none() -> None:
    code = "import efpn_kernels; print(efpn_kernels.current_backend())"
    result = run_python(code, EFPN_KERNELS_BACKEND="")
    assert (result.returncode, result.stdout.strip()) == (0, "auto"), result.stderr


def test_environment_variable_with_an_unknown_name() -> None:
    """Every call raises, but importing does not: `efpn doctor` has to say what is wrong."""
    code = "import torch, efpn_kernels as e; x = torch.ones(1, 2, 3, 3); e.CEM(2, 2)(x, x)"
    result = run_python(code, EFPN_KERNELS_BACKEND="fast")
    assert result.returncode != 0
    assert "EFPN_KERNELS_BACKEND: expected one of" in result.stderr
    assert "'fast'" in result.stderr
    code = "from efpn_kernels.cli import main; main(['doctor'])"
    result = run_python(code, EFPN_KERNELS_BACKEND="fast")
    assert result.returncode == 0, result.stderr
    assert "EFPN_KERNELS_BACKEND: expected one of" in result.stdout
    code = "import torch, efpn_kernels as e; e.use_backend('auto'); print(e.explain(torch.ones(1)))"
    assert run_python(code, EFPN_KERNELS_BACKEND="fast").returncode == 0


@pytest.mark.parametrize("name", ["cuda", "triton"])
@pytest.mark.skipif(
    torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs a machine where neither of them can run",
)
def test_an_explicit_choice_that_cannot_run_raises(name: str) -> None:
    problems: list[Problem] = [block_problem(op, case("x2")) for op in BLOCK_OPERATORS]
    problems.append(loss_problem(LossCase((5, 4))))
    reason = explain(torch.zeros(1)).refused[name]
    with use_backend(name):
        for problem in problems:
            with pytest.raises(RuntimeError) as caught:
                problem.fused()
            assert repr(name) in str(caught.value)
            assert reason in str(caught.value)


def test_cpu_refuses_other_devices() -> None:
    with use_backend("cpu"):
        explanation = explain(torch.zeros(1, device="meta"))
    assert explanation.backend is None
    assert "meta" in explanation.refused["cpu"]


@pytest.mark.parametrize("operator", BLOCK_OPERATORS)
def test_reference_is_the_plain_function(operator: str) -> None:
    problem = block_problem(operator, case("x2"))
    with use_backend("reference"):
        ours = problem.fused()
    for name, expected in problem.eager().items():
        assert ours[name].equal(expected), name


def test_the_chosen_backend_runs(backend: Backend) -> None:
    """The profiler sees an operator of its namespace, and none of another one."""
    problem = block_problem("efpn_bs", case("x2"), backend.device)
    with torch.profiler.profile() as profile:
        problem.fused()
    namespaces = {
        event.key.split("::")[0] for event in profile.key_averages() if event.key.startswith("efpn")
    }
    assert namespaces == {backends.DESCRIPTORS[backend.name].namespace}


def test_auto_takes_the_compiled_backend_on_a_cpu() -> None:
    explanation = explain("efpn_bs", torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 1, 1))
    assert explanation.backend == "cpu"
    assert set(explanation.refused) == {"cuda", "triton", "reference"}
    assert explanation.refused["reference"] == "cpu is preferred"
    assert "cpu" in explanation.refused["cuda"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_on_a_gpu() -> None:
    assert explain(torch.zeros(1, device="cuda")).backend in ("cuda", "triton")


def test_explain_reads_well() -> None:
    text = str(explain("cem", torch.zeros(1, 2, 3, 4, dtype=torch.bfloat16)))
    first, *reasons = text.splitlines()
    for fragment in ("cem", "[1, 2, 3, 4]", "torch.bfloat16", "'auto'", "runs on: cpu"):
        assert fragment in first
    assert len(reasons) == 3
    assert all(line.startswith("  not ") for line in reasons)


def test_explain_knows_the_choice() -> None:
    with use_backend("reference"):
        explanation = explain(torch.zeros(1))
    assert explanation.backend == "reference"
    assert explanation.refused["cpu"] == "'reference' was chosen"


def test_explain_looks_at_every_tensor() -> None:
    """As the call does, which raises whatever the backend is."""
    x = torch.zeros(1, 2, 3, 4)
    for other, reason in (
        (x.half(), "tensor 2: expected the dtype of tensor 1 (torch.float32), got torch.float16"),
        (x.to("meta"), "tensor 2: expected the device of tensor 1 (cpu), got meta"),
        (x.int(), "tensor 2: expected a floating-point tensor"),
    ):
        explanation = explain("efpn_bs", x, other)
        assert explanation.backend is None
        assert set(explanation.refused) == set(backends.BACKENDS)
        assert all(reason in text for text in explanation.refused.values())
        assert "no backend can run this call" in str(explanation)
    assert explain("dc_loss", x.half(), x.half(), torch.ones(()), torch.ones(1)).backend == "cpu"
    with torch.autocast("cpu", torch.bfloat16):
        assert explain(x, x.bfloat16()).backend == "cpu"
        assert explain(x, x.double()).backend is None


def test_explain_with_bad_arguments() -> None:
    with pytest.raises(TypeError, match="expected tensors"):
        explain()
    with pytest.raises(TypeError, match="expected tensors"):
        explain("cem")
    with pytest.raises(TypeError, match="float"):
        explain(torch.zeros(1), 1.0)
    with pytest.raises(ValueError, match=r"'efpn_bs'.*got 'conv'"):
        explain("conv", torch.zeros(1))


def test_auto_never_falls_back_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library plain PyTorch runs, with a warning that says why and how to fix it."""
    missing = backends._libraries.SharedLibrary("cpu", "the extension was not built")
    monkeypatch.setattr(backends._libraries, "CPU", missing)
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setattr(
        backends, "_find_able", backends._find_able.__wrapped__
    )  # remembers what is here
    problem = block_problem("cem", case("x2"))
    with pytest.warns(UserWarning, match="the extension was not built.*doctor"):
        ours = problem.fused()
    assert ours["out"].equal(problem.eager()["out"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.fused()
    with use_backend("cpu"), pytest.raises(RuntimeError, match="the extension was not built"):
        problem.fused()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn], ids=str)
def test_dtypes_without_kernels_are_refused(dtype: torch.dtype) -> None:
    x = torch.zeros(1, dtype=dtype)
    assert "float8" in explain(x).refused["cpu"]
    with use_backend("cpu"), pytest.raises(RuntimeError, match="float8"):
        functional.dc_loss(x, x, torch.ones(1), torch.ones(1))
