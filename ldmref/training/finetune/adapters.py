"""The trained parameters of each method, the model with them, and the file they are written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.io.adapters.lora_keys import has_kohyas_names, lora_file_name
from ldmref.io.native import save_folder
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.math.layers import low_rank_update
from ldmref.models.config import TOKENIZERS, ModelConfig
from ldmref.models.learned_words import TEXT_ENCODERS, TOKEN_TABLE
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import Params, flatten, init, tree_map, unflatten
from ldmref.prompts.textual_inversion import Embedding
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.training.diffusion.stage import with_fixed
from ldmref.training.distill.student import DistillAdapter
from ldmref.training.finetune.lora_targets import lora_layers
from ldmref.training.finetune.recipe import FineTuneRecipe

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
    kinds = {
        "lora": LoraAdapter,
        "textual_inversion": TextualInversionAdapter,
        "distill": DistillAdapter,
    }
    return kinds.get(recipe.method, FullAdapter)(recipe, model, caption)


class FullAdapter:
    """All parameters of the denoiser and, unless the recipe keeps them, of the text encoders.

    They are written as a model. Parameters that the family computes stay as they are.
    """

    def __init__(self, recipe: FineTuneRecipe, model: LatentDiffusion, caption: Caption):
        self.model = model
        self.caption = caption
        self.initial = tree_map(model.backend.to_numpy, Params(model.params))
        kept = ["vae"] if recipe.full.text_encoders else ["vae", *TEXT_ENCODERS]
        self.kept = Params({name: self.initial.pop(name) for name in kept if name in self.initial})

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the model with the trained parameters."""
        return self.model.with_params(with_fixed(self.model.config, params), ops)

    def file(self, folder: Path) -> Path:
        """Return the path to which `write` writes."""
        return folder / "model"

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters."""
        tokenizers = [t for t in (getattr(self.model, name) for name in TOKENIZERS) if t]
        networks = Params(params | self.kept)
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


# -- LoRA ------------------------------------------------------------------------------------------


def initial_lora(config: ModelConfig, layers: Sequence[str], rank: int, seed: int) -> Params:
    """Return `down`, uniform in +-1/sqrt(fan-in) as in PEFT, and `up`, zero, for each layer."""
    shapes = flatten(model_spec(config))
    spec = {}
    for name in layers:
        out, *rest = shapes[name]
        spec[f"{name}.down"] = (rank, *rest)
        spec[f"{name}.up"] = (out, rank, *(1 for _ in rest[1:]))
    flat = flatten(init(spec, seed))
    return unflatten({k: np.zeros_like(v) if k.endswith(".up") else v for k, v in flat.items()})


def with_lora(params: Mapping[str, Params], lora: Params, scale: float) -> Params:
    """Return the parameters with the changes added; `scale` is alpha / rank.

    Unchanged tensors are shared with `params`, which is not modified.
    """
    flat = flatten(params)
    changes = flatten(lora)
    for name in {name.rpartition(".")[0] for name in changes}:
        down = changes[f"{name}.down"]
        up = changes[f"{name}.up"]
        flat[name] = low_rank_update(flat[name], down, up, scale)
    return unflatten(flat)


def write_lora(
    path: Path, config: ModelConfig, lora: Params, alpha: float, metadata: Mapping[str, str]
) -> None:
    """Write the changes under the names of `lora_file_name`, which diffusers and ComfyUI read.

    kohya's format holds alpha. In diffusers', which has no place for it that every program reads,
    alpha / rank is multiplied into `up`.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {}
    for name, tensor in flatten(lora).items():
        layer, _, role = name.rpartition(".")
        if has_kohyas_names(config):
            tensors[lora_file_name(config, layer, "alpha")] = np.asarray(alpha, np.float32)
        elif role == "up":
            tensor = tensor * (alpha / tensor.shape[1])
        tensors[lora_file_name(config, layer, role)] = np.ascontiguousarray(tensor, np.float32)
    sources = {name: source(tensor) for name, tensor in tensors.items()}
    write_tensors(path, sources, metadata, overwrite=True)


# -- textual inversion -----------------------------------------------------------------------------


# similar to the templates of CLIP's authors, which the paper uses
TEMPLATES = (
    "a photo of {}", "an image of {}", "a close-up photo of {}", "a bright photo of {}",
    "a dark photo of {}", "a cropped photo of {}", "a good photo of {}", "a rendition of {}",
    "a photo of one {}", "a photo of the {}", "{}",
)  # fmt: skip


def random_prompt(word: str, rng: np.random.Generator) -> str:
    """Return a random prompt that contains the word."""
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(word)


def initial_vectors(
    table: np.ndarray, tokenizer: PromptTokenizer, word: str, count: int
) -> np.ndarray:
    """Return the rows of a known word's tokens, repeated until there are `count`, (count, d).

    Raises:
        UsageError: The word is not in the vocabulary.
    """
    ids = tokenizer.encode([word])[0][0]
    inner = [int(i) for i in ids[1:] if i not in (tokenizer.end, tokenizer.pad)]
    if not inner or tokenizer.tokenize([word]).warnings:
        message = f"textual_inversion.initial: the model does not know the word {word!r}"
        raise UsageError(f"recipe: {message}", code="E-RECIPE", hint="name a kind of thing")
    return np.stack([table[inner[i % len(inner)]] for i in range(count)]).astype(np.float32)


def with_vectors(text_encoder: Params, vectors: torch.Tensor) -> Params:
    """Return the text encoder with its last k token embeddings replaced by `vectors`, (k, d)."""
    flat = flatten(text_encoder)
    table = flat[TOKEN_TABLE]
    flat[TOKEN_TABLE] = torch.cat([table[: -len(vectors)], vectors.to(table.dtype)])
    return unflatten(flat)


def write_embedding(path: Path, word: str, vectors: np.ndarray) -> None:
    """Write the word in the format of diffusers: one tensor, named after the word.

    Raises:
        OutputError: The file cannot be written.
    """
    tensor = np.ascontiguousarray(vectors, np.float32)
    write_tensors(path, {word: source(tensor)}, overwrite=True)
