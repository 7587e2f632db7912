"""Two gloo processes with half of a batch each learn what one process learns from all of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from efpn_kernels import EFPNBS, DCLoss, use_backend

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs the gloo backend"
)
STEPS = 3


class Model(nn.Module):
    """A block and its loss, both with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.block = EFPNBS(5, 4, hidden_channels=6)
        self.loss = DCLoss()

    def forward(self, p_low: Tensor, p_high: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.block(p_low, p_high), target)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((4, 4, 9, 11), (4, 5, 3, 2), (4, 4, 9, 11))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def train(model: nn.Module, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The parameters after a few steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(*arguments).backward()
        optimizer.step()
    return {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}


def new_model() -> Model:
    torch.manual_seed(0)
    return Model().double()


def worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
    )
    try:
        with use_backend("cpu"):
            half = tuple(x.chunk(world_size)[rank] for x in batch())
            parameters = train(DistributedDataParallel(new_model()), half)
        torch.save(parameters, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    spawn(worker, args=(2, str(tmp_path)), nprocs=2)
    with use_backend("cpu"):
        expected = train(new_model(), batch())
    start = dict(new_model().named_parameters())
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, parameter in expected.items():
        assert ranks[0][name].equal(ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], parameter, rtol=1e-10, atol=1e-12)
        assert not parameter.equal(start[name]), f"{name}: did not learn"


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_have_the_strides_of_their_parameters(tmp_path: Path, layout: str) -> None:
    """DDP's buckets have them too, and warn about others."""
    memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = new_model().float().to(memory_format=memory_format)
        parallel = DistributedDataParallel(model)
        arguments = [x.float().contiguous(memory_format=memory_format) for x in batch()]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                parallel(*arguments).backward()
    finally:
        dist.destroy_process_group()
    for name, parameter in model.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name
