"""The trained parameters of each method, the model with them, and the file they are written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from ldmref.backends.base import Backend
from ldmref.io.native import save_folder
from ldmref.models.config import TOKENIZERS
from ldmref.models.learned_words import TEXT_ENCODERS, TOKEN_TABLE
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten, tree_map
from ldmref.prompts.textual_inversion import Embedding
from ldmref.training.diffusion.stage import with_fixed
from ldmref.training.finetune.lora import initial_lora, with_lora, write_lora
from ldmref.training.finetune.lora_targets import lora_layers
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.finetune.textual_inversion import (
    initial_vectors,
    random_prompt,
    with_vectors,
    write_embedding,
)

Caption = Callable[[int, np.random.Generator], str]


class Adapter(Protocol):
    """The parameters that a method trains: some of a model's, or additional ones."""

    initial: Params

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the model with the trained parameters, tensors under autograd, on `ops`."""
        ...

    @property
    def caption(self) -> Caption:
        """A function that returns a prompt for image `i`: `caption(i, rng)`."""
        ...

    def file(self, folder: Path) -> Path:
        """Return the path in a folder to which `write` writes: a file, or a model's folder."""
        ...

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters, host arrays."""
        ...


def make_adapter(recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption) -> Adapter:
    """Return the adapter for a recipe's method; `caption` returns the images' captions.

    Raises:
        UsageError: The word to learn is in the vocabulary, or the word to start from is not.
    """
    kinds = {"lora": LoraAdapter, "textual_inversion": TextualInversionAdapter}
    return kinds.get(recipe.method, FullAdapter)(recipe, model, caption)


class FullAdapter:
    """All parameters of the denoiser and of the text encoders, written as a model.

    Those that the family computes stay as they are.
    """

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        self.model = model
        self.caption = caption
        self.initial = tree_map(model.backend.to_numpy, Params(model.params))
        self.vae = self.initial.pop("vae")

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the model with the trained parameters."""
        return self.model.with_params(with_fixed(self.model.config, params), ops)

    def file(self, folder: Path) -> Path:
        """Return the path to which `write` writes."""
        return folder / "model"

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters."""
        tokenizers = [t for t in (getattr(self.model, name) for name in TOKENIZERS) if t]
        networks = Params(params | {"vae": self.vae})
        save_folder(self.file(folder), self.model.config, networks, tokenizers)


class LoraAdapter:
    """Low-rank updates of the networks' matrices."""

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        self.lora = recipe.lora
        self.model = model
        self.caption = caption
        layers = lora_layers(model.config, self.lora.targets)
        self.initial = initial_lora(model.config, layers, self.lora.rank, recipe.seed)
        self.metadata = {"base": model.config.name, "base_sha256": model.sha256}

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the model with the trained parameters."""
        networks = {name: self.model.params[name] for name in params}
        changed = with_lora(networks, params, self.lora.alpha / self.lora.rank)
        return self.model.with_params(changed, ops)

    def file(self, folder: Path) -> Path:
        """Return the path to which `write` writes."""
        return folder / "lora.safetensors"

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters."""
        write_lora(self.file(folder), self.model.config, params, self.lora.alpha, self.metadata)


class TextualInversionAdapter:
    """The vectors of a new word."""

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        config = recipe.textual_inversion
        network = TEXT_ENCODERS[0]
        table = model.backend.to_numpy(flatten(model.params[network])[TOKEN_TABLE])
        vectors = initial_vectors(table, model.tokenizer, config.initial, config.vectors)
        self.word = config.word
        self.initial = Params(vectors=vectors)
        self.model = model.with_embeddings([Embedding(config.word, vectors)])

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the model with the trained parameters."""
        network = TEXT_ENCODERS[0]
        text_encoder = with_vectors(self.model.params[network], params.vectors)
        return self.model.with_params({network: text_encoder}, ops)

    def caption(self, i: int, rng: np.random.Generator) -> str:
        """Return a random prompt that contains the word."""
        return random_prompt(self.word, rng)

    def file(self, folder: Path) -> Path:
        """Return the path to which `write` writes."""
        return folder / "embedding.safetensors"

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters."""
        write_embedding(self.file(folder), self.word, params.vectors)
