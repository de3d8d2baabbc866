"""The networks: configurations, layers, and the model that holds them.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.models.conditioning import Conditioning
    from ldmref.models.config import (
        AutoencoderConfig,
        Defaults,
        ModelConfig,
        TextConfig,
        UNetConfig,
    )
    from ldmref.models.controlnet import ControlNet, ControlNetConfig
    from ldmref.models.model import LatentDiffusion
    from ldmref.models.networks import model_spec
    from ldmref.models.params import Params, flatten, unflatten
    from ldmref.models.presets import PRESETS, preset
    from ldmref.models.taesd import TinyAutoencoder, TinyConfig
    from ldmref.models.unet import Residuals
    from ldmref.models.validate import config_from_dict

__all__ = [
    "PRESETS",
    "AutoencoderConfig",
    "Conditioning",
    "ControlNet",
    "ControlNetConfig",
    "Defaults",
    "LatentDiffusion",
    "ModelConfig",
    "Params",
    "Residuals",
    "TextConfig",
    "TinyAutoencoder",
    "TinyConfig",
    "UNetConfig",
    "config_from_dict",
    "flatten",
    "model_spec",
    "preset",
    "unflatten",
]

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "PRESETS": "presets",
        "AutoencoderConfig": "config",
        "Conditioning": "conditioning",
        "ControlNet": "controlnet",
        "ControlNetConfig": "controlnet",
        "Defaults": "config",
        "LatentDiffusion": "model",
        "ModelConfig": "config",
        "Params": "params",
        "Residuals": "unet",
        "TextConfig": "config",
        "TinyAutoencoder": "taesd",
        "TinyConfig": "taesd",
        "UNetConfig": "config",
        "config_from_dict": "validate",
        "flatten": "params",
        "model_spec": "networks",
        "preset": "presets",
        "unflatten": "params",
    },
)
