"""The CUDA kernels on a CPU, thread by thread: values, races, alignment, bounds, and counts of accesses."""

from .emulation import Emulation, emulation

__all__ = ["Emulation", "emulation"]
