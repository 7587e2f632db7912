"""RFLA (Gaussian Receptive Field based Label Assignment) for mmdet 3."""

from .anchors import RFAnchorGenerator
from .assigner import HierarchicalAssigner

__all__ = ["HierarchicalAssigner", "RFAnchorGenerator"]
