"""Which backends the suite runs on, and poison in every uninitialised tensor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from efpn_kernels import use_backend

# The builds' scripts, and what checks the kernels.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "csrc"))

# Without it cuBLAS warns in every test that runs with deterministic algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The reference is to be as exact as its dtype: cuDNN would run float32 convolutions in TF32.
torch.backends.cudnn.allow_tf32 = False

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from checking import interpreter

    interpreter.install()


@dataclass(frozen=True)
class Backend:
    """A backend and the device that it runs on."""

    name: str
    device: str

    @property
    def interpreted(self) -> bool:
        """Whether kernels run one program at a time in Python: small cases only."""
        return self.name == "triton" and self.device == "cpu"

    def __str__(self) -> str:
        return f"{self.name}@{self.device}"


def available_backends() -> list[Backend]:
    """A backend that should run here and does not fails its tests; it is not left out."""
    backends = [Backend("cpu", "cpu")]
    if INTERPRETED:
        backends.append(Backend("triton", "cpu"))
    elif torch.cuda.is_available():
        backends += [Backend("cuda", "cuda"), Backend("triton", "cuda")]
    return backends


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends", help="comma-separated backends to test, of those that this machine should run"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise over the backends whatever asks for ``backend``."""
    if "backend" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--backends")
    backends = [
        backend
        for backend in available_backends()
        if wanted is None or backend.name in wanted.split(",")
    ]
    metafunc.parametrize("backend", backends, ids=str, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow cases, and leave those out that would keep an interpreter busy for minutes."""
    kept, dropped = [], []
    for item in items:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        case, backend = params.get("case"), params.get("backend")
        if getattr(case, "slow", False):
            item.add_marker("slow")
        interpreted = isinstance(backend, Backend) and backend.interpreted
        (dropped if interpreted and not getattr(case, "small", True) else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every fused call of the test runs on this backend."""
    with use_backend(request.param.name):
        yield request.param


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """Enough to divide the work; more only wait for each other on shapes as small as these."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that an output that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled, torch.utils.deterministic.fill_uninitialized_memory = (
        torch.utils.deterministic.fill_uninitialized_memory,
        True,
    )
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)
