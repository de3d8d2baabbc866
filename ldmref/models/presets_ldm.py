"""The checkpoints of the latent diffusion paper: first stages and models.

Rombach et al. 2022, arXiv:2112.10752, tables 12 to 15; CompVis/latent-diffusion, the config.yaml
files in models/ and configs/.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ldmref.models.config import AutoencoderConfig, Defaults, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.samplers.config import SchedulerConfig


def _first_stage(
    multiples: tuple[int, ...], channels: int, codebook_size: int, attention: tuple[int, ...] = ()
) -> AutoencoderConfig:
    """Build an autoencoder of widths 128 * multiples; `attention` lists levels with attention."""
    levels = range(len(multiples))
    return AutoencoderConfig(
        latent_channels=channels,
        block_out_channels=tuple(128 * m for m in multiples),
        attention_levels=tuple(level in attention for level in levels) if attention else (),
        codebook_size=codebook_size,
        scaling_factor=1.0,
    )


_VQ_F4 = _first_stage((1, 2, 4), 3, 8192)
FIRST_STAGES: dict[str, AutoencoderConfig] = {
    "vq-f4": _VQ_F4,
    "vq-f8": _first_stage((1, 2, 2, 4), 4, 16384, (3,)),
    "vq-f8-n256": _first_stage((1, 2, 2, 4), 4, 256, (3,)),
    "vq-f16": _first_stage((1, 1, 2, 2, 4), 8, 16384, (4,)),
    "kl-f4": _first_stage((1, 2, 4), 3, 0),
    "kl-f8": _first_stage((1, 2, 4, 4), 4, 0),
    "kl-f16": _first_stage((1, 1, 2, 2, 4), 16, 0, (4,)),
    "kl-f32": _first_stage((1, 1, 2, 2, 4, 4), 64, 0, (4, 5)),
    "vq-f4-noattn": replace(_VQ_F4, mid_block_add_attention=False),
}


_NO_PROMPT = TextConfig(model_type="none", num_hidden_layers=1)


def _unet(
    base: int,
    multiples: tuple[int, ...],
    attention: tuple[int, ...],
    heads: tuple[int, ...],
    *,
    channels: int = 3,
    image_channels: int = 0,
    context: int = 0,
    **more: Any,
) -> UNetConfig:
    """Build a U-Net of widths base * multiples; `attention` lists the levels with attention.

    `context` is the width of the text encoder's states; 0 for unconditional models.
    """
    return UNetConfig(
        in_channels=channels + image_channels,
        out_channels=channels,
        block_out_channels=tuple(base * m for m in multiples),
        attention_levels=tuple(level in attention for level in range(len(multiples))),
        attention="cross" if context else "self",
        cross_attention_dim=context,
        num_heads=heads,
        transformer_layers_per_block=(1,) * len(multiples),
        **more,
    )


def _model(
    name: str,
    unet: UNetConfig,
    text_encoder: TextConfig = _NO_PROMPT,
    *,
    vae: AutoencoderConfig = _VQ_F4,
    betas: tuple[float, float] = (0.0015, 0.0195),
    steps: int = 50,
    cfg_scale: float = 1.0,
    **more: Any,
) -> ModelConfig:
    """Build a model for 256 x 256 images; `betas` holds the first and the last beta."""
    return ModelConfig(
        name=name,
        denoiser=unet,
        vae=vae,
        text_encoder=text_encoder,
        scheduler=SchedulerConfig(beta_start=betas[0], beta_end=betas[1]),
        defaults=Defaults(steps=steps, cfg_scale=cfg_scale, width=256, height=256),
        **more,
    )


def _ldmbert(width: int) -> TextConfig:
    return TextConfig(
        model_type="ldmbert",
        vocab_size=30522,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=32,
        num_attention_heads=8,
        head_dim=64,
        hidden_act="gelu",
    )


_IMAGENET_CLASSES = TextConfig(
    model_type="class",
    vocab_size=1001,
    hidden_size=512,
    num_hidden_layers=1,
    num_attention_heads=1,
    max_position_embeddings=1,
)
_MODELS = (
    # CelebA-HQ, FFHQ, LSUN bedrooms
    _model("ldm-unconditional", _unet(224, (1, 2, 3, 4), (1, 2, 3), (7, 14, 21, 28))),
    # LSUN churches; the scaling factor is in the file
    _model("ldm-churches",
           _unet(192, (1, 2, 2, 4, 4), (0, 1, 2, 3), (8,) * 5, channels=4, sample_size=32,
                 resnet_updown=True, resnet_time_scale_shift="scale_shift"),
           vae=FIRST_STAGES["kl-f8"], betas=(0.0015, 0.0155)),
    # ImageNet, cin256-v2
    _model("ldm-imagenet", _unet(192, (1, 2, 3, 5), (1, 2, 3), (1,) * 4, context=512),
           _IMAGENET_CLASSES, cfg_scale=3.0),
    # txt2img-f8-large, 1.45 billion parameters; autoencoder and betas of Stable Diffusion
    _model("ldm-text2img-large",
           _unet(320, (1, 2, 4, 4), (0, 1, 2), (8,) * 4, channels=4, sample_size=32, context=1280),
           _ldmbert(1280), vae=AutoencoderConfig(), betas=(0.00085, 0.012), cfg_scale=5.0),
    _model("ldm-text2img256",
           _unet(192, (1, 2, 3, 5), (1, 2, 3), (6, 12, 18, 30), context=640),
           _ldmbert(640), cfg_scale=5.0),
    # inpainting_big
    _model("ldm-inpainting",
           _unet(256, (1, 2, 3, 4), (1, 2, 3), (8,) * 4, image_channels=4, resnet_updown=True),
           vae=FIRST_STAGES["vq-f4-noattn"], betas=(0.0015, 0.0205), concat="masked_image"),
    # bsr_sr
    _model("ldm-superres", _unet(160, (1, 2, 2, 4), (3,), (5, 10, 10, 20), image_channels=3),
           betas=(0.0015, 0.0155), steps=100, concat="low_resolution"),
    # semantic_synthesis256, semantic_synthesis512
    _model("ldm-semantic", _unet(128, (1, 4, 8), (), (8,) * 3, image_channels=3),
           betas=(0.0015, 0.0205), concat="segmentation", segmentation_classes=182),
)  # fmt: skip
LDM_PRESETS: dict[str, ModelConfig] = {config.name: config for config in _MODELS}
