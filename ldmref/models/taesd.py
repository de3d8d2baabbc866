"""TAESD: a small, distilled autoencoder in the latent space of a large one.

It reads and writes the *scaled* latents of the model that it was distilled from, so it needs no
scaling factor, and it is deterministic: a picture has one latent, not a distribution.

Source: madebyollin/taesd; parameter names of diffusers' AutoencoderTiny, in which a layer's number
counts the layers without parameters (activations, upsampling) too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.layers import conv_spec
from ldmref.models.params import Params, Spec, tree_map
from ldmref.models.tiling import decode_tiled

LATENT_BOUND = 3.0  # the decoder bends latents into (-3, 3)


@dataclass(frozen=True)
class TinyConfig:
    """Widths, and residual blocks per level; the encoder halves and the decoder doubles between."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    encoder_channels: int = 64
    decoder_channels: int = 64
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)

    @property
    def factor(self) -> int:
        """Pixels per latent cell, f = 2^(levels - 1)."""
        return 2 ** (len(self.num_encoder_blocks) - 1)


def tiny_spec(config: TinyConfig) -> Spec:
    """The shapes of every parameter of both halves."""
    e, d, z = config.encoder_channels, config.decoder_channels, config.latent_channels
    encoder, decoder = [conv_spec(config.in_channels, e)], [conv_spec(z, d), {}]
    for level, blocks in enumerate(config.num_encoder_blocks):
        encoder += [_bare_conv_spec(e)] * (level > 0) + [_block_spec(e)] * blocks
    last = len(config.num_decoder_blocks) - 1
    for level, blocks in enumerate(config.num_decoder_blocks):
        decoder += [_block_spec(d)] * blocks + [{}, _bare_conv_spec(d)] * (level < last)
    encoder.append(conv_spec(e, z))
    decoder.append(conv_spec(d, config.out_channels))
    return {
        name: {"layers": {str(i): layer for i, layer in enumerate(layers) if layer}}
        for name, layers in (("encoder", encoder), ("decoder", decoder))
    }


def _bare_conv_spec(c: int) -> Spec:
    return {"weight": (c, c, 3, 3)}


def _block_spec(c: int) -> Spec:
    return {"conv": {str(i): conv_spec(c, c) for i in (0, 2, 4)}}


def tiny_encode(ops: Backend, p: Params, config: TinyConfig, image: Array) -> Array:
    """Scaled latents; image: (n, 3, H, W) in [-1, 1] -> (n, z, H/f, W/f)."""
    layers = _Layers(ops, p.encoder.layers)
    x = layers.conv((image + 1.0) * 0.5)
    for level, blocks in enumerate(config.num_encoder_blocks):
        if level:
            x = layers.conv(x, stride=2)
        for _ in range(blocks):
            x = layers.block(x)
    return layers.conv(x)


def tiny_decode(ops: Backend, p: Params, config: TinyConfig, latents: Array) -> Array:
    """The picture of scaled latents; (n, z, h, w) -> (n, 3, f*h, f*w), about [-1, 1]."""
    layers, last = _Layers(ops, p.decoder.layers), len(config.num_decoder_blocks) - 1
    x = layers.conv(ops.xp.tanh(latents / LATENT_BOUND) * LATENT_BOUND)
    x = layers.relu(x)
    for level, blocks in enumerate(config.num_decoder_blocks):
        for _ in range(blocks):
            x = layers.block(x)
        if level < last:
            x = layers.conv(layers.upsample2x(x))
    return layers.conv(x) * 2.0 - 1.0


class _Layers:
    """The layers of one half, applied one after the other; every call takes the next number."""

    def __init__(self, ops: Backend, p: Params):
        self.ops, self.p, self.next = ops, p, 0

    def conv(self, x: Array, stride: int = 1) -> Array:
        p = self.p[str(self._number())]
        return self.ops.conv2d(x, p.weight, p.get("bias"), stride, 1)

    def relu(self, x: Array) -> Array:
        self._number()
        return self.ops.xp.clip(x, 0.0, None)

    def upsample2x(self, x: Array) -> Array:
        self._number()
        return self.ops.upsample2x(x)

    def block(self, x: Array) -> Array:
        """relu(x + conv(relu(conv(relu(conv(x))))))."""
        p, h = self.p[str(self._number())].conv, x
        for i in ("0", "2", "4"):
            h = self.ops.conv2d(h, p[i].weight, p[i].bias, 1, 1)
            h = self.ops.xp.clip(h if i != "4" else x + h, 0.0, None)
        return h

    def _number(self) -> int:
        self.next += 1
        return self.next - 1


class TinyAutoencoder:
    """Both halves on one backend. Arrays in and out are the backend's own."""

    def __init__(self, backend: Backend, config: TinyConfig, params: Mapping[str, Any]):
        self.backend, self.config = backend, config
        self.params: Any = tree_map(backend.weight, params)

    def encode(self, images: Array) -> Array:
        """Scaled latents (n, z, h, w) of pictures (n, 3, H, W) in [-1, 1]."""
        with self.backend.inference():
            return tiny_encode(self.backend, self.params, self.config, images)

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Pictures (n, 3, H, W), about [-1, 1], of scaled latents (n, z, h, w).

        With `tile`, pixels of a side, in overlapping tiles (`ldmref.models.tiling`).
        """
        ops = self.backend

        def whole(z: Array) -> Array:
            return tiny_decode(ops, self.params, self.config, z)

        with ops.inference():
            if tile is None:
                return whole(latents)
            return decode_tiled(ops, whole, latents, self.config.factor, tile)

    def __repr__(self) -> str:
        return f"<TinyAutoencoder on {self.backend!r}>"
