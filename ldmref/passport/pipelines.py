"""The pipeline of diffusers of a kit: its networks with the kit's parameters, and its request."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldmref.cases.trace_runs import NOISE
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten
from ldmref.models.text_config import TextConfig
from ldmref.passport.kit import Kit
from ldmref.passport.recorded import CODE
from ldmref.prompts.prompt_template import PromptTemplate
from ldmref.prompts.tokenizer import PromptTokenizer

SIDES = (("Down", "Encoder"), ("Up", "Decoder"))
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings",
)  # fmt: skip
LIBRARIES = "pip install torch diffusers transformers"


@dataclass(frozen=True)
class PipelineParts:
    """The classes of diffusers of a family, and what their arguments are called.

    Attributes:
        pipeline, transformer, vae: The names of the classes.
        network: Further arguments of the transformer, of the configuration.
        autoencoder: Further arguments of the autoencoder.
        request: Further arguments of a call of the pipeline.
        scale: Returns the pipeline's guidance scale of ours.
    """

    pipeline: str
    transformer: str
    vae: str = "AutoencoderKL"
    network: Callable[[ModelConfig], Mapping[str, Any]] = lambda config: {}
    autoencoder: Callable[[ModelConfig], Mapping[str, Any]] = lambda config: {}
    request: Callable[[ModelConfig], Mapping[str, Any]] = lambda config: {}
    scale: Callable[[float], float] = field(default=lambda scale: scale, repr=False)


def _of_z_image(config: ModelConfig) -> dict[str, Any]:
    heads = vars(config.denoiser)["n_heads"]
    return {"n_kv_heads": heads, "axes_lens": [1024, 64, 64]}


def _of_sd3(config: ModelConfig) -> dict[str, Any]:
    network = vars(config.denoiser)
    return {
        "caption_projection_dim": network["num_attention_heads"] * network["attention_head_dim"]
    }


PARTS = {
    "z-image": PipelineParts(
        "ZImagePipeline",
        "ZImageTransformer2DModel",
        network=_of_z_image,
        scale=lambda scale: scale - 1.0,
    ),
    "flux2": PipelineParts(
        "Flux2KleinPipeline",
        "Flux2Transformer2DModel",
        "AutoencoderKLFlux2",
        autoencoder=lambda config: {"latent_channels": config.vae.latent_channels // 4},
        request=lambda config: {
            "text_encoder_out_layers": vars(config.text_encoder)["hidden_layers"]
        },
    ),
    "sd3": PipelineParts(
        "StableDiffusion3Pipeline",
        "SD3Transformer2DModel",
        network=_of_sd3,
        request=lambda config: {
            "max_sequence_length": config.text_encoders[-1].max_position_embeddings
        },
    ),
}
"""The families whose kits diffusers opens."""


def kit_pipeline(kit: Kit) -> Any:
    """Return the pipeline of diffusers with the parameters of a kit, in float32 on the CPU.

    Args:
        kit: The kit of a family in `PARTS`.

    Returns:
        The pipeline; `.to(dtype)` changes its format.

    Raises:
        UsageError: diffusers' pipeline of the family is not known here.
        BackendUnavailable: PyTorch, diffusers or transformers is not installed.

    >>> from ldmref.passport import read_kit
    >>> type(kit_pipeline(read_kit("kits/z-image"))).__name__  # doctest: +SKIP
    'ZImagePipeline'
    """
    model = kit.model()
    config = model.config
    parts = parts_of(config)
    try:
        import diffusers
        import transformers  # noqa: F401
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
            FlowMatchEulerDiscreteScheduler,
        )
    except ImportError as error:
        message = "the pipeline of a kit needs PyTorch, diffusers and transformers"
        raise BackendUnavailable(message, code=CODE, hint=LIBRARIES) from error
    levels = len(vars(config.vae)["block_out_channels"])
    blocks = {
        f"{side.lower()}_block_types": [f"{side}{kind}Block2D"] * levels for side, kind in SIDES
    }
    made: dict[str, Any] = {
        "transformer": _construct(
            getattr(diffusers, parts.transformer), config.denoiser, parts.network(config)
        ),
        "vae": _construct(
            getattr(diffusers, parts.vae), config.vae, {**blocks, **parts.autoencoder(config)}
        ),
    }
    for name, text in zip(TEXT_ENCODERS, config.text_encoders, strict=False):
        made[name] = _text_encoder(text)
    for name, network in made.items():
        _load(network, model, name)
    scheduler = config.scheduler
    shifts: dict[str, Any] = {
        "shift": scheduler.shift,
        "use_dynamic_shifting": scheduler.dynamic_shift,
    }
    made["scheduler"] = FlowMatchEulerDiscreteScheduler(**shifts)
    made |= dict(_tokenizers(model))
    pipe = getattr(diffusers, parts.pipeline)(**made)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def parts_of(config: ModelConfig) -> PipelineParts:
    """Return the classes of diffusers of a model.

    Raises:
        UsageError: They are not known here.
    """
    name = family_of(config).name
    if name not in PARTS:
        message = f"diffusers' pipeline of {name} is not built from a kit"
        raise UsageError(message, code=CODE, hint=f"kits of {', '.join(PARTS)} have one")
    return PARTS[name]


def run_pipeline(pipe: Any, kit: Kit, **changes: Any) -> Any:
    """Generate the images of a kit with a pipeline of diffusers.

    Both prompts are in one batch, from the kit's noise.

    Args:
        pipe: A pipeline with the kit's parameters, such as `kit_pipeline(kit)`, in any format.
        kit: The kit of a family in `PARTS`.
        **changes: Arguments of the pipeline in place of those of the kit's run.

    Returns:
        What the pipeline returns.

    Raises:
        UsageError: diffusers' pipeline of the family is not known here.

    >>> import ldmref
    >>> kit = read_kit("kits/z-image")  # doctest: +SKIP
    >>> pipe = kit_pipeline(kit)  # doctest: +SKIP
    >>> with ldmref.recording(pipe, "port"):  # doctest: +SKIP
    ...     run_pipeline(pipe, kit)
    """
    import torch

    config = kit.model().config
    parts = parts_of(config)
    asked = kit.request
    prompts = [*asked["prompt"]]
    noise = torch.from_numpy(np.array(kit.trace.tensors[NOISE], np.float32))
    found: dict[str, Any] = {
        "prompt": prompts,
        "num_inference_steps": asked["steps"],
        "guidance_scale": parts.scale(asked["cfg_scale"]),
        "width": asked["width"],
        "height": asked["height"],
        "latents": noise.to(pipe.transformer.dtype),
        **parts.request(config),
        **changes,
    }
    if "max_sequence_length" in asked:
        found["max_sequence_length"] = asked["max_sequence_length"]
    negative = [asked["negative_prompt"]] * len(prompts)
    with torch.inference_mode():
        if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
            return pipe(**found, negative_prompt=negative)
        known = inspect.signature(pipe.encode_prompt).parameters
        lengths = {k: x for k, x in found.items() if k in known and k != "prompt"}
        states = pipe.encode_prompt(prompt=negative, **lengths)[0]
        return pipe(**found, negative_prompt_embeds=states)


def _construct(kind: Callable[..., Any], config: object, more: Mapping[str, Any]) -> Any:
    """Call a class with the fields of a configuration that it has under the same name."""
    known = inspect.signature(kind).parameters
    shared = {k: x for k, x in vars(config).items() if k in known and x != ""}
    return kind(**shared | {k: x for k, x in more.items() if k in known})


def _text_encoder(text: TextConfig) -> Any:
    """Return the network of transformers of a text encoder."""
    import transformers

    same: dict[str, Any] = {k: x for k, x in vars(text).items() if k in SHARED}
    more: dict[str, Any] = {}
    if text.model_type == "t5":
        config = transformers.T5Config(
            vocab_size=text.vocab_size,
            d_model=text.hidden_size,
            d_kv=text.head_dim,
            d_ff=text.intermediate_size,
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            feed_forward_proj="gated-gelu",
            layer_norm_epsilon=text.layer_norm_eps,
        )
        return transformers.T5EncoderModel(config)
    if text.model_type == "clip":
        more |= {"projection_dim": text.projection_dim, "eos_token_id": text.eos_token_id}
        more |= {"hidden_act": text.hidden_act, "layer_norm_eps": text.layer_norm_eps}
        return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**same, **more))
    rope = {"rope_type": "default", "rope_theta": vars(text)["rope_theta"]}
    more |= {"num_key_value_heads": vars(text)["num_key_value_heads"], "head_dim": text.head_dim}
    more |= {"rms_norm_eps": text.layer_norm_eps, "rope_parameters": rope}
    same["max_position_embeddings"] = 512
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**same, **more, tie_word_embeddings=True)
    )


def _load(network: Any, model: LatentDiffusion, name: str) -> None:
    """Give a network the parameters of a kit, and no others.

    Raises:
        UsageError: The installed libraries have other parameters.
    """
    import torch

    flat = {k: np.array(x, np.float32) for k, x in flatten(model.params[name]).items()}
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    state = {}
    for key, x in flat.items():
        names = (key, f"model.{key}", key.removeprefix("text_model."))
        found = next((n for n in names if n in own), None)
        if found is None or own[found].shape != x.shape:
            message = f"the installed libraries have no parameter {name}.{key} of {x.shape}"
            raise UsageError(message, code=CODE, hint="kits were tried with diffusers 0.42")
        state[found] = torch.from_numpy(x)
    network.load_state_dict(state, strict=False)
    network.eval().requires_grad_(False)


def _tokenizers(model: LatentDiffusion) -> Iterator[tuple[str, Any]]:
    """Yield the tokenizers of a pipeline by name."""
    templates = family_of(model.config).text.templates(model.config)
    for name, tokenizer in zip(TEXT_ENCODERS, model.tokenizers, strict=False):
        template = templates.get(name, PromptTemplate())
        yield name.replace("text_encoder", "tokenizer"), _tokenizer(tokenizer, template)


def _tokenizer(tokenizer: PromptTokenizer, template: PromptTemplate) -> Any:
    """Return a tokenizer of transformers, with the start and end tokens or the chat of a family."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    known = {"bos_token": tokenizer.start, "eos_token": tokenizer.end, "pad_token": tokenizer.pad}
    words = {k: made.id_to_token(i) for k, i in known.items() if i is not None}
    if template.surrounds:
        before, after = json.dumps(template.before), json.dumps(template.after)
        chat = f"{{{{ {before} + messages[0]['content'] + {after} }}}}"
        fast = PreTrainedTokenizerFast(tokenizer_object=made, padding_side="right", **words)
        fast.chat_template = chat
        return fast
    around = [words.get("bos_token"), "$A", words.get("eos_token")]
    special = [(x, made.token_to_id(x)) for x in around if x and x != "$A"]
    single = " ".join(x for x in around if x)
    made.post_processor = TemplateProcessing(single=single, special_tokens=special)  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, padding_side="right", model_max_length=tokenizer.length, **words
    )
