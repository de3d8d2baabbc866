"""The tiny models of the golden traces: the suite's networks of a family, with a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ldmref.backends.base import Backend
from ldmref.cases.model import CODE
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.parameters import random_parameters
from ldmref.cases.shrink import shrink
from ldmref.cases.tokenizer_cases import byte_pair_files, word_piece_file
from ldmref.errors import UsageError, did_you_mean
from ldmref.models.config import ModelConfig
from ldmref.models.model import TEXT_ENCODERS, LatentDiffusion, model_spec
from ldmref.models.presets import PRESETS
from ldmref.prompts.clip_vocabulary import load_tokenizer
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.wordpiece import wordpiece_tokenizer
from ldmref.prompts.words import word_tokenizer

FAMILIES = (
    "sd15", "sd2-base", "sd2-v", "sdxl", "ldm-text2img-large", "ldm-text2img256", "emoji",
    "emoji-128",
)  # fmt: skip
"""The families that generate an image from a text."""
PREFIX = "ldmref-cases/"  # of their names in the manifest of a trace
VOCABULARIES = "traces/vocabularies"
LETTERS = "abcdehilmnorstu"
WORDS = ("red", "heart")
CAPTION = "a red heart table"
EXCLAMATION = "!"  # pads the tokens of OpenCLIP's encoders, and has the id 0


def golden_model(family: str, backend: Backend | None = None) -> LatentDiffusion:
    """Build the tiny model of a family whose runs are golden traces.

    Its parameters are those of the suite's networks, `network_names(family)`, and the same on every
    machine.

    Args:
        family: A name in `golden_models.FAMILIES`.
        backend: The backend of the networks. None: NumPy in float32.

    Returns:
        The model.

    Raises:
        UsageError: The family has no golden traces.

    >>> from ldmref.cases import golden_model
    >>> golden_model("sd15")
    <LatentDiffusion 'sd15' on <numpy backend, cpu, float32>>
    """
    from ldmref.backends.numpy import NumpyBackend

    config = golden_config(family)
    spec = model_spec(config)
    params = {
        network: random_parameters(name, spec[network])
        for network, name in network_names(family).items()
    }
    tokenizers = _tokenizers(config)
    ops = backend or NumpyBackend(dtype="float32")
    return LatentDiffusion(ops, config, params, tokenizers[0], "", *tokenizers[1:])


def golden_config(family: str) -> ModelConfig:
    """Return the configuration of `golden_model(family)`.

    Its text encoders take as many tokens as the inputs of the suite's networks have, and do not
    need the later positions of their parameters.

    Raises:
        UsageError: The family has no golden traces.
    """
    if family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES)
        raise UsageError(f"no golden traces of {family!r}", code=CODE, hint=hint)
    preset = PRESETS[family]
    tiny = shrink(preset)
    encoders = {
        name: replace(encoder, max_position_embeddings=LENGTH)
        for name, encoder in zip(TEXT_ENCODERS, tiny.text_encoders, strict=False)
    }
    scales = {name: getattr(preset.vae, name) for name in ("scaling_factor", "shift_factor")}
    vae = replace(tiny.vae, **scales)
    return replace(tiny, vae=vae, **encoders)


@cache
def network_names(family: str) -> Mapping[str, str]:
    """Return the name in the suite of each network of a model: {"vae": "sd15.vae", ...}.

    Networks that are equal to one of an earlier family have its name, as in the whole suite.
    """
    wanted = _parts(family)
    order = ["sd15", *(name for name in PRESETS if name not in ("tiny", "sd15"))]
    found = {}
    for network, config in wanted.items():
        for name in order:
            same = [key for key, other in _parts(name).items() if repr(other) == repr(config)]
            if same:
                found[network] = f"{name}.{same[0]}"
                break
    return found


def network_cases(family: str, mode: str) -> dict[str, str]:
    """Return the case of each network that a run calls: {"vae.decode": "sd15.vae.decode", ...}."""
    names = dict(network_names(family))
    vae = names.pop("vae")
    found = names | {"vae.decode": f"{vae}.decode"}
    return found if mode == "txt2img" else found | {"vae.encode": f"{vae}.encode"}


def _parts(family: str) -> dict[str, Any]:
    """Return the configurations of the networks of a tiny model."""
    config = shrink(PRESETS[family])
    encoders = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
    return {"unet": config.unet, "vae": config.vae} | encoders


def _tokenizers(config: ModelConfig) -> list[PromptTokenizer]:
    """Return a tokenizer for each text encoder of a model."""
    kind = vocabulary_of(config)
    with TemporaryDirectory() as name:
        folder = Path(name) / kind
        folder.mkdir()
        for path, text in vocabulary_files(kind).items():
            (folder / path).write_text(text, encoding="utf-8")
        if kind == "bert":
            return [wordpiece_tokenizer(folder, LENGTH)]
        if kind == "words":
            return [load_tokenizer(folder / "tokenizer.json", LENGTH)]
        return [
            load_tokenizer(folder, LENGTH, pad=pad_of(config, i))
            for i in range(len(config.text_encoders))
        ]


def vocabulary_of(config: ModelConfig) -> str:
    """Return the vocabulary of a model: "clip", "bert" or "words"."""
    if config.text_encoder.model_type == "ldmbert":
        return "bert"
    return "words" if config.name.startswith("emoji") else "clip"


def pad_of(config: ModelConfig, i: int) -> int | None:
    """Return the id that pads the tokens of a text encoder of CLIP; None: the end token."""
    openclip = config.text_encoders[i].hidden_act == "gelu"
    return 0 if openclip else None


def vocabulary_files(kind: str) -> dict[str, str]:
    """Return the files of a vocabulary, by name.

    CLIP's has as many tokens as the encoders, and the end token is the last.
    """
    if kind == "bert":
        return {"vocab.txt": word_piece_file()}
    if kind == "words":
        tokenizer = PromptTokenizer(word_tokenizer([CAPTION], 20), LENGTH)
        return {"tokenizer.json": tokenizer.tokenizer.to_str(pretty=True)}
    return byte_pair_files([EXCLAMATION, *LETTERS], WORDS)


def model_of_suite(name: str) -> LatentDiffusion | None:
    """Return the model that a golden trace names, "ldmref-cases/sd15"; None for other names.

    Raises:
        UsageError: The family has no golden traces.
    """
    return golden_model(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
