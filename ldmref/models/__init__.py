"""The networks: configurations, layers, and the model that holds them.

Public and stable are the names that this package exports; import them from here. `layers` and
`specs`, the parts of networks, are public too. Its other modules are internal and may change in any
version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.models.conditioning import Conditioning as Conditioning
    from ldmref.models.config import AutoencoderConfig as AutoencoderConfig
    from ldmref.models.config import Defaults as Defaults
    from ldmref.models.config import ModelConfig as ModelConfig
    from ldmref.models.config import TextConfig as TextConfig
    from ldmref.models.control import ControlNet as ControlNet
    from ldmref.models.controlnet import ControlNetConfig as ControlNetConfig
    from ldmref.models.denoiser_config import UNetConfig as UNetConfig
    from ldmref.models.flops import count_decoder_flops as count_decoder_flops
    from ldmref.models.flops import count_unet_flops as count_unet_flops
    from ldmref.models.model import LatentDiffusion as LatentDiffusion
    from ldmref.models.networks import model_spec as model_spec
    from ldmref.models.params import Params as Params
    from ldmref.models.params import Spec as Spec
    from ldmref.models.params import flatten as flatten
    from ldmref.models.params import init as init
    from ldmref.models.params import numbered as numbered
    from ldmref.models.params import unflatten as unflatten
    from ldmref.models.presets import PRESETS as PRESETS
    from ldmref.models.presets import preset as preset
    from ldmref.models.taesd import TinyAutoencoder as TinyAutoencoder
    from ldmref.models.taesd import TinyConfig as TinyConfig
    from ldmref.models.unet import Residuals as Residuals
    from ldmref.models.validate import config_from_dict as config_from_dict

__getattr__, __dir__, __all__ = export_lazily(__name__)
