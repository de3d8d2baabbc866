"""The files of a model as a folder of diffusers, from what its family declares of the pipeline.

Nothing of diffusers, transformers or PyTorch is imported.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.diffusers.folder import INDICES, diffusers_autoencoder_table, get_weight_stem
from ldmref.io.diffusers.ldm import FOLDERS, LDM_PIPELINES
from ldmref.io.diffusers.tokens import describe_tokenizer, describe_tokens
from ldmref.io.key_table import to_compvis
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS, TOKENIZERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.network_port import find_autoencoder_port, find_text_encoder_port
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import list_ports, port_of
from ldmref.ports.written import describe_config
from ldmref.prompts.prompt_template import PLAIN

CODE = "E-PASSPORT"
METADATA = {"format": "pt"}  # without which transformers refuses a file
TOKENIZER_CLASS = "PreTrainedTokenizerFast"
NO_PART = [None, None]
MODULAR = ("_class_name", "_blocks_class_name")  # of the index of a modular pipeline


@dataclass(frozen=True)
class StoredNetwork:
    """A network of a pipeline.

    Attributes:
        described: Its class and arguments.
        tensors: Its parameters under the names of its files.
    """

    described: LibraryObject
    tensors: Mapping[str, np.ndarray]


def parts_of(config: ModelConfig) -> PipelineParts:
    """Return how the pipeline of diffusers of a model is made.

    Raises:
        UsageError: Its family does not declare it.
    """
    port = port_of(family_of(config))
    if port.parts is None:
        known = ", ".join(each.name for each in list_ports() if each.parts)
        message = f"diffusers' pipeline of {port.name} is not declared"
        raise UsageError(message, code=CODE, hint=f"that of {known} is")
    return port.parts


def pipeline_files(model: LatentDiffusion, asked: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a model as a folder that diffusers opens with `from_pretrained`.

    All weights are held in memory, in the format in which the model has them.

    Args:
        model: A model on a backend of arrays that NumPy reads, of a family that declares the parts
            of its pipeline.
        asked: A request of `txt2img`, of which the sampler is read.

    Returns:
        The content of each file by its path: the index of the pipeline, and for each part a folder
        with its configuration and weights.

    Raises:
        UsageError: diffusers has no pipeline, network or scheduler of the model.

    >>> import ldmref
    >>> files = pipeline_files(ldmref.random_model("tiny"), {"sampler": "ddim"})
    >>> sorted(path.partition("/")[0] for path in files if path.endswith("config.json"))
    ['scheduler', 'text_encoder', 'tokenizer', 'unet', 'vae']
    """
    config = model.config
    parts = parts_of(config)
    pipeline = parts.pipeline(config)
    names = FOLDERS if pipeline.kind in LDM_PIPELINES else {}
    files: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    for part, network in stored_networks(model, parts):
        name = names.get(part, part)
        index[name] = [network.described.library, network.described.kind]
        files[f"{name}/config.json"] = _json(describe_config(network.described))
        files[f"{name}/{get_weight_stem(part)}.safetensors"] = _tensors(network.tensors)
    scheduler = parts.scheduler(config, asked["sampler"])
    index["scheduler"] = [scheduler.library, scheduler.kind]
    files["scheduler/scheduler_config.json"] = _json(describe_config(scheduler))
    for name, content in _tokenizer_files(model, parts):
        index[name.partition("/")[0]] = ["transformers", TOKENIZER_CLASS]
        files[name] = content
    settings = {k: NO_PART if x is None else x for k, x in pipeline.arguments.items()}
    if parts.modular is None:
        return {INDICES[0]: _json({"_class_name": pipeline.kind, **settings, **index}), **files}
    described: dict[str, Any] = dict(zip(MODULAR, parts.modular(config), strict=True))
    described |= {name: _modular(name, *kind) for name, kind in index.items()}
    return {INDICES[1]: _json(described), **files}


def stored_networks(
    model: LatentDiffusion, parts: PipelineParts
) -> Iterator[tuple[str, StoredNetwork]]:
    """Yield the networks of a pipeline by the name of the part.

    Args:
        model: The model.
        parts: Those of its pipeline.

    Raises:
        UsageError: No class of diffusers or transformers is declared for one.
    """
    config = model.config
    network = config.denoiser.network
    yield network, StoredNetwork(parts.denoiser(config), _arrays(model.params[network]))
    vae = describe_autoencoder(config)
    tensors = to_compvis(_arrays(model.params["vae"]), diffusers_autoencoder_table(config.vae))
    yield "vae", StoredNetwork(vae, tensors)
    for name, text in zip(TEXT_ENCODERS, config.text_encoders, strict=False):
        described = describe_text_encoder(text, parts)
        own = _arrays(model.params[name])
        yield name, StoredNetwork(described, {described.rename(k): x for k, x in own.items()})


def describe_autoencoder(config: ModelConfig) -> LibraryObject:
    """Return the network of diffusers of a model's autoencoder.

    Raises:
        UsageError: Its kind declares none.
    """
    kind = autoencoder_of(config.vae)
    describe = find_autoencoder_port(kind.name).module
    if describe is None:
        message = f"no network of diffusers is declared for the {kind.title}"
        raise UsageError(message, code=CODE, hint="its kind has no `NetworkPort.module`")
    return describe(config.vae)


def describe_text_encoder(text: TextConfig, parts: PipelineParts | None = None) -> LibraryObject:
    """Return the network of transformers of a text encoder.

    Args:
        text: The configuration.
        parts: Those of a pipeline that may take another network. None: the one of its kind.

    Raises:
        UsageError: Neither declares one.
    """
    kind = kind_of(text)
    describe = (parts and parts.text_encoder) or find_text_encoder_port(kind.name).module
    if describe is None:
        message = f"no network of transformers is declared for the text encoder {kind.name!r}"
        raise UsageError(message, code=CODE, hint="its kind has no `NetworkPort.module`")
    return describe(text)


def _tokenizer_files(model: LatentDiffusion, parts: PipelineParts) -> Iterator[tuple[str, bytes]]:
    """Yield the files of the tokenizers of a pipeline."""
    templates = family_of(model.config).text.templates(model.config)
    named = zip(TEXT_ENCODERS, TOKENIZERS, model.tokenizers, strict=False)
    for network, name, tokenizer in named:
        folder = parts.tokenizer_folders.get(name, name)
        settings = describe_tokenizer(tokenizer, templates.get(network, PLAIN))
        settings = {"tokenizer_class": TOKENIZER_CLASS, **settings}
        yield f"{folder}/tokenizer.json", describe_tokens(tokenizer).encode()
        yield f"{folder}/tokenizer_config.json", _json(settings)


def _modular(name: str, library: str, kind: str) -> list[Any]:
    """Return the entry of a part in the index of a modular pipeline, which says no place."""
    place = {"pretrained_model_name_or_path": None, "subfolder": name, "variant": None}
    return [library, kind, {"type_hint": [library, kind], **place, "revision": None}]


def _arrays(params: Params) -> dict[str, np.ndarray]:
    """Return parameters by name, as arrays of NumPy."""
    return {name: np.asarray(x) for name, x in flatten(params).items()}


def _tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return a file of weights."""
    file = io.BytesIO()
    stored = {name: source(np.ascontiguousarray(x)) for name, x in tensors.items()}
    write_to(file, stored, METADATA)
    return file.getvalue()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
