"""The rules that a configuration must obey before anything is built from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.errors import CorruptModelError, did_you_mean

if TYPE_CHECKING:
    from ldmref.models.config import ModelConfig

CONCAT = ("", "masked_image", "low_resolution", "segmentation")
MODEL_TYPES = ("clip", "ldmbert", "class", "none")


def check_config(config: ModelConfig) -> None:
    """Refuse a configuration whose parts do not fit each other, or whose numbers are absurd.

    Raises:
        CorruptModelError: names the first rule that is broken.
    """
    for rule, holds in (_unet_rules(config) | _other_rules(config)).items():
        if not holds:
            raise CorruptModelError(f"bad model configuration: {rule}", code="E-CONFIG")
    u, s = config.unet, config.scheduler
    for name, value, known in (
        ("unet.class_embed_type", u.class_embed_type, ("", "simple_projection")),
        ("unet.addition_embed_type", u.addition_embed_type, ("", "text_time")),
        ("unet.attention", u.attention, ("cross", "self")),
        ("unet.resnet_time_scale_shift", u.resnet_time_scale_shift, ("default", "scale_shift")),
        ("concat", config.concat, CONCAT),
        ("text_encoder.model_type", config.text_encoder.model_type, MODEL_TYPES),
        ("scheduler.prediction_type", s.prediction_type, ("eps", "v", "x0")),
        ("scheduler.beta_schedule", s.beta_schedule, ("linear", "scaled_linear", "cosine")),
        ("scheduler.solver_type", s.solver_type, ("", "midpoint", "heun", "bh1", "bh2")),
        ("scheduler.timestep_rounding", s.timestep_rounding, ("", "round", "cut")),
        ("scheduler.variance_type", s.variance_type, ("fixed_small", "fixed_large")),
        *(("hidden_act", t.hidden_act, ("gelu", "quick_gelu")) for t in config.text_encoders),
    ):
        if value not in known:
            raise CorruptModelError(
                f"bad model configuration: {name} = {value!r}",
                code="E-CONFIG",
                hint=did_you_mean(str(value), known),
            )


def _unet_rules(config: ModelConfig) -> dict[str, bool]:
    u, v = config.unet, config.vae
    levels = len(u.block_out_channels)
    per_level = (u.attention_levels, u.num_heads, u.transformer_layers_per_block)
    sizes = 6 * u.addition_time_embed_dim
    texts, extra = config.text_encoders, config.image_channels
    pooled = texts[-1].projection_dim if texts else 0
    return {
        "unet.attention_levels needs an entry per level": len(per_level[0]) == levels,
        "unet.num_heads needs an entry per level": len(per_level[1]) == levels,
        "unet.transformer_layers_per_block needs an entry per level": len(per_level[2]) == levels,
        "unet.transformer_layers_per_block must be from 1 to 100": all(
            0 < n <= 100 for n in u.transformer_layers_per_block
        ),
        "unet.num_heads must divide the level's channels": all(
            h > 0 and c % h == 0 for c, h in zip(u.block_out_channels, u.num_heads, strict=False)
        ),
        "unet.out_channels must equal vae.latent_channels": u.out_channels == v.latent_channels,
        "unet.in_channels must be vae.latent_channels, or 1 + 2 times that for inpainting": (
            config.concat != "" or extra in (0, 1 + v.latent_channels)
        ),
        "unet.in_channels must be 1 + 2 times vae.latent_channels with concat 'masked_image'": (
            config.concat != "masked_image" or extra == 1 + v.latent_channels
        ),
        "unet.in_channels must be vae.latent_channels + vae.in_channels with concat "
        "'low_resolution'": config.concat != "low_resolution" or extra == v.in_channels,
        "unet.in_channels must be more than vae.latent_channels with concat 'segmentation'": (
            config.concat != "segmentation" or extra > 0
        ),
        "segmentation_classes must be from 1 to 65536 with concat 'segmentation', else 0": (
            (0 < config.segmentation_classes <= 65536)
            if config.concat == "segmentation"
            else config.segmentation_classes == 0
        ),
        "a U-Net with cross-attention needs a text encoder, and no other U-Net has one": (
            (u.attention == "cross") == bool(texts)
        ),
        "only CLIP comes in twos": config.text_encoder_2 is None
        or {t.model_type for t in texts} == {"clip"},
        "unet.cross_attention_dim must equal the text encoders' hidden_size": (
            not texts or u.cross_attention_dim == sum(t.hidden_size for t in texts)
        ),
        "unet.projection_class_embeddings_input_dim must be pooled text and six sizes": (
            not u.addition_embed_type
            or 0 < pooled == u.projection_class_embeddings_input_dim - sizes
        ),
    }


def _other_rules(config: ModelConfig) -> dict[str, bool]:
    u, v, s, texts = config.unet, config.vae, config.scheduler, config.text_encoders
    widths = [*u.block_out_channels, *v.block_out_channels]
    widths += [w for t in texts for w in (t.hidden_size, t.intermediate_size)]
    groups = ((u.norm_num_groups, u.block_out_channels), (v.norm_num_groups, v.block_out_channels))
    return {
        "every width must be from 1 to 65536": all(0 < w <= 65536 for w in widths),
        "norm_num_groups must divide every channel count": all(
            n > 0 and all(c % n == 0 for c in channels) for n, channels in groups
        ),
        "num_attention_heads must divide the text encoder's hidden_size": all(
            t.num_attention_heads > 0
            and (t.head_dim > 0 or t.hidden_size % t.num_attention_heads == 0)
            for t in texts
        ),
        "head_dim must be from 0 to 65536, and is for 'ldmbert' only": all(
            0 <= t.head_dim <= 65536 and (t.head_dim == 0 or t.model_type == "ldmbert")
            for t in texts
        ),
        "vae.attention_levels needs an entry per level, or none": (
            len(v.attention_levels) in (0, len(v.block_out_channels))
        ),
        "vae.codebook_size must be from 0 to 10000000": 0 <= v.codebook_size <= 10**7,
        "skipped_layers must leave a layer of the text encoder": all(
            0 <= t.skipped_layers < t.num_hidden_layers for t in texts
        ),
        "scheduler.num_train_timesteps must be from 2 to 100000": (
            2 <= s.num_train_timesteps <= 100000
        ),
        "scheduler betas must satisfy 0 < beta_start <= beta_end < 1": (
            0 < s.beta_start <= s.beta_end < 1
        ),
        "scheduler.trained_betas needs a number in (0, 1) per training timestep, or none": (
            not s.trained_betas
            or (
                (len(s.trained_betas) == s.num_train_timesteps)
                and all(0 < beta < 1 for beta in s.trained_betas)
            )
        ),
        "scheduler.thresholding_ratio must be from 0 to 1": 0 <= s.thresholding_ratio <= 1,
        "scheduler.clip_sample_range and sample_max_value must not be negative": (
            s.clip_sample_range >= 0 and s.sample_max_value >= 0
        ),
        "scheduler.sigma_max must be at least 1": s.sigma_max >= 1,
        "vae.scaling_factor must be positive": v.scaling_factor > 0,
    }
