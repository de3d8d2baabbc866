"""Autoencoders as diffusers has them."""

from __future__ import annotations

from ldmref.families.autoencoders.flux2 import PATCH, Flux2AutoencoderConfig
from ldmref.families.autoencoders.qwen_image import QwenAutoencoderConfig
from ldmref.families.autoencoders.qwen_image_21_config import QwenImage21AutoencoderConfig
from ldmref.models.autoencoder import SIGMOID
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.network_port import NetworkPort

# That diffusers has under the same names
SHARED_FIELDS = """
    in_channels out_channels latent_channels block_out_channels layers_per_block norm_num_groups
    mid_block_add_attention scaling_factor
""".split()
KL_FIELDS = ("shift_factor", "use_quant_conv", "use_post_quant_conv")


def describe_kl_or_vq(config: AutoencoderConfig) -> LibraryObject:
    """Return diffusers' `AutoencoderKL` or `VQModel` of a configuration.

    diffusers has no class for latents in (0, 1): none is there under the name that this returns.

    >>> describe_kl_or_vq(AutoencoderConfig(codebook_size=256)).settings["num_vq_embeddings"]
    256
    """
    levels = len(config.block_out_channels)
    attention = config.attention_levels or (False,) * levels

    def blocks(kind: str) -> list[str]:
        return [f"{'Attn' * attends}{kind}Block2D" for attends in attention]

    settings = {name: getattr(config, name) for name in SHARED_FIELDS}
    settings |= {
        "down_block_types": blocks("DownEncoder"),
        "up_block_types": blocks("UpDecoder")[::-1],
    }
    if config.codebook_size:
        sizes = {"num_vq_embeddings": config.codebook_size, "vq_embed_dim": config.latent_channels}
        return LibraryObject("diffusers:VQModel", settings | sizes)
    settings |= {name: getattr(config, name) for name in KL_FIELDS}
    kind = SIGMOID if config.latent_activation else "AutoencoderKL"
    return LibraryObject(f"diffusers:{kind}", settings)


def describe_flux2(config: Flux2AutoencoderConfig) -> LibraryObject:
    """Return diffusers' `AutoencoderKLFlux2` of a configuration.

    >>> describe_flux2(Flux2AutoencoderConfig()).settings["latent_channels"]
    32
    """
    levels = len(config.block_out_channels)
    settings = {
        "latent_channels": config.latent_channels // PATCH**2,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "patch_size": (PATCH, PATCH),
    }
    if config.decoder_block_out_channels:
        settings["decoder_block_out_channels"] = config.decoder_block_out_channels
    return LibraryObject("diffusers:AutoencoderKLFlux2", settings, config)


def describe_qwen_image(config: QwenAutoencoderConfig) -> LibraryObject:
    """Return diffusers' `AutoencoderKLQwenImage` of a configuration; frames are never joined.

    >>> describe_qwen_image(QwenAutoencoderConfig()).settings["z_dim"]
    16
    """
    settings = {
        "z_dim": config.latent_channels,
        "dim_mult": list(config.dim_mult),
        "temperal_downsample": [False] * (len(config.dim_mult) - 1),
    }
    own = ("in_channels", "out_channels", "latent_channels")
    return LibraryObject("diffusers:AutoencoderKLQwenImage", settings, config, own)


def describe_qwen_image_21(config: QwenImage21AutoencoderConfig) -> LibraryObject:
    """Return diffusers' `AutoencoderKLQwenImage21` of a configuration.

    >>> describe_qwen_image_21(QwenImage21AutoencoderConfig()).settings["z_dim"]
    64
    """
    settings = {
        "z_dim": config.latent_channels,
        "dim_mult": list(config.dim_mult),
        "temperal_downsample": list(config.temporal_downsample),
    }
    own = ("latent_channels", "temporal_downsample")
    return LibraryObject("diffusers:AutoencoderKLQwenImage21", settings, config, own)


KL_PORT = NetworkPort("kl", describe_kl_or_vq)
VQ_PORT = NetworkPort("vq", describe_kl_or_vq)
FLUX2_PORT = NetworkPort("flux2", describe_flux2)
QWEN_IMAGE_PORT = NetworkPort("qwen-image", describe_qwen_image)
QWEN_IMAGE_21_PORT = NetworkPort("qwen-image-2.1", describe_qwen_image_21)
