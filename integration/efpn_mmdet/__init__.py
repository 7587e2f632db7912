"""E-FPN-BS, DCLoss, RFLA and tiny-object data for mmdet 3.

Switch it on in any config with ``custom_imports = dict(imports=["efpn_mmdet"])``.
"""

from .checkpoint import allow_mmengine_checkpoints
from .datasets import AITODDataset, DOTA2HBBDataset, TinyDemoDataset, VisDroneDataset
from .fsanet import AlignFPN, FSANetHead
from .hooks import (
    CheckpointHook,
    CheckScheduleHook,
    EarlyStoppingHook,
    LogEFPNHook,
    ReproducibleEpochsHook,
    UseDCLossHook,
)
from .loss import DCLoss
from .metric import AITODMetric
from .neck import EFPNBSNeck
from .optimizer import DCLossOptimWrapperConstructor
from .pretrained import MatchCheckpointHook
from .rfla import HierarchicalAssigner, RFAnchorGenerator
from .similarity import (
    BoxSimilarity,
    ChunkedMaxIoUAssigner,
    NWDLoss,
    SimilarityLoss,
    SimilarityRPNHead,
    register_similarity,
)
from .srtod import SRTODCascadeRCNN, SRTODFasterRCNN

__all__ = [
    "AITODDataset",
    "AITODMetric",
    "AlignFPN",
    "BoxSimilarity",
    "CheckScheduleHook",
    "CheckpointHook",
    "ChunkedMaxIoUAssigner",
    "DCLoss",
    "DCLossOptimWrapperConstructor",
    "DOTA2HBBDataset",
    "EFPNBSNeck",
    "EarlyStoppingHook",
    "FSANetHead",
    "HierarchicalAssigner",
    "LogEFPNHook",
    "MatchCheckpointHook",
    "NWDLoss",
    "RFAnchorGenerator",
    "ReproducibleEpochsHook",
    "SRTODCascadeRCNN",
    "SRTODFasterRCNN",
    "SimilarityLoss",
    "SimilarityRPNHead",
    "TinyDemoDataset",
    "UseDCLossHook",
    "VisDroneDataset",
    "register_similarity",
]

allow_mmengine_checkpoints()
