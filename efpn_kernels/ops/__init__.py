"""Operators: kernels and library calls composed, with schema, fake, autograd and autocast.

Importing this package defines every operator in the namespaces ``efpn`` (C++) and ``efpn_triton``
(Triton). No maths of pixels here: that is the kernels'.
"""

from . import cem, dc_loss, efpn_bs
from .kernels import NAMESPACES

for _namespace in NAMESPACES:
    for _operator in (cem, dc_loss, efpn_bs):
        _operator.register(_namespace)
