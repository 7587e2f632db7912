"""FSANet (Wu et al., TGRS 2022): a pyramid whose levels are aligned, and a head that assigns by what it predicts."""

from .head import FSANetHead
from .neck import AlignFPN

__all__ = ["AlignFPN", "FSANetHead"]
