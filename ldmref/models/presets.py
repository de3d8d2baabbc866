"""Named configurations: this project's own models and the families of Stable Diffusion.

`presets_ldm` has those of the latent diffusion paper.
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.errors import UsageError, did_you_mean
from ldmref.models.config import AutoencoderConfig, Defaults, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import list_families
from ldmref.models.presets_ldm import LDM_PRESETS
from ldmref.samplers.config import SchedulerConfig

_TINY = ModelConfig(
    name="tiny",
    denoiser=UNetConfig(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_levels=(True, False),
        num_heads=(2, 2),
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=32,
        norm_num_groups=8,
    ),
    vae=AutoencoderConfig(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0
    ),
    text_encoder=TextConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    ),
    defaults=Defaults(steps=4, cfg_scale=2.0, width=16, height=16),
)

_EMOJI = ModelConfig(
    name="emoji",
    denoiser=UNetConfig(
        in_channels=16,
        out_channels=16,
        sample_size=8,
        block_out_channels=(128, 160),
        layers_per_block=1,
        attention_levels=(True, True),
        num_heads=(4, 5),
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=192,
        class_embed_type="simple_projection",
    ),
    vae=AutoencoderConfig(
        latent_channels=16,
        block_out_channels=(16, 32, 96, 96),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=1.0,
    ),
    text_encoder=TextConfig(
        vocab_size=3072,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=16,
    ),
    scheduler=SchedulerConfig(
        beta_schedule="cosine",
        prediction_type="v",
        sampler="dpmpp_2m",
        spacing="trailing",
        final_sigma="zero",
        steps_offset=0,
        sigma_max=40.0,
    ),
    defaults=Defaults(one_size=True, steps=20, cfg_scale=2.5, width=64, height=64),
)

_EMOJI_128 = replace(
    _EMOJI,
    name="emoji-128",
    denoiser=replace(
        _EMOJI.unet,
        sample_size=16,
        block_out_channels=(96, 128, 160),
        attention_levels=(False, True, True),
        num_heads=(3, 4, 5),
        transformer_layers_per_block=(1, 1, 1),
    ),
    text_encoder=replace(
        _EMOJI.text_encoder, vocab_size=3328, num_hidden_layers=3, max_position_embeddings=24
    ),
    defaults=replace(_EMOJI.defaults, width=128, height=128),
)

_OPENCLIP_H = TextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
_OPENCLIP_BIGG = TextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
    skipped_layers=1,
    final_norm=False,
)
_PUBLISHED = SchedulerConfig(  # as in the scheduler_config.json of their repositories
    sampler="pndm",
    spacing="leading",
    final_sigma="zero",
    final_alpha="sigma_min",
    convention="diffusers",
    sigma_max=1e5,
    full_range=True,
)
_SD15 = ModelConfig(name="sd15", scheduler=_PUBLISHED)
_SD2 = replace(
    _SD15,
    name="sd2-base",
    text_encoder=_OPENCLIP_H,
    denoiser=UNetConfig(
        num_heads=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
    ),
)
_SDXL = ModelConfig(
    name="sdxl",
    denoiser=UNetConfig(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        attention_levels=(False, True, True),
        num_heads=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        use_linear_projection=True,
    ),
    vae=AutoencoderConfig(scaling_factor=0.13025),
    text_encoder=TextConfig(skipped_layers=1, final_norm=False),
    text_encoder_2=_OPENCLIP_BIGG,
    zero_empty_negative=True,
    scheduler=replace(_PUBLISHED, sampler="euler"),
    defaults=Defaults(cfg_scale=5.0, inpaint_cfg_scale=7.5, width=1024, height=1024),
)
_SD2_V = replace(
    _SD2,
    name="sd2-v",
    denoiser=replace(_SD2.unet, sample_size=96),
    scheduler=replace(_PUBLISHED, sampler="ddim", prediction_type="v"),
    defaults=Defaults(width=768, height=768),
)


def _inpainting(config: ModelConfig, name: str) -> ModelConfig:
    """Return the same model with mask and masked latents as additional input."""
    return replace(config, name=name, denoiser=replace(config.unet, in_channels=9))


_MODELS = (
    _TINY, _EMOJI, _EMOJI_128, _SD15, _inpainting(_SD15, "sd15-inpainting"),
    _SD2, _SD2_V, _inpainting(_SD2, "sd2-inpainting"), _SDXL,
)  # fmt: skip
PRESETS: dict[str, ModelConfig] = {config.name: config for config in _MODELS} | LDM_PRESETS
"""The configuration of each model family by name, without weights: `PRESETS["sd15"]`."""


def preset(name: str) -> ModelConfig:
    """Return the configuration with that name.

    Args:
        name: A name in `PRESETS`, such as "sd15", or among the presets of an installed family.

    Returns:
        The configuration; `random_model(name)` builds a model with it.

    Raises:
        UsageError: There is none; the hint suggests the nearest name.

    >>> from ldmref.models import preset
    >>> preset("sd15").unet.cross_attention_dim
    768
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    known = list_presets()
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(str(name), known)
        raise UsageError(f"unknown preset {name!r}", code="E-PRESET", hint=hint)
    return known[name]


def list_presets() -> dict[str, ModelConfig]:
    """Return the presets of all families by name; those of `PRESETS` come first."""
    found: dict[str, ModelConfig] = {}
    for family in list_families():
        found |= {name: config for name, config in family.presets.items() if name not in found}
    return found
