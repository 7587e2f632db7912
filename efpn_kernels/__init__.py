"""Fused kernels for the neck and the loss of CEM-FBGTinyDet: E-FPN-BS (CEM + FBSM) and DCLoss."""

from . import functional, reference
from .backends import current_backend, explain, use_backend
from .graphed import graphed
from .modules import CEM, EFPNBS, FBSM, DCLoss, patch
from .version import __version__

__all__ = [
    "CEM",
    "EFPNBS",
    "FBSM",
    "DCLoss",
    "__version__",
    "current_backend",
    "explain",
    "functional",
    "graphed",
    "patch",
    "reference",
    "use_backend",
]
