"""Fused kernels for the neck and the loss of CEM-FBGTinyDet: E-FPN-BS (CEM + FBSM) and DCLoss."""

from importlib.util import find_spec

from .version import __version__

__all__ = [
    "CEM",
    "EFPNBS",
    "FBSM",
    "DCLoss",
    "EFPNBSLevel",
    "__version__",
    "current_backend",
    "current_float32_precision",
    "explain",
    "functional",
    "graphed",
    "patch",
    "reference",
    "use_backend",
    "use_float32_precision",
]

if find_spec("torch") is not None:
    from . import functional, reference
    from .backends import current_backend, explain, use_backend
    from .graphed import graphed
    from .levels import EFPNBSLevel
    from .modules import CEM, EFPNBS, FBSM, DCLoss, patch
    from .precision import current_float32_precision, use_float32_precision
else:  # `efpn --help` and `efpn doctor` still have something to say

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ImportError(
                f"efpn_kernels.{name}: needs PyTorch, which is not installed; run: "
                "pip install 'torch>=2.11'"
            )
        raise AttributeError(f"module 'efpn_kernels' has no attribute {name!r}")
