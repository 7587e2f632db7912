"""The CUDA kernels on a CPU, thread by thread: values, races, alignment, bounds, and counts of accesses."""

from .emulation import FOLDER, Emulation

__all__ = ["FOLDER", "Emulation"]
