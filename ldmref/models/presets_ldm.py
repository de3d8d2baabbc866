"""The checkpoints of the latent diffusion paper: first stages and models.

Rombach et al. 2022, arXiv:2112.10752, tables 12 to 15; CompVis/latent-diffusion, the config.yaml
files below models/ and configs/.
"""

from __future__ import annotations

from dataclasses import replace

from ldmref.models.config import AutoencoderConfig, Defaults, ModelConfig, TextConfig, UNetConfig
from ldmref.samplers.config import SchedulerConfig


def _first_stage(
    multiples: tuple[int, ...], channels: int, codebook_size: int, attends: tuple[int, ...] = ()
) -> AutoencoderConfig:
    """Widths are multiples of 128; `attends` names the levels with attention."""
    levels = range(len(multiples))
    return AutoencoderConfig(
        latent_channels=channels,
        block_out_channels=tuple(128 * m for m in multiples),
        attention_levels=tuple(level in attends for level in levels) if attends else (),
        codebook_size=codebook_size,
        scaling_factor=1.0,
    )


FIRST_STAGES: dict[str, AutoencoderConfig] = {
    "vq-f4": _first_stage((1, 2, 4), 3, 8192),
    "vq-f8": _first_stage((1, 2, 2, 4), 4, 16384, (3,)),
    "vq-f8-n256": _first_stage((1, 2, 2, 4), 4, 256, (3,)),
    "vq-f16": _first_stage((1, 1, 2, 2, 4), 8, 16384, (4,)),
    "kl-f4": _first_stage((1, 2, 4), 3, 0),
    "kl-f8": _first_stage((1, 2, 4, 4), 4, 0),
    "kl-f16": _first_stage((1, 1, 2, 2, 4), 16, 0, (4,)),
    "kl-f32": _first_stage((1, 1, 2, 2, 4, 4), 64, 0, (4, 5)),
}
_VQ_F4 = FIRST_STAGES["vq-f4"]
_VQ_F4_NOATTN = AutoencoderConfig(
    latent_channels=3, block_out_channels=(128, 256, 512), mid_block_add_attention=False,
    codebook_size=8192, scaling_factor=1.0,
)  # fmt: skip
FIRST_STAGES["vq-f4-noattn"] = _VQ_F4_NOATTN
_KL_F8 = AutoencoderConfig()  # with Stable Diffusion's scale

_NO_PROMPT = TextConfig(model_type="none", num_hidden_layers=1)


def _unet(
    base: int,
    multiples: tuple[int, ...],
    attends: tuple[int, ...],
    heads: tuple[int, ...],
    channels: int = 3,
    extra: int = 0,
    side: int = 64,
    context: int = 0,
) -> UNetConfig:
    """Widths are multiples of `base`, attention at the levels `attends`; `context` 0: no prompt."""
    return UNetConfig(
        in_channels=channels + extra,
        out_channels=channels,
        sample_size=side,
        block_out_channels=tuple(base * m for m in multiples),
        attention_levels=tuple(level in attends for level in range(len(multiples))),
        attention="cross" if context else "self",
        num_heads=heads,
        transformer_layers_per_block=(1,) * len(multiples),
        cross_attention_dim=context,
    )


def _scheduler(beta_end: float, beta_start: float = 0.0015) -> SchedulerConfig:
    return SchedulerConfig(beta_start=beta_start, beta_end=beta_end)


def _defaults(steps: int = 50, cfg_scale: float = 1.0, side: int = 256) -> Defaults:
    return Defaults(steps=steps, cfg_scale=cfg_scale, width=side, height=side)


def _ldmbert(width: int) -> TextConfig:
    return TextConfig(
        model_type="ldmbert", vocab_size=30522, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=32, num_attention_heads=8, head_dim=64, hidden_act="gelu",
    )  # fmt: skip


def _updown(unet: UNetConfig, time: str = "default") -> UNetConfig:
    return replace(unet, resnet_updown=True, resnet_time_scale_shift=time)


LDM_PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(  # CelebA-HQ, FFHQ, LSUN bedrooms
            name="ldm-unconditional",
            unet=_unet(224, (1, 2, 3, 4), (1, 2, 3), (7, 14, 21, 28)),
            vae=_VQ_F4,
            text_encoder=_NO_PROMPT,
            scheduler=_scheduler(0.0195),
            defaults=_defaults(),
        ),
        ModelConfig(  # LSUN churches; the file holds the scaling factor
            name="ldm-churches",
            unet=_updown(
                _unet(192, (1, 2, 2, 4, 4), (0, 1, 2, 3), (8,) * 5, channels=4, side=32),
                "scale_shift",
            ),
            vae=FIRST_STAGES["kl-f8"],
            text_encoder=_NO_PROMPT,
            scheduler=_scheduler(0.0155),
            defaults=_defaults(),
        ),
        ModelConfig(  # ImageNet, cin256-v2
            name="ldm-imagenet",
            unet=_unet(192, (1, 2, 3, 5), (1, 2, 3), (1, 1, 1, 1), context=512),
            vae=_VQ_F4,
            text_encoder=TextConfig(
                model_type="class",
                vocab_size=1001,
                hidden_size=512,
                num_hidden_layers=1,
                num_attention_heads=1,
                max_position_embeddings=1,
            ),
            scheduler=_scheduler(0.0195),
            defaults=_defaults(cfg_scale=3.0),
        ),
        ModelConfig(  # txt2img-f8-large, 1.45 billion parameters
            name="ldm-text2img-large",
            unet=_unet(
                320, (1, 2, 4, 4), (0, 1, 2), (8, 8, 8, 8), channels=4, side=32, context=1280
            ),
            vae=_KL_F8,
            text_encoder=_ldmbert(1280),
            scheduler=SchedulerConfig(),
            defaults=_defaults(cfg_scale=5.0),
        ),
        ModelConfig(
            name="ldm-text2img256",
            unet=_unet(192, (1, 2, 3, 5), (1, 2, 3), (6, 12, 18, 30), context=640),
            vae=_VQ_F4,
            text_encoder=_ldmbert(640),
            scheduler=_scheduler(0.0195),
            defaults=_defaults(cfg_scale=5.0),
        ),
        ModelConfig(  # inpainting_big
            name="ldm-inpainting",
            unet=_updown(_unet(256, (1, 2, 3, 4), (1, 2, 3), (8, 8, 8, 8), extra=4)),
            vae=_VQ_F4_NOATTN,
            text_encoder=_NO_PROMPT,
            concat="masked_image",
            scheduler=_scheduler(0.0205),
            defaults=_defaults(),
        ),
        ModelConfig(  # bsr_sr
            name="ldm-superres",
            unet=_unet(160, (1, 2, 2, 4), (3,), (5, 10, 10, 20), extra=3),
            vae=_VQ_F4,
            text_encoder=_NO_PROMPT,
            concat="low_resolution",
            scheduler=_scheduler(0.0155),
            defaults=_defaults(steps=100),
        ),
        ModelConfig(  # semantic_synthesis256, semantic_synthesis512
            name="ldm-semantic",
            unet=_unet(128, (1, 4, 8), (), (8, 8, 8), extra=3),
            vae=_VQ_F4,
            text_encoder=_NO_PROMPT,
            concat="segmentation",
            segmentation_classes=182,
            scheduler=_scheduler(0.0205),
            defaults=_defaults(),
        ),
    )
}
