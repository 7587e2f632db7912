"""RFLA (Gaussian Receptive Field based Label Assignment) for mmdet 3."""

from .anchors import RFAnchorGenerator
from .assigner import HierarchicalAssigner
from .distances import ReceptiveFieldDistance

__all__ = ["HierarchicalAssigner", "RFAnchorGenerator", "ReceptiveFieldDistance"]
