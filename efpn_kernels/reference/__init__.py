"""The paper's operators in the plainest PyTorch: the oracle that every backend is tested against.

Each module and function has the name, the constructor and the state_dict keys of its fused twin in
:mod:`efpn_kernels`. Any floating-point dtype works, float64 included. Nothing here is optimised.
"""

from .cem import CEM, cem
from .dc_loss import FORMS, REDUCTIONS, DCLoss, dc_loss
from .efpn_bs import EFPNBS, efpn_bs
from .fbsm import FBSM, fbsm, fbsm_mask

__all__ = [
    "CEM",
    "EFPNBS",
    "FBSM",
    "FORMS",
    "REDUCTIONS",
    "DCLoss",
    "cem",
    "dc_loss",
    "efpn_bs",
    "fbsm",
    "fbsm_mask",
]
