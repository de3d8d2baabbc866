"""The tiny models of the golden traces: the suite's networks of a family, with a tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ldmref.backends.base import Backend
from ldmref.cases.golden_families import GoldenRun, golden_models_of
from ldmref.cases.model import CODE
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.parameters import random_parameters
from ldmref.cases.shrink import WORDS as WORDS_OF_ENCODERS
from ldmref.cases.shrink import shrink
from ldmref.cases.tokenizer_cases import byte_pair_files, unigram_file, word_piece_file
from ldmref.errors import UsageError, did_you_mean
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import scales_of
from ldmref.models.config import ModelConfig
from ldmref.models.family import BUILT_IN, family_of, find_family, list_families
from ldmref.models.model import TEXT_ENCODERS, LatentDiffusion, model_spec
from ldmref.models.presets import PRESETS, list_presets
from ldmref.models.text_kind import find_text_encoder, kind_of
from ldmref.prompts.prompt_template import PLAIN
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

PREFIX = "ldmref-cases/"  # of their names in the manifest of a trace
VOCABULARIES = "traces/vocabularies"
LETTERS = "abcdehilmnorstu"
WORDS = ("red", "heart")
CAPTION = "a red heart table"
EXCLAMATION = "!"  # pads the tokens of OpenCLIP's encoders, and has the id 0
END = WORDS_OF_ENCODERS - 1  # the id of CLIP's end token


def golden_runs(families: Collection[str] = ()) -> Iterator[GoldenRun]:
    """Yield the runs that families declare.

    Args:
        families: Names of models, also of other packages; (): all of ldmref.
    """
    declared = list_families() if families else map(find_family, BUILT_IN)
    for family in declared:
        runs = golden_models_of(family).runs
        yield from (run for run in runs if not families or run.preset in families)


def golden_presets(families: Collection[str] = ()) -> dict[str, ModelConfig]:
    """Return the models that have golden runs, by name; `families` as for `golden_runs`."""
    return {run.preset: list_presets()[run.preset] for run in golden_runs(families)}


def golden_model(family: str, backend: Backend | None = None) -> LatentDiffusion:
    """Build the tiny model of a family whose runs are golden traces.

    Its parameters are those of the suite's networks, `network_names(family)`, and the same on every
    machine.

    Args:
        family: The name of a preset for which its family declares golden runs.
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
    tokenizers = make_tokenizers(config, vocabularies_of(family))
    ops = backend or NumpyBackend(dtype="float32")
    return LatentDiffusion(ops, config, params, tokenizers[0], "", *tokenizers[1:])


def golden_config(family: str) -> ModelConfig:
    """Return the configuration of `golden_model(family)`.

    Its text encoders take as many tokens as the inputs of the suite's networks have, and do not
    need the later positions of their parameters. Those whose template drops tokens take more.

    Raises:
        UsageError: The family has no golden traces.
    """
    preset = golden_presets((family,)).get(family)
    if preset is None:
        hint = did_you_mean(family, golden_presets())
        raise UsageError(f"no golden traces of {family!r}", code=CODE, hint=hint)
    tiny = shrink(preset)
    templates = family_of(tiny).text.templates(tiny)
    encoders = {
        name: replace(encoder, max_position_embeddings=LENGTH)
        for name, encoder in zip(TEXT_ENCODERS, tiny.text_encoders, strict=False)
        if kind_of(encoder).reads == "text" and not templates.get(name, PLAIN).dropped
    }
    vae = tiny.vae
    if type(vae) is AutoencoderConfig:
        scaling_factor, shift_factor = scales_of(preset.vae)
        vae = replace(vae, scaling_factor=scaling_factor, shift_factor=shift_factor)
    return replace(tiny, vae=vae, **encoders)


@cache
def network_names(family: str) -> Mapping[str, str]:
    """Return the name in the suite of each network of a model: {"vae": "sd15.vae", ...}.

    Networks that are equal to one of an earlier family have its name, as in the whole suite.
    """
    known = {"sd15": PRESETS["sd15"]} | PRESETS | golden_presets() | golden_presets((family,))
    known.pop("tiny")
    found = {}
    for network, config in _parts(known[family]).items():
        for name, preset in known.items():
            same = [key for key, other in _parts(preset).items() if repr(other) == repr(config)]
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


def _parts(preset: ModelConfig) -> dict[str, Any]:
    """Return the configurations of the networks of a tiny model."""
    config = shrink(preset)
    encoders = {
        name: encoder
        for name, encoder in zip(TEXT_ENCODERS, config.text_encoders, strict=False)
        if kind_of(encoder).reads != "nothing"
    }
    found = {config.denoiser.network: config.denoiser, "vae": config.vae} | encoders
    networks = {network.params for network in family_of(config).networks(config)}
    return {name: part for name, part in found.items() if name in networks}


def make_tokenizers(config: ModelConfig, vocabularies: Sequence[str]) -> list[PromptTokenizer]:
    """Return a tokenizer for each text encoder of a tiny model.

    Args:
        config: The configuration of the model.
        vocabularies: The vocabulary of each, as `vocabularies_of` returns them.
    """
    found = []
    templates = family_of(config).text.templates(config)
    parts = zip(config.text_encoders, vocabularies, TEXT_ENCODERS, strict=False)
    with TemporaryDirectory() as name:
        for text, kind, network in parts:
            folder = Path(name) / network
            folder.mkdir()
            for path, content in vocabulary_files(kind).items():
                (folder / path).write_text(content, encoding="utf-8")
            source = folder / "tokenizer.json" if kind == "words" else folder
            padding = kind_of(text).padding(text)
            template = templates.get(network, PLAIN)
            place = source if kind else None
            found.append(tokenizer_for(text, place, padding, network, template))
    return found


def vocabularies_of(family: str) -> tuple[str, ...]:
    """Return the vocabulary of each text encoder; "": none.

    It is "clip", "bert", "t5" or "words", or the name of the kind of encoder that makes one.
    """
    run = next(golden_runs((family,)), None)
    kinds = [kind_of(text) for text in list_presets()[family].text_encoders]
    own = (kind.vocabulary if isinstance(kind.vocabulary, str) else kind.name for kind in kinds)
    return tuple((run.vocabulary if run else "") or name for name in own)


def vocabulary_files(kind: str) -> dict[str, str]:
    """Return the files of a vocabulary, by name.

    CLIP's has as many tokens as the encoders of Stable Diffusion 1 to XL, and the end token is the
    last. T5's has the piece of each letter, so that it knows every word of them.
    """
    if not kind:
        return {}
    if kind == "bert":
        return {"vocab.txt": word_piece_file()}
    if kind == "t5":
        return {"tokenizer.json": unigram_file(LETTERS, CAPTION.split())}
    if kind == "words":
        tokenizer = PromptTokenizer(word_tokenizer([CAPTION], 20), LENGTH)
        return {"tokenizer.json": tokenizer.tokenizer.to_str(pretty=True)}
    if kind == "clip":
        return byte_pair_files([EXCLAMATION, *LETTERS], WORDS)
    make = find_text_encoder(kind).vocabulary
    return {} if isinstance(make, str) else dict(make())


def model_of_suite(name: str) -> LatentDiffusion | None:
    """Return the model that a golden trace names, "ldmref-cases/sd15"; None for other names.

    Raises:
        UsageError: The family has no golden traces.
    """
    return golden_model(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
