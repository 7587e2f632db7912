"""Activation memory: what autograd keeps between forward and backward, and the peak of a step."""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Memory:
    """Bytes of unique storages; parameters are never counted.

    ``saved`` is everything kept for backward. ``saved_own`` leaves out the operator's own inputs
    and outputs, which its neighbours keep alive anyway. ``peak`` is the rise during one step.
    """

    saved: int
    saved_own: int
    peak: int


class StorageLedger:
    """Collects the storages of the tensors that autograd saves.

    By weak references: an address alone may be another tensor's by the time of the sum, and what
    autograd has let go of since is not kept for backward.
    """

    def __init__(self) -> None:
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Note the storage. Detached, or a saved output would keep its own graph alive."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self.storages[reference.cdata] = reference, storage.nbytes()
        return tensor.detach()

    def total(self, excluded: Iterable[Tensor]) -> int:
        """Bytes of all storages that are still there, but those of ``excluded``."""
        hidden = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in excluded}
        return sum(
            size
            for key, (storage, size) in self.storages.items()
            if key not in hidden and not storage.expired()
        )


def measure_memory(
    forward: Callable[[], tuple[Tensor, ...]],
    backward: Callable[[tuple[Tensor, ...]], None] | None,
    inputs: tuple[Tensor, ...],
    parameters: tuple[Tensor, ...],
) -> Memory:
    """Run one step and see what it kept.

    Args:
        forward: returns the outputs.
        backward: takes the outputs; None for inference.
        inputs: of the operator.
        parameters: never counted.
    """
    ledger = StorageLedger()
    device = inputs[0].device
    with _peak_meter(device) as peak:
        with saved_tensors_hooks(ledger.pack, lambda tensor: tensor):
            outputs = forward()
        saved = ledger.total(parameters)
        saved_own = ledger.total((*parameters, *inputs, *outputs))
        if backward is not None:
            backward(outputs)
    return Memory(saved, saved_own, peak())


def keep_freed_memory(keep: bool) -> bool:
    """Let the C library keep freed memory for the next allocation, or not; whether it can (glibc).

    By default it returns large blocks to the system and faults them in again in the next call, which
    on a small virtual machine can take several times as long as the operator.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h; the values of "not" are its defaults
    settings = {trim_threshold: 2**31 - 1 if keep else 2**17, mmap_max: 0 if keep else 2**16}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


@contextmanager
def _peak_meter(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yields a function that gives the rise of allocated memory once the block has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield lambda: _peak_of_trace(profiler)


def _peak_of_trace(profiler: profile) -> int:
    """The highest running sum of the allocator's events: PyTorch keeps no peak for the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = [event for event in events if event["name"] == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    return peak
