"""Operators: schema, fake, autocast and gradient. What they compute is the backends'.

Importing this package defines every operator in the namespaces ``efpn`` (the compiled libraries) and
``efpn_triton`` (Triton).
"""

from . import cem, dc_loss, efpn_bs, flops
from .kernels import NAMESPACES

if "registered" not in globals():  # a module that is reloaded keeps what it has registered
    for _namespace in NAMESPACES:
        for _operator in (cem, dc_loss, efpn_bs):
            _operator.register(_namespace)
    flops.register()
    registered = True
