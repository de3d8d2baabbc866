"""`LatentDiffusion`: three networks, their tokenizer and forward process, on one backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.backends.base import Array, Backend
from ldmref.errors import UsageError
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder import autoencoder_spec, decode, encode
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, Spec, tree_map
from ldmref.models.text import text_encoder, text_spec
from ldmref.models.tokenizer import PromptTokenizer
from ldmref.models.unet import unet, unet_spec


def model_spec(config: ModelConfig) -> Spec:
    """The shapes of every parameter: `unet`, `vae`, `text_encoder`."""
    return {
        "unet": unet_spec(config.unet),
        "vae": autoencoder_spec(config.vae),
        "text_encoder": text_spec(config.text_encoder),
    }


class LatentDiffusion:
    """A latent diffusion model on one backend. Arrays in and out are the backend's own."""

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Params,
        tokenizer: PromptTokenizer,
        sha256: str = "",
    ):
        self.backend, self.config, self.tokenizer, self.sha256 = backend, config, tokenizer, sha256
        self.params: Any = tree_map(backend.asarray, params)

    def tokenize(self, prompts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Token ids (n, l) and warnings about words that did not fit or are not known."""
        return self.tokenizer.encode(list(prompts))

    def encode_text(self, prompts: Sequence[str], clip_skip: int = 0) -> Array:
        """Hidden states of the prompts, (n, l, d). `clip_skip` leaves out that many last layers."""
        layers = self.config.text_encoder.num_hidden_layers
        if not 0 <= clip_skip < layers:
            raise UsageError(
                f"clip_skip must be from 0 to {layers - 1}, not {clip_skip}", code="E-CLIP-SKIP"
            )
        ids = self.backend.asarray(self.tokenize(prompts)[0])
        with self.backend.inference():
            return text_encoder(
                self.backend, self.params.text_encoder, self.config.text_encoder, ids, clip_skip
            )

    def encode_image(self, images: Array, noise: Array | None = None) -> Array:
        """Scaled latents of pictures (n, 3, H, W) in [-1, 1].

        With `noise` (the latents' shape) a draw from the posterior, without it the mean.
        """
        with self.backend.inference():
            mean, logvar = encode(self.backend, self.params.vae, self.config.vae, images)
            z = mean if noise is None else reparameterize(mean, logvar, noise)
            return z * self.config.vae.scaling_factor

    def decode(self, latents: Array) -> Array:
        """Pictures (n, 3, H, W), about [-1, 1], of scaled latents (n, c, h, w)."""
        with self.backend.inference():
            z = latents / self.config.vae.scaling_factor
            return decode(self.backend, self.params.vae, self.config.vae, z)

    def unet(self, latents: Array, t: Array, context: Array) -> Array:
        """The network's raw prediction; latents (n, c, h, w), t (n,), context (n, l, d)."""
        with self.backend.inference():
            return unet(self.backend, self.params.unet, self.config.unet, latents, t, context)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture."""
        f = self.config.vae.factor
        return self.config.vae.latent_channels, height // f, width // f

    def __repr__(self) -> str:
        return f"<LatentDiffusion {self.config.name!r} on {self.backend!r}>"
