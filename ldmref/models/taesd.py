"""TAESD: a tiny autoencoder distilled from a large one, in the same latent space.

Its latents are the *scaled* ones of the large model, so it has no scaling factor. It is
deterministic: the encoder returns latents, not a distribution.

Source: madebyollin/taesd; parameter names of diffusers' AutoencoderTiny, whose layer numbers also
count layers without parameters (activations, upsampling).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.denoiser_config import LayersPerLevel, Width
from ldmref.models.layers import conv2d
from ldmref.models.lazy_params import CompiledNetworks
from ldmref.models.params import Params, Spec, tree_map
from ldmref.models.specs import conv_spec
from ldmref.models.tiling import decode_tiled

LATENT_BOUND = 3.0  # the decoder soft-clips latents to (-3, 3)


@dataclass(frozen=True)
class TinyConfig:
    """The configuration of TAESD.

    Between two levels, the encoder downsamples and the decoder upsamples by 2.

    Args:
        in_channels: Number of channels of the images that are encoded.
        out_channels: Number of channels of the decoded images.
        latent_channels: Number of channels of the latents.
        encoder_channels: Width of the encoder.
        decoder_channels: Width of the decoder.
        num_encoder_blocks: Number of residual blocks of each level of the encoder.
        num_decoder_blocks: Number of residual blocks of each level of the decoder.

    >>> from ldmref.models import TinyConfig
    >>> TinyConfig().factor  # pixels per latent cell
    8
    """

    in_channels: Width = 3
    out_channels: Width = 3
    latent_channels: Width = 4
    encoder_channels: Width = 64
    decoder_channels: Width = 64
    num_encoder_blocks: LayersPerLevel = (1, 3, 3, 3)
    num_decoder_blocks: LayersPerLevel = (3, 3, 3, 1)

    @property
    def factor(self) -> int:
        """Downsampling factor, f = 2^(levels - 1) pixels per latent cell."""
        return 2 ** (len(self.num_encoder_blocks) - 1)


def tiny_spec(config: TinyConfig) -> Spec:
    """Return the shapes of every parameter of encoder and decoder."""
    e = config.encoder_channels
    d = config.decoder_channels
    z = config.latent_channels
    encoder: list[Spec] = [conv_spec(config.in_channels, e)]
    for level, blocks in enumerate(config.num_encoder_blocks):
        encoder += [_resample_spec(e)] * (level > 0) + [_block_spec(e)] * blocks
    relu = {}
    upsample = {}
    decoder: list[Spec] = [conv_spec(z, d), relu]
    last = len(config.num_decoder_blocks) - 1
    for level, blocks in enumerate(config.num_decoder_blocks):
        decoder += [_block_spec(d)] * blocks + [upsample, _resample_spec(d)] * (level < last)
    encoder.append(conv_spec(e, z))
    decoder.append(conv_spec(d, config.out_channels))
    return {
        name: {"layers": {str(i): layer for i, layer in enumerate(layers) if layer}}
        for name, layers in (("encoder", encoder), ("decoder", decoder))
    }


def _resample_spec(c: int) -> Spec:
    """Return the shapes of a convolution between two levels, the only kind without a bias."""
    return {"weight": (c, c, 3, 3)}


def _block_spec(c: int) -> Spec:
    return {"conv": {str(i): conv_spec(c, c) for i in (0, 2, 4)}}


def tiny_encode(ops: Backend, p: Params, image: Array) -> Array:
    """Encode images, (n, 3, H, W) in [-1, 1], as scaled latents (n, z, H/f, W/f)."""
    x = (image + 1.0) * 0.5
    for layer in _layers(p.encoder):
        if "conv" in layer:
            x = _block(ops, layer.conv, x)
        else:
            x = ops.conv2d(x, layer.weight, layer.get("bias"), 1 if "bias" in layer else 2, 1)
    return x


def tiny_decode(ops: Backend, p: Params, latents: Array) -> Array:
    """Decode scaled latents (n, z, h, w) to images (n, 3, f*h, f*w), approximately in [-1, 1]."""
    first, *layers = _layers(p.decoder)
    x = ops.xp.tanh(latents / LATENT_BOUND) * LATENT_BOUND
    x = _relu(ops, conv2d(ops, first, x))
    for layer in layers:
        if "conv" in layer:
            x = _block(ops, layer.conv, x)
        else:
            x = x if "bias" in layer else ops.upsample2x(x)
            x = ops.conv2d(x, layer.weight, layer.get("bias"), 1, 1)
    return x * 2.0 - 1.0


def _layers(p: Params) -> list[Params]:
    """Return the layers with parameters, in order."""
    return [p.layers[number] for number in sorted(p.layers, key=int)]


def _block(ops: Backend, p: Params, x: Array) -> Array:
    """Compute relu(x + conv(relu(conv(relu(conv(x))))))."""
    h = _relu(ops, conv2d(ops, p["0"], x))
    h = _relu(ops, conv2d(ops, p["2"], h))
    return _relu(ops, x + conv2d(ops, p["4"], h))


def _relu(ops: Backend, x: Array) -> Array:
    return ops.xp.clip(x, 0.0, None)


class TinyAutoencoder:
    """TAESD's encoder and decoder on one backend; `ldmref.load_taesd` returns one.

    Its methods return arrays of the backend and accept these or NumPy's.

    Args:
        backend: The backend on which it computes.
        config: Its configuration.
        params: A tree of arrays, by the names of diffusers' AutoencoderTiny.

    >>> import numpy as np
    >>> from ldmref.backends import get_backend
    >>> from ldmref.models import TinyAutoencoder, TinyConfig
    >>> from ldmref.models.params import init
    >>> from ldmref.models.taesd import tiny_spec
    >>> config = TinyConfig(encoder_channels=8, decoder_channels=8)
    >>> taesd = TinyAutoencoder(get_backend("numpy"), config, init(tiny_spec(config)))
    >>> taesd.decode(np.zeros((1, 4, 8, 8), np.float32)).shape
    (1, 3, 64, 64)
    """

    def __init__(self, backend: Backend, config: TinyConfig, params: Mapping[str, Any]):
        self.backend = backend
        self.config = config
        self.params = tree_map(backend.weight, params)
        self._compiled = CompiledNetworks()

    def with_backend(self, ops: Backend) -> TinyAutoencoder:
        """Return a copy that shares all parameters, on `ops`, a backend that wraps this one."""
        other = copy.copy(self)
        other.backend = ops
        other._compiled = CompiledNetworks()
        return other

    def encode(self, images: Array) -> Array:
        """Return the scaled latents (n, z, h, w) of `images`, (n, 3, H, W) in [-1, 1].

        Raises:
            UsageError: The encoder was not loaded.
        """
        if "encoder" not in self.params:
            message = "this TAESD is a decoder, without the encoder"
            raise UsageError(message, code="E-VAE", hint="load it with the encoder's file beside")
        with self.backend.inference():
            network = self._compiled.get(self.backend, tiny_encode, self.params)
            return network(self.backend.own("images", images))

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Return the images of scaled latents, (n, 3, H, W), approximately in [-1, 1].

        Args:
            latents: Scaled latents, (n, z, h, w).
            tile: The side in pixels of the overlapping tiles to decode one by one. None: all at
                once.
        """
        ops = self.backend
        with ops.inference():
            decode = self._compiled.get(ops, tiny_decode, self.params)
            latents = ops.own("latents", latents)
            return decode_tiled(ops, decode, latents, self.config.factor, tile)

    def __repr__(self) -> str:
        return f"<TinyAutoencoder on {self.backend!r}>"
