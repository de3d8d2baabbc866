"""`LatentDiffusion`: the networks of a model, their tokenizers and parameters, on one backend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import ResourceError, UsageError
from ldmref.math.arrays import Array
from ldmref.math.divergence import reparameterize
from ldmref.models.autoencoder import autoencoder_spec, decode, encode
from ldmref.models.conditioning import Conditioning, convert_conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.learned_words import TEXT_ENCODERS, add_learned_words
from ldmref.models.memory import MemoryEstimate, estimate_memory
from ldmref.models.params import LazyParams, Params, Spec, count
from ldmref.models.rescaler import rescaler, rescaler_spec
from ldmref.models.taesd import TinyAutoencoder
from ldmref.models.text import EncodedText, text_encoder, text_encoder_pooled, text_spec
from ldmref.models.tiling import decode_tiled
from ldmref.models.unet import Residuals, convert_residuals, unet, unet_spec
from ldmref.prompts.textual_inversion import Embedding
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, Tokens, tokenize_for_encoders
from ldmref.prompts.weights import emphasize

TOKENIZERS = ("tokenizer", "tokenizer_2")
RELEASED_PARAMETERS = 2**26  # parameters


def model_spec(config: ModelConfig) -> dict[str, Spec]:
    """The shapes of every parameter: `unet`, `vae`, `text_encoder` and, in SDXL, its second.

    Models without prompts have no `text_encoder`; a `cond_stage` scales segmentation maps.
    """
    spec: dict[str, Spec] = {"unet": unet_spec(config.unet), "vae": autoencoder_spec(config.vae)}
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    spec |= {name: text_spec(encoder) for name, encoder in encoders}
    if config.segmentation_classes:
        spec["cond_stage"] = rescaler_spec(config)
    return spec


class LatentDiffusion:
    """A latent diffusion model on one backend.

    Arrays that its methods return are the backend's own; those that they take may also be NumPy's.

    Args:
        params: a tree for each network of `model_spec`.
        sha256: digest of the file that the parameters come from.
        tokenizer_2: of the second text encoder; None for the first's.
        tiny: an autoencoder in place of the model's own.
        max_memory, max_seconds: what a request may take; see `modes.cost.check_limits`.
        modifications: of the file (`embeddings`, `vae`, `loras`, `ema`), recorded in every image.
        warnings: about its files, repeated in every result.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Mapping[str, Any],
        tokenizer: PromptTokenizer,
        sha256: str = "",
        tokenizer_2: PromptTokenizer | None = None,
        *,
        tiny: TinyAutoencoder | None = None,
        max_memory: int | None = None,
        max_seconds: float | None = None,
        modifications: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ):
        self.backend = backend
        self.config = config
        self.sha256 = sha256
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        self.tiny = tiny
        self.max_memory = max_memory
        self.max_seconds = max_seconds
        self.modifications = dict(modifications or {})
        self.warnings = tuple(warnings)
        self.params = LazyParams(backend, params)
        self._compiled: dict[str, tuple[Params, Backend, Callable]] = {}
        self._one_at_a_time = False
        names = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
        large = [name for name, text in names if count(text_spec(text)) >= RELEASED_PARAMETERS]
        self._large_text_encoders = tuple(large if backend.device == "cpu" else ())

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: without compiled networks, which are compiled again."""
        return vars(self) | {"_compiled": {}}

    def memory(
        self, width: int, height: int, n: int = 1, tile: int | None = None
    ) -> MemoryEstimate:
        """An estimate of the memory that `n` images of that size take together."""
        return estimate_memory(
            model_spec(self.config), self.config, self.backend, width, height, n, tile
        )

    def prepare(self, width: int, height: int, n: int = 1, tile: int | None = None) -> None:
        """With `max_memory`: keep one network in memory at a time if all do not fit.

        Raises:
            ResourceError: the images take more than `max_memory` even so.
        """
        if self.max_memory is None:
            return
        needs = self.memory(width, height, n, tile)
        least = needs.apart(self.params.releasable)
        if least > self.max_memory:
            raise ResourceError(
                f"the image takes about {least / 1e9:.1f} GB, more than the "
                f"{self.max_memory / 1e9:.1f} GB of max_memory",
                code="E-MEMORY",
                hint="draw smaller images, fewer at a time, or decode in tiles (tile=512)",
            )
        self._one_at_a_time = needs.together > self.max_memory

    def _params(self, network: str) -> Params:
        """A network's parameters; networks that must make room for it are released."""
        leaving: Sequence[str] = ()
        if self._one_at_a_time:
            leaving = [name for name in self.params if name != network]
        elif network == "unet":  # the prompts are encoded, and the file can bring these back
            leaving = self._large_text_encoders
        self.params.release(*leaving)
        for name in leaving:
            self._compiled.pop(name, None)
        return self.params[network]

    def _network(self, function: Callable, name: str) -> Callable:
        """A network with this model's parameters, compiled if the backend's speed says so."""
        params = self._params(name)
        compiled = self._compiled.get(name)
        if compiled is None or compiled[0] is not params or compiled[1] is not self.backend:
            compiled = params, self.backend, self.backend.compile(function, params)
            self._compiled[name] = compiled
        return compiled[2]

    def with_embeddings(self, embeddings: Sequence[Embedding]) -> LatentDiffusion:
        """This model with textual-inversion words, named in `modifications["embeddings"]`.

        Raises:
            UsageError: a word is known already, or made for other text encoders.
            CorruptModelError: the vectors have another width than the text encoder's.
        """
        tokenizers = [getattr(self, name) or self.tokenizer for name in TOKENIZERS]
        config, params, tokenizers = add_learned_words(
            self.config, self.params, tokenizers, embeddings
        )
        grown = copy.copy(self)
        for name, tokenizer in zip(TOKENIZERS, tokenizers, strict=False):
            setattr(grown, name, tokenizer)
        known = self.modifications.get("embeddings", {}) | {e.word: e.sha256 for e in embeddings}
        grown.config = config
        grown.modifications = self.modifications | {"embeddings": known}
        return grown.with_params(params, self.backend)

    def differentiable(self) -> LatentDiffusion:
        """Return this model with gradients: its outputs are differentiable functions of arrays.

        The parameters stay constants. `ldmref.denoiser(model, prompt, grad=True)` uses it.

        Raises:
            UsageError: the backend's library does not differentiate.
        """
        other = self.with_params({}, self.backend.differentiable())
        if self.tiny is not None:
            other.tiny = copy.copy(self.tiny)
            other.tiny.backend = other.backend
        return other

    def with_params(self, networks: Mapping[str, Params], ops: Backend) -> LatentDiffusion:
        """This model with other parameters of some networks, on its backend or one like it."""
        other = copy.copy(self)
        other.backend = ops
        other.params = self.params.replaced(networks)
        other._compiled = {}
        return other

    def tokenize(self, prompts: Sequence[str], options: PromptOptions | None = None) -> Tokens:
        """Token ids (n, chunks, l), and warnings: words that did not fit or are not known."""
        return self.tokenizer.tokenize(prompts, options)

    def encode_text(
        self, prompts: Sequence[str], clip_skip: int = 0, options: PromptOptions | None = None
    ) -> Array:
        """Hidden states of the prompts, (n, l, d). `clip_skip` leaves out that many last layers.

        Prompts in several chunks (see `PromptOptions`) give the states of all, one after the other.

        Raises:
            UsageError: the model takes no prompt, or `clip_skip` leaves no layer.
        """
        if not self.config.text_encoders:
            raise UsageError(f"{self.config.name!r} takes no prompt", code="E-PROMPT")
        return self.encode_prompts(prompts, clip_skip, options or PromptOptions()).states

    def encode_prompts(
        self, prompts: Sequence[str], clip_skip: int, options: PromptOptions
    ) -> EncodedText:
        """What every text encoder makes of the prompts."""
        ops = self.backend
        configs = self.config.text_encoders
        most = self.config.max_clip_skip
        if not 0 <= clip_skip <= most:
            raise UsageError(
                f"clip_skip must be from 0 to {most}, not {clip_skip}", code="E-CLIP-SKIP"
            )
        tokenizers = (self.tokenizer, self.tokenizer_2 or self.tokenizer)[: len(configs)]
        states = []
        pooled = None
        all_tokens = tokenize_for_encoders(tokenizers, prompts, options)
        with ops.inference():
            for config, tokens, name in zip(configs, all_tokens, TEXT_ENCODERS, strict=False):
                n, chunks, length = tokens.ids.shape
                ids = ops.asarray(tokens.ids.reshape(n * chunks, length))
                params = self._params(name)
                if config.projection_dim:
                    hidden, pooled = text_encoder_pooled(ops, params, config, ids, clip_skip)
                    pooled = pooled[::chunks]  # the first chunk's, as A1111 does
                else:
                    hidden = text_encoder(ops, params, config, ids, clip_skip)
                if options.prompt_weights != "none":
                    hidden = emphasize(hidden, ops.asarray(tokens.weights.reshape(ids.shape)))
                states.append(ops.xp.reshape(hidden, (n, chunks * length, config.hidden_size)))
            joined = states[0] if len(states) == 1 else ops.xp.concat(states, axis=2)
        return EncodedText(joined, pooled, all_tokens[0])

    def encode_image(self, images: Array, noise: Array | None = None) -> Array:
        """Scaled latents of images (n, 3, H, W) in [-1, 1].

        With `noise` (the latents' shape) a draw from the posterior, without it the mean. VQ
        autoencoders have no posterior; `decode` rounds their latents to the codebook.
        """
        if self.tiny is not None:
            return self.tiny.encode(images)
        images = self.backend.own("images", images)
        noise = None if noise is None else self.backend.own("noise", noise)
        with self.backend.inference():
            mean, logvar = encode(self.backend, self._params("vae"), self.config.vae, images)
            z = mean if noise is None else reparameterize(mean, logvar, noise)
            return z * self.config.vae.scaling_factor

    def encode_posterior(self, images: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the scaled latents of images (n, 3, H, W)."""
        if self.tiny is not None:
            latents = self.tiny.encode(images)
            return latents, self.backend.xp.zeros_like(latents)
        images = self.backend.own("images", images)
        with self.backend.inference():
            mean, logvar = encode(self.backend, self._params("vae"), self.config.vae, images)
            scale = self.config.vae.scaling_factor
            return mean * scale, self.backend.xp.exp(0.5 * logvar) * scale

    def decode(self, latents: Array, tile: int | None = None) -> Array:
        """Images (n, 3, H, W), about [-1, 1], of scaled latents (n, c, h, w).

        With `tile`, in overlapping tiles of that many pixels a side (`ldmref.models.tiling`).
        """
        if self.tiny is not None:
            return self.tiny.decode(latents, tile)
        ops = self.backend
        config = self.config.vae
        latents = ops.own("latents", latents)

        def decoder(z: Array) -> Array:
            return self._network(decode, "vae")(config, z / config.scaling_factor)

        with ops.inference():
            if tile is None:
                return decoder(latents)
            return decode_tiled(ops, decoder, latents, config.factor, tile)

    def unet(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Residuals | None = None,
    ) -> Array:
        """The prediction of eps, v or x0; latents (n, c, h, w), t (n,), context (n, l, d).

        SDXL needs a `Conditioning` in place of the bare hidden states. `control` is the output of
        ControlNets (`ldmref.models.controlnet`).
        """
        return self.unet_output(latents, t, context, control)[:, : self.config.vae.latent_channels]

    def unet_output(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Residuals | None = None,
    ) -> Array:
        """All channels: the prediction and, with "learned_range", v of `learned_range_logvar`."""
        latents = self.backend.own("latents", latents)
        t = self.backend.own("t", t)
        conditioning = convert_conditioning(self.backend, context)
        with self.backend.inference():
            network = self._network(unet, "unet")
            config = self.config.unet
            control = convert_residuals(self.backend, control)
            return network(config, latents, t, *conditioning, control=control)

    def encode_segmentation(self, labels: Array) -> Array:
        """Input channels for segmentation maps; (n, H, W) integers -> (n, k, h, w)."""
        ops = self.backend
        classes = np.arange(self.config.segmentation_classes)
        labels = ops.to_numpy(ops.own("labels", labels))
        onehot = ops.asarray((labels[:, None] == classes[:, None, None]).astype(np.float32))
        with ops.inference():
            return rescaler(ops, self.params.cond_stage, onehot, self.config.vae.factor)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of the latents of an image."""
        f = self.config.vae.factor
        return self.config.vae.latent_channels, height // f, width // f

    def __repr__(self) -> str:
        return f"<LatentDiffusion {self.config.name!r} on {self.backend!r}>"
