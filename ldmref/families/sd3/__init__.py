"""Stable Diffusion 3."""

from ldmref.families.sd3.config import MMDiTConfig as MMDiTConfig
