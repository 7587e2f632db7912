"""Builds the libraries in place for the GPU at hand, unless they were brought along and run on it."""

from __future__ import annotations

import subprocess
import sys

import torch

from efpn_kernels.backends import explain

from ..environment import ROOT


def runs_here() -> bool:
    """Whether the CUDA library is there and has code for this GPU."""
    low, high = (torch.zeros(1, 8, size, size, device="cuda") for size in (8, 2))
    try:
        torch.ops.efpn.context_add(low, low.new_zeros(1, 8))
        torch.cuda.synchronize()
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
        return False
    print(explain(low, high), flush=True)
    return True


def main() -> int:
    """The exit code of the build, 0 where there is nothing to build."""
    if runs_here():
        print("the CUDA library runs on this GPU: nothing to build")
        return 0
    return subprocess.run(
        [sys.executable, "setup.py", "build_libraries", "--inplace"], cwd=ROOT
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
