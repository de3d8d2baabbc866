"""Families of models as data: their networks, files and presets, read by every tool.

| file | holds |
|---|---|
| `latent_diffusion.py` | Stable Diffusion 1, 2 and XL, and latent diffusion before it |
| `unet.py` | the U-Net and its ControlNets |
| `sd3/` | Stable Diffusion 3 and 3.5 |
| `flux/` | Flux.1 |
| `joint_transformers.py`, `joint_controls.py` | what these two share |
| `combined_files.py` | single files that hold text encoders and an autoencoder, too |
| `auxiliary.py` | auxiliary networks of a run: TAESD, ControlNets, a classifier |
| `lookup.py` | find a network by its call or its function |

A package adds a family with an entry point of the group `ldmref.families` that names a `Family`
(docs/add-a-family.md). Public and stable are the names that this package exports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.families.latent_diffusion import describe_autoencoder as describe_autoencoder
    from ldmref.io.key_table import KeyEntry as KeyEntry
    from ldmref.models.declared import CallSize as CallSize
    from ldmref.models.declared import DeclaredNetwork as DeclaredNetwork
    from ldmref.models.declared import NetworkInput as NetworkInput
    from ldmref.models.declared import NetworkOutput as NetworkOutput
    from ldmref.models.declared_control import DeclaredControl as DeclaredControl
    from ldmref.models.denoiser_config import DenoiserConfig as DenoiserConfig
    from ldmref.models.family import Family as Family
    from ldmref.models.family import GoldenModels as GoldenModels
    from ldmref.models.family import LoraRules as LoraRules
    from ldmref.models.family import PipelineCalls as PipelineCalls
    from ldmref.models.family import SingleFile as SingleFile
    from ldmref.models.family import TextPath as TextPath
    from ldmref.models.family import TrainingRules as TrainingRules
    from ldmref.models.family import Work as Work
    from ldmref.models.golden_run import GoldenRun as GoldenRun
    from ldmref.models.text import EncodedText as EncodedText
    from ldmref.models.text_config import TextConfig as TextConfig
    from ldmref.models.text_kind import TextEncoder as TextEncoder

__getattr__, __dir__, __all__ = export_lazily(__name__)
