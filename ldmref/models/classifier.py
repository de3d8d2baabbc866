"""A classifier of noisy latents: the encoder half of a U-Net, averaged over all cells.

Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.1 (there with attention pooling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ldmref.backends.base import Backend
from ldmref.declare import Length
from ldmref.math.arrays import Array
from ldmref.models import layers as nn
from ldmref.models import specs
from ldmref.models.denoiser_config import UNetConfig, Width, Widths
from ldmref.models.params import Params, Spec
from ldmref.models.unet import embed_timestep, run_encoder, unet_spec

HALF = ("conv_in", "time_embedding", "down_blocks", "mid_block")


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier of latents (n, in_channels, h, w) at a training timestep of the model's."""

    in_channels: Width = 4
    block_out_channels: Widths = (32, 64)  # per level
    layers_per_block: Width = 1
    norm_num_groups: Width = 8
    class_names: Annotated[tuple[str, ...], Length(2, 65536)] = ()  # in the order of the logits

    @property
    def unet(self) -> UNetConfig:
        """The U-Net whose encoder is used, with self-attention at the lowest level."""
        levels = len(self.block_out_channels)
        return UNetConfig(
            in_channels=self.in_channels,
            out_channels=self.in_channels,
            block_out_channels=self.block_out_channels,
            layers_per_block=self.layers_per_block,
            attention_levels=(False,) * (levels - 1) + (True,),
            attention="self",
            num_heads=(1,) * levels,
            transformer_layers_per_block=(1,) * levels,
            cross_attention_dim=0,
            norm_num_groups=self.norm_num_groups,
        )


def classifier_spec(config: ClassifierConfig) -> Spec:
    """Return the shapes of every parameter of the classifier."""
    spec = unet_spec(config.unet)
    width = config.block_out_channels[-1]
    head: Spec = {"norm": specs.norm_spec(width)}
    head["linear"] = specs.linear_spec(width, len(config.class_names))
    return {name: spec[name] for name in HALF} | {"head": head}


def classifier_features(
    ops: Backend, p: Params, config: ClassifierConfig, x: Array, t: Array
) -> Array:
    """Compute the features before the last layer; x: (n, c, h, w) noisy, t: (n,) -> (n, d)."""
    unet = config.unet
    emb = embed_timestep(ops, p, unet, x, t, None, None, None)
    x, _ = run_encoder(ops, p, unet, nn.conv2d(ops, p.conv_in, x), emb, None)
    x = nn.norm_silu(ops, p.head.norm, x, unet.norm_num_groups, unet.norm_eps)
    return ops.xp.mean(x, axis=(2, 3))


def classifier(ops: Backend, p: Params, config: ClassifierConfig, x: Array, t: Array) -> Array:
    """Compute logits of p(class | x_t), (n, k).

    Args:
        ops: The backend.
        p: The parameters of `classifier_spec`.
        config: The configuration.
        x: Noisy latents in variance-preserving scale, (n, c, h, w).
        t: Training timesteps, (n,).
    """
    return nn.linear(ops, p.head.linear, classifier_features(ops, p, config, x, t))
