"""Z-Image for ldmref."""

from ldmref_zimage.qwen3 import QWEN3

__all__ = ["QWEN3"]
