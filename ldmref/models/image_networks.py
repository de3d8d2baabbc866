"""The networks between images and latents: the autoencoder, or TAESD, and the encoder of maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder_kind import LatentScale, add_alpha, autoencoder_of, over_white
from ldmref.models.config import ModelConfig
from ldmref.models.networks import Networks
from ldmref.models.params import Params, tree_map
from ldmref.models.rescaler import rescaler
from ldmref.models.taesd import TinyAutoencoder
from ldmref.models.tiling import decode_tiled


class ImageNetworks(Networks):
    """The networks of a model that read or return images.

    Args:
        backend: The backend that the networks run on.
        config: The configuration of all networks.
        params: A tree of arrays for each network of `model_spec`.
        max_memory: The number of bytes that a request may take. None: as `load` says.
        tiny_autoencoder: An autoencoder that replaces the model's own (TAESD). None: its own.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Mapping[str, Any],
        max_memory: int | None = None,
        tiny_autoencoder: TinyAutoencoder | None = None,
    ):
        super().__init__(backend, config, params, max_memory)
        self.tiny_autoencoder = tiny_autoencoder

    def encode_image(self, images: Array, noise: Array | None = None) -> Array:
        """Encode images as scaled latents.

        Args:
            images: (n, 3, H, W) in [-1, 1]; H and W are multiples of `config.size_multiple`.
            noise: Standard normal noise of the latents' shape, to sample from the posterior; None:
                the posterior's mean. VQ autoencoders have no posterior, and `decode` rounds their
                latents to the codebook.

        Returns:
            Scaled latents, (n, c, h, w).
        """
        if self.tiny_autoencoder is not None:
            return self.tiny_autoencoder.encode(images)
        ops = self.backend
        noise = None if noise is None else ops.own("noise", noise)
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            scale = self.latent_scale()
            z = mean if noise is None else reparameterize(mean, logvar, scale.unfold(noise))
            return scale.normalize(z)

    def encode_posterior(self, images: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the scaled latents of images, both (n, c, h, w).

        Args:
            images: (n, 3, H, W) in [-1, 1].
        """
        ops = self.backend
        if self.tiny_autoencoder is not None:
            latents = self.tiny_autoencoder.encode(images)
            return latents, ops.xp.zeros_like(latents)
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            scale = self.latent_scale()
            return scale.normalize(mean), scale.spread(ops.xp.exp(0.5 * logvar))

    def encode_unscaled(self, images: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of what the encoder returns, before any scaling.

        Args:
            images: (n, 3, H, W) in [-1, 1].
        """
        ops = self.backend
        with ops.inference():
            mean, logvar = self._encode(ops.own("images", images))
            return mean, ops.xp.exp(0.5 * logvar)

    def latent_scale(self, ops: Backend | None = None) -> LatentScale:
        """Return how latents follow from what the encoder returns.

        Args:
            ops: The backend of its arrays. None: the model's.
        """
        config = self.config.vae
        kind = autoencoder_of(config)
        params = kind.select(self.params["vae"]) if kind.normalized_by else Params()
        if ops is not None:
            params = tree_map(lambda x: ops.asarray(self.backend.to_numpy(x)), params)
        return LatentScale(ops or self.backend, config, params)

    def _encode(self, images: Array) -> tuple[Array, Array]:
        config = self.config.vae
        encode = autoencoder_of(config).encode
        return self._compile(encode, "vae")(config, add_alpha(self.backend, images, config))

    def encode_segmentation(self, labels: Array) -> Array:
        """Return the input channels of segmentation maps, (n, k, h, w).

        Args:
            labels: Numbers of classes, (n, H, W) integers.
        """
        ops = self.backend
        classes = np.arange(self.config.segmentation_classes)
        labels = ops.to_numpy(ops.own("labels", labels))
        onehot = ops.asarray((labels[:, None] == classes[:, None, None]).astype(np.float32))
        with ops.inference():
            return self._compile(rescaler, "cond_stage")(onehot, self.config.vae.factor)

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Decode scaled latents to images.

        Args:
            latents: Scaled latents, (n, c, h, w).
            tile: The side in pixels of the overlapping tiles to decode one by one, which bounds
                memory (`ldmref.models.tiling`); None: decode all at once.

        Returns:
            Images, (n, 3, H, W), approximately in [-1, 1].
        """
        if self.tiny_autoencoder is not None:
            return self.tiny_autoencoder.decode(latents, tile)
        ops = self.backend
        config = self.config.vae
        decode = autoencoder_of(config).decode
        latents = ops.own("latents", latents)

        def decoder(latents: Array) -> Array:
            network = self._compile(decode, "vae")
            return over_white(ops, network(config, self.latent_scale().denormalize(latents)))

        with ops.inference():
            if tile is None:
                return decoder(latents)
            return decode_tiled(ops, decoder, latents, config.factor, tile)
