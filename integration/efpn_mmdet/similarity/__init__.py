"""Similarities of boxes in place of IoU: in assigners, losses and the suppression of proposals."""

from .assigner import ChunkedMaxIoUAssigner
from .calculator import BoxSimilarity
from .loss import NWDLoss, SimilarityLoss
from .nms import SimilarityRPNHead
from .scores import register_similarity

__all__ = [
    "BoxSimilarity",
    "ChunkedMaxIoUAssigner",
    "NWDLoss",
    "SimilarityLoss",
    "SimilarityRPNHead",
    "register_similarity",
]
