"""Families of models as data: their networks, files and presets, read by every tool.

| file | holds |
|---|---|
| `latent_diffusion.py` | Stable Diffusion 1, 2 and XL, and latent diffusion before it |
| `unet.py` | the U-Net and its ControlNets |
| `sd3/` | Stable Diffusion 3 and 3.5 |
| `flux/` | Flux.1 |
| `z_image/` | Z-Image |
| `flux2/` | FLUX.2 klein |
| `qwen_image_21/` | Qwen-Image 2.1 |
| `flux3/` | FLUX.3 Image Klein |
| `krea2/` | Krea 2 |
| `autoencoders/` | the autoencoders of FLUX.2 and 3, and of Qwen-Image and Krea 2 |
| `qwen3/` | the text encoder of the families since 2025 |
| `joint_transformers.py`, `joint_controls.py` | what transformers and their ControlNets share |
| `transformer_files.py` | single files of a transformer: the names of its makers |
| `reference_images.py` | reference images as tokens |
| `combined_files.py` | single files that hold text encoders and an autoencoder, too |
| `auxiliary.py` | auxiliary networks of a run: TAESD, ControlNets, a classifier |
| `lookup.py` | find a network by its call or its function |

A package adds a family with an entry point of the group `ldmref.families` that names a `Family`
(docs/add-a-family.md). Public and stable are the names that this package exports; they are all that
a family needs, from the configuration and the layers of its networks to the files of diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.backends.base import Backend as Backend
    from ldmref.declare import Length as Length
    from ldmref.declare import Range as Range
    from ldmref.families.latent_diffusion import describe_autoencoder as describe_autoencoder
    from ldmref.families.latent_diffusion import describe_text_encoder as describe_text_encoder
    from ldmref.families.transformer_files import MakersLayer as MakersLayer
    from ldmref.families.transformer_files import list_entries as list_entries
    from ldmref.families.transformer_files import reads_sizes as reads_sizes
    from ldmref.families.transformer_files import stack_layers as stack_layers
    from ldmref.io.diffusers import convert_autoencoder_config as convert_autoencoder_config
    from ldmref.io.diffusers import convert_scheduler_config as convert_scheduler_config
    from ldmref.io.diffusers import convert_t5_config as convert_t5_config
    from ldmref.io.diffusers import convert_text_config as convert_text_config
    from ldmref.io.diffusers import get_class as get_class
    from ldmref.io.diffusers import read_denoiser as read_denoiser
    from ldmref.io.diffusers import read_json as read_json
    from ldmref.io.diffusers import require_plain as require_plain
    from ldmref.io.key_table import KeyEntry as KeyEntry
    from ldmref.math import timestep_embedding as timestep_embedding
    from ldmref.models import layers as layers
    from ldmref.models import specs as specs
    from ldmref.models import transformer_layers as transformer_layers
    from ldmref.models.autoencoder_config import BaseAutoencoderConfig as BaseAutoencoderConfig
    from ldmref.models.autoencoder_kind import Autoencoder as Autoencoder
    from ldmref.models.autoencoder_kind import find_autoencoder as find_autoencoder
    from ldmref.models.conditioning import Conditioning as Conditioning
    from ldmref.models.conditioning import get_hidden_states as get_hidden_states
    from ldmref.models.config import AutoencoderConfig as AutoencoderConfig
    from ldmref.models.config import Defaults as Defaults
    from ldmref.models.config import ModelConfig as ModelConfig
    from ldmref.models.declared import CallSize as CallSize
    from ldmref.models.declared import DeclaredNetwork as DeclaredNetwork
    from ldmref.models.declared import NetworkInput as NetworkInput
    from ldmref.models.declared import NetworkOutput as NetworkOutput
    from ldmref.models.declared import TextAttention as TextAttention
    from ldmref.models.declared_control import DeclaredControl as DeclaredControl
    from ldmref.models.declared_references import DeclaredReferences as DeclaredReferences
    from ldmref.models.denoiser_config import DenoiserConfig as DenoiserConfig
    from ldmref.models.family import Averages as Averages
    from ldmref.models.family import Family as Family
    from ldmref.models.family import GuidanceScale as GuidanceScale
    from ldmref.models.family import LoraRules as LoraRules
    from ldmref.models.family import SingleFile as SingleFile
    from ldmref.models.family import TextPath as TextPath
    from ldmref.models.family import Work as Work
    from ldmref.models.family import guide_above_one as guide_above_one
    from ldmref.models.family import guide_always as guide_always
    from ldmref.models.family import guide_by_difference as guide_by_difference
    from ldmref.models.params import Params as Params
    from ldmref.models.params import Spec as Spec
    from ldmref.models.params import flatten as flatten
    from ldmref.models.params import numbered as numbered
    from ldmref.models.steering import AttentionGuidance as AttentionGuidance
    from ldmref.models.steering import Steerable as Steerable
    from ldmref.models.text import EncodedText as EncodedText
    from ldmref.models.text import encode_tokens as encode_tokens
    from ldmref.models.text_config import TextConfig as TextConfig
    from ldmref.models.text_kind import TextEncoder as TextEncoder
    from ldmref.models.transformer_layers import attend_jointly as attend_jointly
    from ldmref.prompts import PromptTemplate as PromptTemplate
    from ldmref.prompts import PromptTokenizer as PromptTokenizer
    from ldmref.prompts import SpecialTokens as SpecialTokens
    from ldmref.prompts import Tokens as Tokens
    from ldmref.prompts import load_tokenizer as load_tokenizer
    from ldmref.samplers.config import SchedulerConfig as SchedulerConfig

__getattr__, __dir__, __all__ = export_lazily(__name__)
