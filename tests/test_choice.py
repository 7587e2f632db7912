"""What ``auto`` takes and what is refused on GPUs that are not here: capabilities and libraries are stubs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from efpn_kernels import (
    CEM,
    EFPNBS,
    FBSM,
    DCLoss,
    EFPNBSLevel,
    _libraries,
    _stamp,
    backends,
    explain,
    functional,
    use_backend,
)
from efpn_kernels._libraries import Cause, SharedLibrary

ABSENT = "not on this machine"


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Answers are kept for the life of a process."""
    for cached in (backends._find_able, backends._no_machine_code):
        cached.cache_clear()
    with use_backend("auto"):
        yield
    for cached in (backends._find_able, backends._no_machine_code):
        cached.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with these libraries, one GPU of this capability, and code for these architectures."""

    def set_up(
        *loaded: str, capability: tuple[int, int] = (9, 0), architectures: str = "9.0"
    ) -> None:
        for name in backends.DESCRIPTORS:
            library = SharedLibrary(name, None if name in loaded else ABSENT)
            monkeypatch.setattr(_libraries, name.upper(), library)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(_libraries, "CUDA_ARCHITECTURES", tuple(architectures.split()))
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    return set_up


class OnGPU(Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


def on(device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of 24 elements there, or said to be."""
    if device == "cuda":
        return torch.empty(1, 2, 3, 4, dtype=dtype).as_subclass(OnGPU)
    return torch.empty(1, 2, 3, 4, dtype=dtype, device=device)


@pytest.mark.parametrize("operator", backends.OPERATORS)
@pytest.mark.parametrize(
    ("device", "loaded", "chosen"),
    [
        ("cuda", ("cpu", "cuda", "triton"), "cuda"),
        ("cuda", ("cpu", "cuda"), "cuda"),
        ("cuda", ("cpu", "triton"), "triton"),
        ("cuda", ("cpu",), "reference"),
        ("cpu", ("cpu", "cuda", "triton"), "cpu"),
        ("cpu", ("cuda", "triton"), "reference"),
        ("meta", ("cpu", "cuda", "triton"), "reference"),
    ],
)
@pytest.mark.filterwarnings("ignore:efpn_kernels runs plain PyTorch")
def test_the_order_of_auto(
    machine: Callable[..., None],
    operator: str,
    device: str,
    loaded: tuple[str, ...],
    chosen: str,
) -> None:
    machine(*loaded)
    x = on(device)
    assert backends.select(operator, x) == chosen
    explanation = explain(operator, x)
    assert explanation.backend == chosen
    assert set(explanation.refused) == set(backends.BACKENDS) - {chosen}
    for name in set(loaded) - {chosen}:
        fits = backends.DESCRIPTORS[name].device_type == device
        assert (explanation.refused[name] == f"{chosen} is preferred") == fits


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), "8.0 9.0", True),
        ((8, 6), "8.0", True),
        ((8, 0), "8.6", False),
        ((10, 0), "9.0", False),
        ((10, 0), "9.0+PTX", True),
        ((7, 5), "8.0 12.0+PTX", False),
    ],
)
def test_a_gpu_without_machine_code_is_refused(
    machine: Callable[..., None], capability: tuple[int, int], architectures: str, runs: bool
) -> None:
    """``auto`` goes on to Triton; who asked for the library is told what it was compiled for."""
    machine("cpu", "cuda", "triton", capability=capability, architectures=architectures)
    x = on("cuda")
    assert backends.select("efpn_bs", x) == ("cuda" if runs else "triton")
    with use_backend("cuda"):
        if runs:
            assert backends.select("efpn_bs", x) == "cuda"
            return
        with pytest.raises(RuntimeError, match=r"^backend 'cuda' cannot run here: ") as caught:
            backends.select("efpn_bs", x)
    for fragment in (
        ", ".join(architectures.split()),
        f"{capability[0]}.{capability[1]}",
        '"auto"',
    ):
        assert fragment in str(caught.value)


