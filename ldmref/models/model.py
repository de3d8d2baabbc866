"""`LatentDiffusion`: its networks, their tokenizers and forward process, on one backend."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import ResourceError, UsageError
from ldmref.math.arrays import Array
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder import autoencoder_spec, decode, encode
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.lazy_params import Parts
from ldmref.models.memory import Estimate, estimate
from ldmref.models.params import Params, Spec, count, flatten, unflatten
from ldmref.models.rescaler import rescaler, rescaler_spec
from ldmref.models.taesd import TinyAutoencoder
from ldmref.models.text import text_encoder, text_encoder_pooled, text_spec
from ldmref.models.tiling import decode_tiled
from ldmref.models.unet import Residuals, unet, unet_spec
from ldmref.prompts.textual_inversion import Embedding, add_embeddings, by_encoder
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, Tokens
from ldmref.prompts.weights import emphasize

LARGE = 2**26  # numbers
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def model_spec(config: ModelConfig) -> Spec:
    """The shapes of every parameter: `unet`, `vae`, `text_encoder` and, in SDXL, its second.

    Models without prompts have no `text_encoder`; where a map of classes is joined to the latents,
    `cond_stage` brings it to their size.
    """
    spec = {"unet": unet_spec(config.unet), "vae": autoencoder_spec(config.vae)}
    if config.text_encoders:
        spec["text_encoder"] = text_spec(config.text_encoder)
    if config.segmentation_classes:
        spec["cond_stage"] = rescaler_spec(config)
    if config.text_encoder_2 is not None:
        spec["text_encoder_2"] = text_spec(config.text_encoder_2)
    return spec


class LatentDiffusion:
    """A latent diffusion model on one backend. Arrays in and out are the backend's own."""

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Params,
        tokenizer: PromptTokenizer,
        sha256: str = "",
        tokenizer_2: PromptTokenizer | None = None,
    ):
        self.backend, self.config, self.tokenizer, self.sha256 = backend, config, tokenizer, sha256
        self.tokenizer_2 = tokenizer_2
        self.params = Parts(backend, params)
        self._networks: dict[str, tuple[Params, Backend, Callable]] = {}
        self.max_memory: int | None = None  # bytes, of which `make_room` keeps account
        self._apart = False  # one network at a time
        self.embeddings: dict[str, str] = {}
        self.tiny: TinyAutoencoder | None = None  # in place of the autoencoder, where there is one
        self.additions: dict[str, Any] = {}  # for the metadata: `vae`, `loras`, `ema`
        self.notes: list[str] = []  # what every result's warnings say of its files

    def make_room(self, width: int, height: int, n: int = 1, tile: int | None = None) -> Estimate:
        """What pictures of that size will take; above `max_memory`, one network at a time.

        Raises:
            ResourceError: that is more than `max_memory` even so.
        """
        needs = estimate(model_spec(self.config), self.config, self.backend, width, height, n, tile)
        if self.max_memory is not None:
            least = needs.apart(self.params.releasable)
            if least > self.max_memory:
                raise ResourceError(
                    f"the picture takes about {least / 1e9:.1f} GB, more than the "
                    f"{self.max_memory / 1e9:.1f} GB of max_memory",
                    code="E-MEMORY",
                    hint="draw smaller pictures, fewer at a time, or decode in tiles (tile=512)",
                )
            self._apart = needs.together > self.max_memory
        return needs

    def _use(self, part: str) -> Params:
        """A network's parameters; the others leave where there is no room for all."""
        if self._apart:
            others = [name for name in self.params if name != part]
            self.params.release(*others)
            for name in set(others) & set(self._networks):
                del self._networks[name]
        return self.params[part]

    def prompts_are_read(self) -> None:
        """Give back the memory of large text encoders, which a file can bring again in a moment."""
        for name in ("text_encoder", "text_encoder_2"):
            config = getattr(self.config, name)
            if name in self.params and self.backend.device == "cpu" and config is not None:
                if count(text_spec(config)) >= LARGE:
                    self.params.release(name)

    def with_embeddings(self, embeddings: Sequence[Embedding]) -> LatentDiffusion:
        """This model with textual-inversion words; it shares all other parameters.

        `embeddings` of the result names the words and the digests of their vectors.

        Raises:
            UsageError: a word is known already, or made for another number of text encoders.
            CorruptModelError: the vectors have another width than the text encoder's.
        """
        grown, config, params = copy.copy(self), self.config, {}
        grown._networks = {}
        names = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
        parts = by_encoder(embeddings, len(config.text_encoders))
        for (encoder, name), part in zip(names, parts, strict=False):
            tokenizer = getattr(self, name) or self.tokenizer
            flat = flatten(self.params[encoder])
            flat[TOKEN_TABLE], tokenizer = add_embeddings(flat[TOKEN_TABLE], tokenizer, part)
            params[encoder] = unflatten(flat)
            text = getattr(config, encoder)
            # The end token no longer has the largest id, so it is named.
            end = tokenizer.end if text.eos_token_id == 2 else text.eos_token_id
            size = tokenizer.tokenizer.get_vocab_size()
            text = dataclasses.replace(text, vocab_size=size, eos_token_id=end)
            config = dataclasses.replace(config, **{encoder: text})
            setattr(grown, name, tokenizer)
        grown.config, grown.params = config, self.params.replaced(params)
        grown.embeddings = self.embeddings | {e.word: e.sha256 for e in embeddings}
        return grown

    def tokenize(self, prompts: Sequence[str], reading: PromptOptions | None = None) -> Tokens:
        """Token ids (n, chunks, l), and warnings: words that did not fit or are not known."""
        return self.tokenizer.read(prompts, reading)

    def encode_text(
        self, prompts: Sequence[str], clip_skip: int = 0, reading: PromptOptions | None = None
    ) -> Array:
        """Hidden states of the prompts, (n, l, d). `clip_skip` leaves out that many last layers.

        Prompts in several chunks (see `PromptOptions`) give the states of all, one after the other.

        Raises:
            UsageError: the model takes no prompt, or `clip_skip` leaves no layer.
        """
        if not self.config.text_encoders:
            raise UsageError(f"{self.config.name!r} takes no prompt", code="E-PROMPT")
        return self._encode(prompts, clip_skip, reading or PromptOptions())[0]

    def condition(
        self,
        prompts: Sequence[str],
        clip_skip: int,
        width: int,
        height: int,
        negative: bool = False,
        reading: PromptOptions | None = None,
    ) -> Conditioning:
        """All that the U-Net is told about a picture of that size and these prompts.

        `negative`: the prompts are what to keep away from; with `zero_empty_negative` in the
        configuration, empty ones become zeros.
        """
        if not self.config.text_encoders:
            return Conditioning(None)
        context, pooled = self._encode(prompts, clip_skip, reading or PromptOptions())
        if negative and self.config.zero_empty_negative:
            kept = self.backend.asarray(np.asarray([float(p != "") for p in prompts]))
            context = context * kept[:, None, None]
            pooled = None if pooled is None else pooled * kept[:, None]
        if not self.config.unet.addition_embed_type:
            return Conditioning(context)
        row = np.asarray([[height, width, 0, 0, height, width]], np.float64)
        sizes = self.backend.asarray(np.repeat(row, len(prompts), axis=0), self.backend.state_dtype)
        return Conditioning(context, pooled, sizes)

    def _encode(
        self, prompts: Sequence[str], clip_skip: int, reading: PromptOptions
    ) -> tuple[Array, Array | None]:
        """Hidden states, and the last encoder's pooled output where the U-Net wants it."""
        ops, configs = self.backend, self.config.text_encoders
        most = min(t.num_hidden_layers - t.skipped_layers for t in configs) - 1
        if not 0 <= clip_skip <= most:
            raise UsageError(
                f"clip_skip must be from 0 to {most}, not {clip_skip}", code="E-CLIP-SKIP"
            )
        tokenizers = (self.tokenizer, self.tokenizer_2 or self.tokenizer)
        names = ("text_encoder", "text_encoder_2")
        states, pooled = [], None
        with ops.inference():
            for config, tokenizer, name in zip(configs, tokenizers, names, strict=False):
                tokens = tokenizer.read(prompts, reading)
                n, chunks, length = tokens.ids.shape
                ids = ops.asarray(tokens.ids.reshape(n * chunks, length))
                if config.projection_dim:
                    hidden, pooled = text_encoder_pooled(
                        ops, self._use(name), config, ids, clip_skip
                    )
                    pooled = pooled[::chunks]  # the first chunk's, as A1111 does
                else:
                    hidden = text_encoder(ops, self._use(name), config, ids, clip_skip)
                if reading.prompt_weights != "none":
                    hidden = emphasize(hidden, ops.asarray(tokens.weights.reshape(ids.shape)))
                states.append(ops.xp.reshape(hidden, (n, chunks * length, config.hidden_size)))
            context = states[0] if len(states) == 1 else ops.xp.concat(states, axis=2)
        return context, pooled

    def encode_image(self, images: Array, noise: Array | None = None) -> Array:
        """Scaled latents of pictures (n, 3, H, W) in [-1, 1].

        With `noise` (the latents' shape) a draw from the posterior, without it the mean. VQ
        autoencoders have no posterior; `decode` rounds their latents to the codebook.
        """
        if self.tiny is not None:
            return self.tiny.encode(images)
        with self.backend.inference():
            mean, logvar = encode(self.backend, self._use("vae"), self.config.vae, images)
            z = mean if noise is None else reparameterize(mean, logvar, noise)
            return z * self.config.vae.scaling_factor

    def encode_posterior(self, images: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the scaled latents that pictures (n, 3, H, W) may have."""
        if self.tiny is not None:
            latents = self.tiny.encode(images)
            return latents, self.backend.xp.zeros_like(latents)
        with self.backend.inference():
            mean, logvar = encode(self.backend, self._use("vae"), self.config.vae, images)
            scale = self.config.vae.scaling_factor
            return mean * scale, self.backend.xp.exp(0.5 * logvar) * scale

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Pictures (n, 3, H, W), about [-1, 1], of scaled latents (n, c, h, w).

        With `tile`, pixels of a side, in overlapping tiles (`ldmref.models.tiling`).
        """
        if self.tiny is not None:
            return self.tiny.decode(latents, tile)
        ops, config = self.backend, self.config.vae

        def whole(z: Array) -> Array:
            return self._network(decode, "vae")(config, z / config.scaling_factor)

        with ops.inference():
            if tile is None:
                return whole(latents)
            return decode_tiled(ops, whole, latents, config.factor, tile)

    def unet(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Residuals | None = None,
    ) -> Array:
        """The network's raw prediction; latents (n, c, h, w), t (n,), context (n, l, d).

        SDXL needs a `Conditioning` from `condition` in place of the bare hidden states. `control`
        is what ControlNets add (`ldmref.models.controlnet`).
        """
        told = context if isinstance(context, Conditioning) else Conditioning(context)
        ops, config = self.backend, self.config.unet
        with ops.inference():
            arrays = told[:3] if ops.compiles else told.of_network()
            return self._network(unet, "unet")(config, latents, t, *arrays, control=control)

    def _network(self, function: Callable, part: str) -> Callable:
        """A network of this model's parameters, compiled where the backend's speed says so."""
        params = self._use(part)
        made = self._networks.get(part)
        if made is None or made[0] is not params or made[1] is not self.backend:
            made = params, self.backend, self.backend.compile(function, params)
            self._networks[part] = made
        return made[2]

    def encode_segmentation(self, labels: np.ndarray) -> Array:
        """What is joined to the latents for maps of classes; (n, H, W) integers -> (n, k, h, w)."""
        ops, classes = self.backend, np.arange(self.config.segmentation_classes)
        onehot = ops.asarray((labels[:, None] == classes[:, None, None]).astype(np.float32))
        with ops.inference():
            return rescaler(ops, self.params.cond_stage, onehot, self.config.vae.factor)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of a picture."""
        f = self.config.vae.factor
        return self.config.vae.latent_channels, height // f, width // f

    def __repr__(self) -> str:
        return f"<LatentDiffusion {self.config.name!r} on {self.backend!r}>"
