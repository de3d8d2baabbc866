"""`LatentDiffusion`: the networks of a model, their tokenizers and parameters, on one backend."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NoReturn

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, convert_conditioning
from ldmref.models.config import TEXT_ENCODERS, TOKENIZERS, ModelConfig
from ldmref.models.family import with_text_length
from ldmref.models.learned_words import add_learned_words
from ldmref.models.networks import ImageNetworks, model_spec
from ldmref.models.residuals import convert_residuals
from ldmref.models.taesd import TinyAutoencoder
from ldmref.models.text import EncodedText
from ldmref.prompts.textual_inversion import Embedding
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, tokenize_for_encoders
from ldmref.prompts.tokens import Tokens
from ldmref.samplers.predictions import Steering, read_steering

__all__ = ["TEXT_ENCODERS", "LatentDiffusion", "model_spec"]


class LatentDiffusion(ImageNetworks):
    """A latent diffusion model on one backend; `ldmref.load` returns one.

    Its methods return arrays of the backend and accept these or NumPy's:

    - `tokenize(prompts)`: the token ids, (n, chunks, l).
    - `encode_text(prompts)`: the hidden states of prompts, (n, l, d).
    - `encode_image(images)`: images (n, 3, H, W) in [-1, 1] to scaled latents (n, c, h, w).
    - `predict(latents, t, context)`: the prediction of eps, v or x0, (n, c, h, w); `unet` in
      models that have a U-Net.
    - `decode(latents)`: scaled latents (n, c, h, w) to images (n, 3, H, W).
    - `latent_shape(width, height)`: (c, h, w).

    `ldmref.modes` generates images with them, and `ldmref.denoiser(model, prompt)` is the model as
    a function `denoise(x, sigma)`. Public attributes are `backend`, `config`, `params` (a tree of
    arrays per network), `tokenizer`, `sha256`, `modifications` and `warnings`.

    Args:
        backend: The backend that the networks run on.
        config: The configuration of all networks.
        params: A tree of arrays for each network of `model_spec`, NumPy's or of the backend.
        tokenizer: The tokenizer of the first text encoder.
        sha256: SHA-256 of the file that the parameters come from, or a function that computes it
            at the first use.
        tokenizer_2, tokenizer_3: The tokenizers of further text encoders; None: the first's.
        tiny_autoencoder: An autoencoder that replaces the model's own (TAESD). None: the model
            keeps its own.
        max_memory: The number of bytes that a request may take; None: as `load` says.
        max_seconds: The estimated time that a request may take; None: no limit.
        modifications: The modifications of the file (`embeddings`, `vae`, `loras`, `ema`,
            `text_encoders`), which every image records: JSON-able values, or functions that return
            them, called at the first use. None: none.
        warnings: Warnings about the model's files, which every result repeats.

    >>> import ldmref
    >>> import numpy as np
    >>> model = ldmref.random_model("tiny")
    >>> model
    <LatentDiffusion 'tiny' on <numpy backend, cpu, float32>>
    >>> latents = model.encode_image(np.zeros((1, 3, 16, 16)))
    >>> context = model.encode_text(["a red cat"])
    >>> latents.shape, context.shape
    ((1, 4, 8, 8), (1, 16, 32))
    >>> model.unet(latents, np.array([10]), context).shape, model.decode(latents).shape
    ((1, 4, 8, 8), (1, 3, 16, 16))
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        params: Mapping[str, Any],
        tokenizer: PromptTokenizer,
        sha256: str | Callable[[], str] = "",
        tokenizer_2: PromptTokenizer | None = None,
        tokenizer_3: PromptTokenizer | None = None,
        *,
        tiny_autoencoder: TinyAutoencoder | None = None,
        max_memory: int | None = None,
        max_seconds: float | None = None,
        modifications: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ):
        super().__init__(backend, config, params, max_memory, tiny_autoencoder)
        self._sha256 = sha256 if isinstance(sha256, str) else cache(sha256)  # shared by copies
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        self.tokenizer_3 = tokenizer_3
        text = self.family.text
        self.longest_text = text.longest if text.grows else 0  # to which long prompts grow
        self.max_seconds = max_seconds
        made = dict(modifications or {})
        self._modifications = {k: cache(v) if callable(v) else v for k, v in made.items()}
        self.observer: Any = None  # a `RunObserver` of every run, set by `ldmref.recording`
        self._warnings = tuple(warnings)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file of the parameters, computed at the first use; "" without a file."""
        return self._sha256 if isinstance(self._sha256, str) else self._sha256()

    @property
    def modifications(self) -> dict[str, Any]:
        """What was changed of the file, by part, as images record it."""
        return {k: v() if callable(v) else v for k, v in self._modifications.items()}

    @modifications.setter
    def modifications(self, values: Mapping[str, Any]) -> None:
        self._modifications = dict(values)

    @property
    def known_sha256(self) -> str | None:
        """`sha256` if it has been computed, otherwise None."""
        known = isinstance(self._sha256, str) or self._sha256.cache_info().currsize
        return self.sha256 if known else None

    @property
    def tokenizers(self) -> list[PromptTokenizer]:
        """The tokenizer of each text encoder, the first's where an encoder has none of its own."""
        names = TOKENIZERS[: len(self.config.text_encoders)]
        return [getattr(self, name) or self.tokenizer for name in names]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle digests instead of the functions that compute them."""
        known = {"_sha256": self.sha256, "_modifications": self.modifications, "observer": None}
        return super().__getstate__() | known

    def with_embeddings(self, embeddings: Sequence[Embedding]) -> LatentDiffusion:
        """Return this model with textual-inversion words, recorded in `modifications`.

        Args:
            embeddings: Learned words, from `ldmref.io.read_embeddings`.

        Raises:
            UsageError: A word is already known or was made for other text encoders.
            CorruptModelError: The vectors do not have the width of the text encoder.
        """
        config, params, tokenizers = add_learned_words(
            self.config, self.params, self.tokenizers, embeddings
        )
        grown = self.with_params(params, self.backend)
        vars(grown).update(zip(TOKENIZERS, tokenizers, strict=False))
        made = self._modifications
        earlier: Any = made.get("embeddings", {})
        known = earlier | {e.word: e.sha256 for e in embeddings}
        grown.config = config
        grown.modifications = made | {"embeddings": known}
        return grown

    def with_text_length(self, length: int | None) -> LatentDiffusion:
        """Return this model for prompts of another number of tokens, with the same weights.

        Args:
            length: The number of tokens of T5 or of the language model, to which prompts are cut
                and filled up. None: the model's own, and this model itself.

        Raises:
            UsageError: The number of tokens of the model is fixed, or its longest text is shorter.
        """
        if length is None:
            return self
        config = with_text_length(self.config, length)
        if config == self.config and not self.longest_text:
            return self
        other = copy.copy(self)
        other.config = config
        other.longest_text = 0
        other._compiled = self._compiled  # by the configuration and the shapes of each call
        texts = zip(TOKENIZERS, self.tokenizers, config.text_encoders, strict=False)
        for name, tokenizer, text in texts:
            if tokenizer.length != text.max_position_embeddings:
                setattr(other, name, tokenizer.with_length(text.max_position_embeddings))
        return other

    def differentiable(self) -> LatentDiffusion:
        """Return this model with gradients: its outputs are differentiable functions of arrays.

        The parameters stay constants. `ldmref.denoiser(model, prompt, grad=True)` uses it.

        Raises:
            UsageError: The backend's library does not differentiate.
        """
        other = self.with_params({}, self.backend.differentiable())
        if self.tiny_autoencoder is not None:
            other.tiny_autoencoder = self.tiny_autoencoder.with_backend(other.backend)
        return other

    def tokenize(
        self, prompts: str | Sequence[str], options: PromptOptions | None = None
    ) -> Tokens:
        """Return the tokens of prompts, and warnings about words that were cut or not known.

        Args:
            prompts: A list of prompts, or a single one.
            options: How to treat long prompts and prompt weights. None: they are cut, without
                weights.

        Returns:
            `Tokens`, whose `ids` are (n, chunks, l) int64.
        """
        return self.tokenizer.tokenize(prompts, self.grow(options or PromptOptions()))

    def grow(self, options: PromptOptions) -> PromptOptions:
        """Return options with which prompts that this model reads whole are not cut."""
        return replace(options, longest=self.longest_text) if self.longest_text else options

    def encode_text(
        self, prompts: str | Sequence[str], clip_skip: int = 0, options: PromptOptions | None = None
    ) -> Array:
        """Return the hidden states of prompts, the context of the U-Net.

        Args:
            prompts: A list of prompts, or a single one.
            clip_skip: The number of final layers of the text encoder to leave out.
            options: How to treat long prompts and prompt weights. None: they are cut, without
                weights.

        Returns:
            Hidden states, (n, l, d); l counts the tokens of all chunks.

        Raises:
            UsageError: The model accepts no prompt, or `clip_skip` leaves no layer.
        """
        if not self.config.text_encoders:
            raise UsageError(f"{self.config.name!r} takes no prompt", code="E-PROMPT")
        return self.encode_prompts(prompts, clip_skip, options or PromptOptions()).states

    def encode_prompts(
        self, prompts: str | Sequence[str], clip_skip: int, options: PromptOptions
    ) -> EncodedText:
        """Return hidden states (n, l, d), pooled output (n, d) and tokens of all text encoders.

        Args:
            prompts: A list of prompts, or a single one.
            clip_skip: The number of final layers of the text encoders to leave out.
            options: How to treat long prompts and prompt weights.

        Raises:
            UsageError: `clip_skip` leaves no layer, or a prompt is too long.
        """
        if clip_skip and not 0 < clip_skip <= self.config.max_clip_skip:
            message = f"clip_skip must be from 0 to {self.config.max_clip_skip}, not {clip_skip}"
            raise UsageError(message, code="E-CLIP-SKIP")
        configs = self.config.text_encoders
        tokens = tokenize_for_encoders(self.tokenizers, prompts, self.grow(options))
        skip = clip_skip, options.prompt_weights != "none"
        with self.backend.inference():
            return self.family.text.encode(self.backend, configs, tokens, self._compile, *skip)

    def predict(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Any | None = None,
        steering: Sequence[Steering] = (),
        **recorded: Sequence[Any],
    ) -> Array:
        """Return the prediction of eps, v or x0, as `config.scheduler.prediction_type` says.

        Args:
            latents: Noisy latents in variance-preserving scale, (n, c, h, w); for models that read
                an image, with its channels after the latents'.
            t: Training timesteps, (n,), integers or floats.
            context: Hidden states from `encode_text`, (n, l, d), or a `Conditioning`, which SDXL
                needs. None: the network reads no text.
            control: The output of ControlNets (`ControlNet.residuals`). None: none.
            steering: What replaces layers of the network, for this prediction
                (`ldmref.samplers.Steering`).
            recorded: The same by name, as traces have it: `skip_layers=(7, 8)`,
                `identity_attention=("mid",)`, or scale, largest norm and, optionally, weight as
                `attention_guidance`, with a context of n negative prompts, followed by n prompts.

        Returns:
            The prediction, (n, c, h, w); `predict_with_variance` also returns a learned variance.

        Raises:
            UsageError: The network takes no ControlNets, or nothing that steers it like this.
        """
        z = self.config.vae.latent_channels
        output = self.predict_with_variance(latents, t, context, control, steering, **recorded)
        return output[:, :z, ...]

    def predict_with_variance(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Any | None = None,
        steering: Sequence[Steering] = (),
        **recorded: Sequence[Any],
    ) -> Array:
        """Return the whole output of the denoiser: with a learned variance, also v of
        `learned_range_logvar`.

        Args:
            latents, t, context, control: As for `predict`: (n, c, h, w), (n,) and (n, l, d); None:
                no text, no ControlNets.
            steering, recorded: As for `predict`.

        Returns:
            (n, c, h, w), or (n, 2 c, h, w) with a learned variance.

        Raises:
            UsageError: As for `predict`.
        """
        ops = self.backend
        latents = ops.own("latents", latents)
        t = ops.own("t", t)
        arrays = convert_conditioning(ops, context)
        declared = self.denoiser
        steered = self._read_steering(steering, recorded)
        with ops.inference():
            if control is not None:
                arrays["control"] = convert_residuals(ops, control)
                if "control" not in declared.defaults:
                    self._refuse("takes no control")
            arguments = declared.arrange(arrays)
            if not steered:
                network = self._compile(declared.function, declared.params)
                return network(self.config.denoiser, latents, t, *arguments)
            network = self._compile(declared.steered, declared.params)
            return network(self.config.denoiser, latents, t, *arguments, steering=steered)

    def _read_steering(
        self, steering: Sequence[Steering], recorded: Mapping[str, Sequence[Any]]
    ) -> tuple[Steering, ...]:
        """Return all that steers a prediction, in its order; refuse what cannot.

        Raises:
            UsageError: The denoiser has no such layers.
        """
        named = {name: tuple(values) for name, values in recorded.items() if values}
        found = [(name, read_steering({name: values})) for name, values in named.items()]
        unknown = [name for name, known in found if not known]
        if unknown:
            self._refuse(f"takes no {unknown[0]}")
        steered = (*steering, *(one for _, known in found for one in known))
        problem = self.denoiser.find_unsteerable(steered)
        if problem:
            self._refuse(problem)
        return steered

    def _refuse(self, problem: str) -> NoReturn:
        raise UsageError(f"{self.config.name!r} {problem}", code="E-FAMILY", hint="leave it out")

    def unet(
        self,
        latents: Array,
        t: Array,
        context: Array | Conditioning | None = None,
        control: Any | None = None,
        identity_attention: Sequence[str] = (),
    ) -> Array:
        """Return `predict(...)`, under the name of the network of Stable Diffusion.

        Args:
            latents, t, context, control, identity_attention: As for `predict`: (n, c, h, w), (n,)
                and (n, l, d); None: no text, no ControlNets.

        Raises:
            UsageError: The model has no U-Net.
        """
        _ = self.config.unet
        return self.predict(latents, t, context, control, identity_attention=identity_attention)

    def __repr__(self) -> str:
        return f"<LatentDiffusion {self.config.name!r} on {self.backend!r}>"
