"""The pipeline of diffusers of a kit: its networks with the kit's parameters, and its request."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.cases.trace_runs import NOISE
from ldmref.errors import BackendUnavailable, UsageError, abbreviated
from ldmref.io.diffusers.folder import diffusers_autoencoder_table
from ldmref.io.diffusers.tokens import describe_tokenizer, describe_tokens
from ldmref.io.key_table import find_matching, to_compvis
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of
from ldmref.passport.kit import Kit
from ldmref.passport.recorded import CODE
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.pipeline_folder import (
    describe_autoencoder,
    describe_text_encoder,
    parts_of,
)
from ldmref.prompts.prompt_template import PromptTemplate
from ldmref.prompts.tokenizer import PromptTokenizer

LIBRARIES = "pip install torch diffusers transformers"
TRIED = "kits were tried with diffusers 0.42 and transformers 5"


def kit_pipeline(kit: Kit) -> Any:
    """Return the pipeline of diffusers with the parameters of a kit, in float32 on the CPU.

    Args:
        kit: The kit of a family that declares the parts of its pipeline, `FamilyPort.parts`.

    Returns:
        The pipeline; `.to(dtype)` changes its format.

    Raises:
        UsageError: diffusers' pipeline of the family is not declared, or cannot run a kit.
        BackendUnavailable: PyTorch, diffusers or transformers is not installed.

    >>> from ldmref.passport import read_kit
    >>> type(kit_pipeline(read_kit("kits/z-image"))).__name__  # doctest: +SKIP
    'ZImagePipeline'
    """
    parts_of(kit.config).require_kit(kit.config)  # before the parameters are read
    return make_pipeline(kit.model(), kit.request)


def make_pipeline(model: LatentDiffusion, asked: Mapping[str, Any]) -> Any:
    """Return the pipeline of diffusers with the parameters of a model, in float32 on the CPU.

    Args:
        model: A model of a family that declares the parts of its pipeline.
        asked: A request of `txt2img`, of which the sampler and the guidance are read.

    Raises:
        UsageError: diffusers' pipeline of the family is not declared, or has no such sampler.
        BackendUnavailable: PyTorch, diffusers or transformers is not installed.
    """
    config = model.config
    parts = parts_of(config)
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        message = "the pipeline of a kit needs PyTorch, diffusers and transformers"
        raise BackendUnavailable(message, code=CODE, hint=LIBRARIES) from error
    described = parts.pipeline(config)  # which refuses models that it cannot run
    network = config.denoiser.network
    made = {network: load_parameters(make_object(parts.denoiser(config)), model.params[network])}
    made["vae"] = _autoencoder(model)
    for name, text in zip(TEXT_ENCODERS, config.text_encoders, strict=False):
        made[name] = make_text_encoder(text, model.params[name], parts)
    made["scheduler"] = make_object(parts.scheduler(config, asked["sampler"]))
    made |= parts.tokenizers(dict(_tokenizers(model)))
    made |= {name: make_object(part) for name, part in parts.more(config, asked).items()}
    pipe = make_object(described, **made)
    parts.adapt(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_pipeline(pipe: Any, kit: Kit, **changes: Any) -> Any:
    """Generate the images of a kit with a pipeline of diffusers.

    Both prompts are in one batch, from the kit's noise; or one after the other, where the family
    says that the pipeline computes texts of unequal length otherwise together than alone.

    Args:
        pipe: A pipeline with the kit's parameters, such as `kit_pipeline(kit)`, in any format.
        kit: The kit of a family that declares the parts of its pipeline, `FamilyPort.parts`.
        **changes: Arguments of the pipeline in place of those of the kit's run.

    Returns:
        What the pipeline returns; a list of it for prompts one after the other.

    Raises:
        UsageError: diffusers' pipeline of the family is not declared.

    >>> import ldmref
    >>> kit = read_kit("kits/z-image")  # doctest: +SKIP
    >>> pipe = kit_pipeline(kit)  # doctest: +SKIP
    >>> with ldmref.recording(pipe, "port"):  # doctest: +SKIP
    ...     run_pipeline(pipe, kit)
    """
    import torch

    config = kit.config
    parts = parts_of(config)
    asked = kit.request
    noise = kit.trace.tensors[f"{NOISE}.tokens" if parts.takes_tokens else NOISE]
    network = getattr(pipe, config.denoiser.network)
    found: dict[str, Any] = {
        "prompt": [*asked["prompt"]],
        "num_inference_steps": asked["steps"],
        "width": asked["width"],
        "height": asked["height"],
        "latents": torch.from_numpy(np.array(noise, np.float32)).to(network.dtype),
    }
    if "max_sequence_length" in asked:
        found["max_sequence_length"] = asked["max_sequence_length"]
    found |= parts.request(config, asked)
    if "guidance_scale" not in found:
        found["guidance_scale"] = family_of(config).guidance_scale.ask(asked["cfg_scale"])
    negative = [asked["negative_prompt"]] * len(found["prompt"])
    if not parts.alone:
        return _call(pipe, negative, found, changes)
    found |= {name: changes.pop(name) for name in ("prompt", "latents") if name in changes}
    rows = zip(found["prompt"], found["latents"].split(1), strict=True)
    each = [found | {"prompt": [prompt], "latents": latents} for prompt, latents in rows]
    return [_call(pipe, negative[:1], request, changes) for request in each]


def _call(
    pipe: Any, negative: list[str], request: Mapping[str, Any], changes: Mapping[str, Any]
) -> Any:
    """Call a pipeline; one that takes no negative prompts gets their hidden states.

    A modular pipeline takes any arguments by name, and its blocks say which of them they read.

    Args:
        pipe: The pipeline.
        negative: The negative prompts.
        request: The arguments of the kit's run; None is left out.
        changes: Arguments instead of them.
    """
    import torch

    with torch.inference_mode():
        if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
            found = {"negative_prompt": negative, **request, **changes}
            return pipe(**{k: x for k, x in found.items() if x is not None})
        if hasattr(pipe, "blocks"):
            [prompt], [text] = request["prompt"], negative
            found = {**request, "negative_prompt": text, "prompt": prompt, **changes}
            known = {*pipe.blocks.input_names}
            return pipe(**{k: x for k, x in found.items() if x is not None and k in known})
        found = {k: x for k, x in {**request, **changes}.items() if x is not None}
        known = inspect.signature(pipe.encode_prompt).parameters
        lengths = {k: x for k, x in found.items() if k in known and k != "prompt"}
        states = pipe.encode_prompt(prompt=negative, **lengths)[0]
        return pipe(**found, negative_prompt_embeds=states)


# -- networks -------------------------------------------------------------------------------------


def make_object(described: LibraryObject, **more: Any) -> Any:
    """Return an object of diffusers or transformers; networks have random parameters.

    Args:
        described: The object.
        **more: Further arguments of its class.

    Raises:
        UsageError: The installed libraries have no such class.

    >>> make_object(LibraryObject("fractions:Fraction", {"numerator": 1}), denominator=2)
    Fraction(1, 2)
    """
    module, _, name = described.path.partition(":")
    kind = getattr(importlib.import_module(module), name, None)
    if kind is None:
        message = f"the installed version of {module} has no {name}"
        raise UsageError(message, code=CODE, hint=TRIED)
    settings = {**described.arguments, **more}
    if described.like is not None:
        known = {*inspect.signature(kind).parameters, *described.settings, *more}
        settings = {k: x for k, x in settings.items() if k in known}
    config = getattr(kind, "config_class", None)  # of networks of transformers
    return kind(**settings) if config is None else kind(config(**settings))


def make_text_encoder(text: TextConfig, params: Params, parts: PipelineParts | None = None) -> Any:
    """Return the network of transformers of a text encoder, with its parameters.

    Args:
        text: The configuration.
        params: The parameters, under our names.
        parts: Those of a pipeline that may take another network. None: the one of its kind.

    Raises:
        UsageError: The kind declares no network, or the installed libraries have other parameters.
    """
    kind = kind_of(text)
    network = make_object(describe_text_encoder(text, parts))
    names = {kind.rename(name): name for name in _tensors_of(network)}
    flat = {names.get(k, k): x for k, x in flatten(params).items()}
    return load_parameters(network, flat, kind.ignored)


def _autoencoder(model: LatentDiffusion) -> Any:
    """Return the network of diffusers of a model's autoencoder, with its parameters.

    Raises:
        UsageError: The kind declares no network, or the installed libraries have other parameters.
    """
    network = make_object(describe_autoencoder(model.config))
    vae = model.config.vae
    flat = {k: np.asarray(x) for k, x in flatten(model.params["vae"]).items()}
    stored = to_compvis(flat, diffusers_autoencoder_table(vae))
    return load_parameters(network, stored, autoencoder_of(vae).ignored)


def load_parameters(network: Any, params: Mapping[str, Any], ignored: str = "") -> Any:
    """Give a network of PyTorch all of its parameters, in float32, and return it.

    Args:
        network: The network.
        params: The parameters, a tree or flat, under the network's names.
        ignored: A pattern of the names that the network may have and `params` not.

    Raises:
        UsageError: The installed libraries have other parameters.
    """
    import torch

    flat = {k: np.array(x, np.float32) for k, x in flatten(params).items()}
    own = _tensors_of(network)
    for key, x in flat.items():
        if key not in own or own[key].shape != x.shape:
            name = type(network).__name__
            message = f"the installed {name} has no parameter {key} of {x.shape}"
            raise UsageError(message, code=CODE, hint=TRIED)
    missing = {name for name, _ in network.named_parameters()} - {*flat}
    missing -= find_matching(ignored, missing)
    if missing:
        message = f"the installed {type(network).__name__} has more parameters than the kit"
        raise UsageError(f"{message}: {abbreviated(sorted(missing), 3)}", code=CODE, hint=TRIED)
    network.load_state_dict({k: torch.from_numpy(x) for k, x in flat.items()}, strict=False)
    return network.eval().requires_grad_(False)


def _tensors_of(network: Any) -> dict[str, Any]:
    """Return the parameters and buffers of a network of PyTorch by name."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


# -- tokenizers -----------------------------------------------------------------------------------


def _tokenizers(model: LatentDiffusion) -> Iterator[tuple[str, Any]]:
    """Yield the tokenizers of a pipeline by name."""
    templates = family_of(model.config).text.templates(model.config)
    for name, tokenizer in zip(TEXT_ENCODERS, model.tokenizers, strict=False):
        template = templates.get(name, PromptTemplate())
        yield name.replace("text_encoder", "tokenizer"), _tokenizer(tokenizer, template)


def _tokenizer(tokenizer: PromptTokenizer, template: PromptTemplate) -> Any:
    """Return a tokenizer of transformers, with the start and end tokens or the chat of a family."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(describe_tokens(tokenizer))
    settings = describe_tokenizer(tokenizer, template)
    return PreTrainedTokenizerFast(tokenizer_object=made, **settings)
