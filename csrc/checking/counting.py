"""Counts what launches of Triton kernels do: operations, bytes and addresses, in the interpreter.

A few programs of each launch run, spread over its grid, and what they do is scaled to the whole of it
(small grids run whole). No memory is touched: loads give zeros and stores do nothing, so tensors may be
as large as they like. Every address must lie in a tensor of the launch.

Operations are those on floats, one for each lane of a tile, lanes beyond the edge included: sums,
products, quotients, comparisons, selections and exponentials. Integers, conversions and moves are free.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, ReduceOps, TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

from . import interpreter as faster
from .cases import Maker

WHOLE = 150
"""Grids of so many programs run whole."""
SAMPLES = 6

ELEMENTWISE = ("fadd", "fsub", "fmul", "fdiv", "precise_divf", "exp", "exp2", "fabs", "select")
ELEMENTWISE += ("minimumf", "maximumf", "minnumf", "maxnumf")
ELEMENTWISE += tuple(f"fcmp{o}{c}" for o in "OU" for c in ("LT", "GT", "LE", "GE", "EQ", "NE"))


@dataclass
class Use:
    """What a launch does with one tensor; offsets in bytes from its start."""

    tensor: Tensor
    reads: bool = False
    writes: bool = False
    first: int = 1 << 62
    last: int = -1

    @property
    def bytes(self) -> int:
        """Bytes that must move: once each way."""
        return self.tensor.numel() * self.tensor.element_size() * (self.reads + self.writes)


@dataclass
class Launch:
    """Counts of one launch, for all of its programs."""

    kernel: str
    grid: tuple[int, int, int]
    uses: list[Use]
    operations: float = 0.0
    dot_operations: float = 0.0
    requested: float = 0.0
    """Bytes that the programs load and store, the same byte as often as they do."""
    seen: list[tuple[int, int, Use]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes that must move."""
        return sum(use.bytes for use in self.uses)

    @property
    def programs(self) -> int:
        return int(np.prod(self.grid))

    def scale(self, factor: float) -> None:
        self.operations *= factor
        self.dot_operations *= factor
        self.requested *= factor

    def access(self, pointers: TensorHandle, mask: TensorHandle | np.ndarray, write: bool) -> None:
        """Take note of the addresses of a load or store."""
        addresses = pointers.data
        lanes = (
            mask if isinstance(mask, np.ndarray) else mask.data
        )  # of a descriptor: the array itself
        addresses = addresses[np.broadcast_to(lanes.astype(bool), addresses.shape)]
        if not addresses.size:
            return
        size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
        first, last = int(addresses.min()), int(addresses.max()) + size
        inside = [(start, use) for start, end, use in self.seen if start <= first and last <= end]
        if not inside:
            raise IndexError(
                f"{self.kernel}: addresses {first}..{last} are in no tensor of the launch"
            )
        start, use = inside[0]
        use.first, use.last = min(use.first, first - start), max(use.last, last - start)
        use.writes |= write
        use.reads |= not write
        self.requested += addresses.size * size


class EmptyMaker(Maker):
    """Makes arguments of which nobody reads the values: memory that is never touched."""

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.dtype)

    def map(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, memory_format=self.format)

    def mask_map(self, *shape: int) -> Tensor:
        return self.map(*shape)

    def gate(self, N: int, H: int, W: int) -> Tensor:
        return self.accumulated(N, 1, H, W)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32)


def tensors_of(arguments: dict[str, object]) -> Iterator[Tensor]:
    for argument in arguments.values():
        if isinstance(argument, TensorDescriptor):
            yield argument.base
        elif isinstance(argument, Tensor):
            yield argument


def chosen(programs: int) -> list[int]:
    """Which programs run: all of a small grid, else the first, the last and some between."""
    if programs <= WHOLE:
        return list(range(programs))
    spread = {int(k * 0.6180339887498949 % 1 * programs) for k in range(1, SAMPLES - 1)}
    return sorted({0, programs - 1, *spread})


@contextmanager
def counting(choose: Callable[[int], list[int]] = chosen) -> Iterator[list[Launch]]:
    """Inside of it launches are counted, into the list, and not run. Needs ``TRITON_INTERPRET=1``.

    choose: which of so many programs of a launch run.
    """
    faster.install()
    launches: list[Launch] = []
    replaced: list[tuple[type, str, object]] = []

    def replace(owner: type, name: str, make: Callable) -> None:
        old = getattr(owner, name)
        replaced.append((owner, name, old))
        setattr(owner, name, make(old))

    def count_elements(old: Callable) -> Callable:
        def run(self, *args):
            out = old(self, *args)
            if out.dtype.scalar.is_floating() or args[0].dtype.scalar.is_floating():
                launches[-1].operations += out.data.size
            return out

        return run

    def count_reduction(old: Callable) -> Callable:
        def run(self, tensors):
            if tensors[0].dtype.is_floating():
                launches[-1].operations += tensors[0].handle.data.size
            return old(self, tensors)

        return run

    def count_dot(old: Callable) -> Callable:
        def run(self, a, b, d, *args, **kwargs):
            launches[-1].dot_operations += 2 * d.data.size * a.data.shape[-1]
            return d

        return run

    def load(old: Callable) -> Callable:
        def run(self, pointers, mask, *args, **kwargs):
            launches[-1].access(pointers, mask, write=False)
            element = pointers.get_element_ty()
            zeros = np.zeros(pointers.data.shape, interpreter._get_np_dtype(element))
            return TensorHandle(zeros, element)

        return run

    def store(old: Callable) -> Callable:
        def run(self, pointers, value, mask, *args, **kwargs):
            launches[-1].access(pointers, mask, write=True)

        return run

    def execute(old: Callable) -> Callable:
        def run(self, *args, **kwargs):
            names = inspect.getfullargspec(self.fn).args
            kwargs = {name: value for name, value in kwargs.items() if name in names}
            arguments = inspect.getcallargs(self.fn, *args, **kwargs)
            uses = [Use(tensor) for tensor in tensors_of(arguments)]
            launch = Launch(self.fn.__name__, (*self.grid, 1, 1)[:3], uses)
            for use in uses:
                start = use.tensor.data_ptr()
                size = use.tensor.numel() * use.tensor.element_size()
                launch.seen.append((start, start + size, use))
            launches.append(launch)
            faster.prepared.clear()
            scope = interpreter._patch_lang(self.fn)
            try:
                values = {
                    name: value if name in self.constexprs else interpreter._implicit_cvt(value)
                    for name, value in arguments.items()
                }
                _, rows, columns = launch.grid
                interpreter.interpreter_builder.set_grid_dim(*launch.grid)
                programs = choose(launch.programs)
                for i in programs:
                    at = (i // (rows * columns), i // columns % rows, i % columns)
                    interpreter.interpreter_builder.set_grid_idx(*at)
                    self.fn(**values)
            finally:
                scope.restore()
            launch.scale(launch.programs / len(programs))

        return run

    for name in ELEMENTWISE:
        replace(InterpreterBuilder, f"create_{name}", count_elements)
    replace(InterpreterBuilder, "create_dot", count_dot)
    replace(InterpreterBuilder, "create_masked_load", load)
    replace(InterpreterBuilder, "create_masked_store", store)
    replace(ReduceOps, "apply_impl", count_reduction)
    replace(GridExecutor, "__call__", execute)
    try:
        yield launches
    finally:
        for owner, name, old in reversed(replaced):
            setattr(owner, name, old)
