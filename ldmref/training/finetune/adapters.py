"""What a fine-tuning learns: its parameters, the model with them, and the file they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from ldmref.backends.base import Backend
from ldmref.io.native import save_folder
from ldmref.models.learned_words import TEXT_ENCODERS, TOKEN_TABLE
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten, tree_map
from ldmref.prompts.textual_inversion import Embedding
from ldmref.training.finetune.lora import initial_lora, lora_layers, with_lora, write_lora
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.finetune.textual_inversion import (
    initial_vectors,
    random_prompt,
    with_vectors,
    write_embedding,
)

Caption = Callable[[int, np.random.Generator], str]


class Adapter(Protocol):
    """What is learned of a model, or beside it."""

    initial: Params

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """The model with the learned parameters, tensors under autograd, on its backend `ops`."""
        ...

    @property
    def caption(self) -> Caption:
        """The prompt of an image at a visit."""
        ...

    def file(self, folder: Path) -> Path:
        """Where the learned parameters are written in a folder: a file, or a model's folder."""
        ...

    def write(self, folder: Path, params: Params) -> None:
        """Write the learned parameters, host arrays."""
        ...


def adapter_of(recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption) -> Adapter:
    """The adapter of a recipe's method; `caption` describes the images.

    Raises:
        UsageError: the word to learn is known, or the one to start from is not.
    """
    kinds = {"lora": LoraAdapter, "textual_inversion": TextualInversionAdapter}
    return kinds.get(recipe.method, FullAdapter)(recipe, model, caption)


class FullAdapter:
    """All parameters of the U-Net and of the text encoders; written as a model."""

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        self.model = model
        self.caption = caption
        self.initial = tree_map(model.backend.to_numpy, Params(model.params))
        self.vae = self.initial.pop("vae")

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        return self.model.with_params(params, ops)

    def file(self, folder: Path) -> Path:
        return folder / "model"

    def write(self, folder: Path, params: Params) -> None:
        tokenizers = [t for t in (self.model.tokenizer, self.model.tokenizer_2) if t]
        networks = Params(params | {"vae": self.vae})
        save_folder(self.file(folder), self.model.config, networks, tokenizers)


class LoraAdapter:
    """Low-rank changes of the networks' matrices."""

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        self.lora = recipe.lora
        self.model = model
        self.caption = caption
        layers = lora_layers(model.config, self.lora.targets)
        self.initial = initial_lora(model.config, layers, self.lora.rank, recipe.seed)
        self.metadata = {"base": model.config.name, "base_sha256": model.sha256}

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        networks = {name: self.model.params[name] for name in params}
        changed = with_lora(networks, params, self.lora.alpha / self.lora.rank)
        return self.model.with_params(changed, ops)

    def file(self, folder: Path) -> Path:
        return folder / "lora.safetensors"

    def write(self, folder: Path, params: Params) -> None:
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
        network = TEXT_ENCODERS[0]
        text_encoder = with_vectors(self.model.params[network], params.vectors)
        return self.model.with_params({network: text_encoder}, ops)

    def caption(self, i: int, rng: np.random.Generator) -> str:
        return random_prompt(self.word, rng)

    def file(self, folder: Path) -> Path:
        return folder / "embedding.safetensors"

    def write(self, folder: Path, params: Params) -> None:
        write_embedding(self.file(folder), self.word, params.vectors)