def test_an_order_for_small_calls(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first entry that fits the device, the operator and the size counts."""
    machine("cpu", "cuda", "triton")
    small = backends.Order("cuda", ("triton", "cuda"), "a test", ("dc_loss",), below=25)
    monkeypatch.setattr(backends, "AUTO_ORDER", (small, *backends.AUTO_ORDER))
    x = on("cuda")
    assert x.numel() == 24
    assert backends.select("dc_loss", x) == "triton"
    assert backends.select("efpn_bs", x) == "cuda"
    assert backends.select("dc_loss", torch.cat([x, x])) == "cuda"
    assert backends.select("dc_loss", torch.empty(24)) == "cpu"


def test_the_orders_name_results_that_are_there() -> None:
    root = Path(__file__).resolve().parents[1]
    for order in backends.AUTO_ORDER:
        assert (root / order.source / "report.md").is_file()
        assert {backends.DESCRIPTORS[name].device_type for name in order.backends} == {
            order.device_type
        }


def test_plain_pytorch_is_said_once_for_each_dtype_and_device(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr(backends, "_warned", set())
    dtypes = (torch.float32, torch.bfloat16)
    for dtype, device in product(dtypes, ("cpu", "cuda")):
        with pytest.warns(UserWarning, match=rf"{dtype} tensors on {device} .*{ABSENT}") as said:
            backends.select("cem", on(device, dtype))
        assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, device in product(dtypes, ("cpu", "cuda")):
            backends.select("efpn_bs", on(device, dtype))


class Inside(nn.Module):
    """A block inside of a user's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.block = EFPNBS(3, 2)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.block(*maps)


LOW, HIGH, ONE = torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2), torch.ones(())
EFPNBS_VALUES = tuple(EFPNBS(3, 2).state_dict().values())
ENTRIES: dict[str, Callable[[], object]] = {
    "functional.cem": lambda: functional.cem(LOW, HIGH, *EFPNBS_VALUES[:2]),
    "functional.fbsm": lambda: functional.fbsm(LOW, HIGH, *EFPNBS_VALUES[2:]),
    "functional.efpn_bs": lambda: functional.efpn_bs(LOW, HIGH, *EFPNBS_VALUES),
    "functional.dc_loss": lambda: functional.dc_loss(LOW, LOW, ONE, ONE),
    "functional.dc_loss, a tensor's weight": lambda: functional.dc_loss(
        LOW, LOW, ONE, ONE, loss_weight=ONE
    ),
    "CEM": lambda: CEM(3, 2)(LOW, HIGH),
    "FBSM": lambda: FBSM(3, 2)(LOW, HIGH),
    "EFPNBS": lambda: EFPNBS(3, 2)(LOW, HIGH),
    "EFPNBS of its parts": lambda: EFPNBS(3, 2, use_cem=False)(LOW, HIGH),
    "DCLoss": lambda: DCLoss()(LOW, LOW),
    "EFPNBSLevel": lambda: EFPNBSLevel((3, 2), low=0, high=1)([LOW, HIGH]),
    "a module of one's own": lambda: Inside()(LOW, HIGH),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_warning_points_at_the_call(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """However many functions of ours and of PyTorch's are between it and the choice."""
    machine()
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(UserWarning, match="plain PyTorch") as said:
        ENTRIES[entry]()
    caller = Inside.forward if entry == "a module of one's own" else ENTRIES[entry]
    first = caller.__code__.co_firstlineno
    assert said[0].filename == __file__
    assert first <= said[0].lineno <= first + 2


@pytest.mark.parametrize("dtype", [*backends.DTYPES, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("name", backends.DESCRIPTORS)
def test_the_dtypes_of_every_backend(
    machine: Callable[..., None], name: str, dtype: torch.dtype
) -> None:
    machine("cpu", "cuda", "triton")
    device = torch.device(backends.DESCRIPTORS[name].device_type)
    reason = backends.why_unsupported(name, device, dtype)
    assert (reason is None) == (dtype in backends.DTYPES)
    wrong = torch.device("cpu" if device.type == "cuda" else "cuda")
    assert backends.why_unsupported(name, wrong, dtype) is not None


# ---- libraries of another time ------------------------------------------------------------------------


def library_with(folder: Path, **facts: object) -> Path:
    """A file with nothing but a stamp."""
    path = folder / "_cpu.abi3.so"
    literal = _stamp.source(**facts).encode()
    path.write_bytes(literal.replace(b"\\", b"").replace(b'";', b"\0"))
    return path


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"version": "0.0.1"}, "_cpu.abi3.so was built for version 0.0.1, this is"),
        ({"version": "99.0.0"}, "_cpu.abi3.so was built for version 99.0.0, this is"),
        ({"schemas": "123456789abc"}, "_cpu.abi3.so was built for other schemas"),
        ({}, "_cpu.abi3.so did not load"),
    ],
)
def test_a_library_too_old_or_too_new_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], said: str
) -> None:
    """Its kernels may take other arguments: nothing of it runs, not even its constructors."""
    library_with(tmp_path, **facts)
    monkeypatch.setattr(_libraries, "PACKAGE", tmp_path)
    loaded = []
    real = torch.ops.load_library
    monkeypatch.setattr(torch.ops, "load_library", lambda p: (loaded.append(p), real(p)))
    library = _libraries._load_compiled("cpu")
    assert said in str(library.problem)
    assert library.cause is (Cause.STALE if facts else Cause.DAMAGED)
    assert bool(loaded) == (not facts)


@pytest.mark.parametrize(
    ("version", "cause"),
    [("2.10.1+cpu", Cause.OLD_TORCH), ("2.11.0", Cause.NONE), ("3.0.0", Cause.NONE)],
)
def test_a_torch_too_old_for_the_stable_abi(
    monkeypatch: pytest.MonkeyPatch, version: str, cause: Cause
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    library = _libraries._load_compiled("cpu")
    assert library.cause is cause
    if cause is Cause.OLD_TORCH:
        assert library.problem == f"needs torch >= 2.11, found {version}"


@pytest.mark.parametrize(
    ("version", "cause"),
    [("3.5.9", Cause.OLD_TRITON), ("3.6.0", Cause.NONE), ("4.0.0", Cause.NONE)],
)
def test_a_triton_too_old(monkeypatch: pytest.MonkeyPatch, version: str, cause: Cause) -> None:
    triton = pytest.importorskip("triton")
    from efpn_kernels import triton as kernels

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(kernels, "register", lambda library: None)
    library = _libraries._load_triton()
    assert library.cause is cause
    if cause is Cause.OLD_TRITON:
        assert library.problem == f"needs Triton >= 3.6, found {version}"
