"""The arguments of the pipelines, in diffusers' order and with its defaults.

Source: diffusers 0.42.1, `pipelines/stable_diffusion` and `pipelines/stable_diffusion_xl`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ldmref.errors import UsageError, did_you_mean, short_repr

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
SIZE = {"height": None, "width": None}
STEPS = {"num_inference_steps": 50, "timesteps": None, "sigmas": None}
COMMON_1 = {"num_images_per_prompt": 1, "eta": 0.0, "generator": None}
EMBEDS = {"prompt_embeds": None, "negative_prompt_embeds": None}
POOLED = {"pooled_prompt_embeds": None, "negative_pooled_prompt_embeds": None}
ADAPTER = {"ip_adapter_image": None, "ip_adapter_image_embeds": None}
OUTPUT = {"output_type": "pil", "return_dict": True, "cross_attention_kwargs": None}
CALLBACK = {
    "clip_skip": None,
    "callback_on_step_end": None,
    "callback_on_step_end_tensor_inputs": ["latents"],
}
XL_SIZES = {
    "original_size": None,
    "crops_coords_top_left": (0, 0),
    "target_size": None,
    "negative_original_size": None,
    "negative_crops_coords_top_left": (0, 0),
    "negative_target_size": None,
}
SCORES = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}
NEGATIVE = {"negative_prompt": None}
NEGATIVE_XL = {"negative_prompt": None, "negative_prompt_2": None}
MASK = {"image": None, "mask_image": None, "masked_image_latents": None}
CROP = {"padding_mask_crop": None}
PROMPT_XL = {"prompt": None, "prompt_2": None}
RESCALE = {"guidance_rescale": 0.0}
_END = {"denoising_end": None}
_START = {"denoising_start": None, "denoising_end": None}

TXT2IMG = (
    {"prompt": None} | SIZE | STEPS | {"guidance_scale": 7.5} | NEGATIVE | COMMON_1
    | {"latents": None} | EMBEDS | ADAPTER | OUTPUT | RESCALE | CALLBACK
)  # fmt: skip
IMG2IMG = (
    {"prompt": None, "image": None, "strength": 0.8} | STEPS | {"guidance_scale": 7.5} | NEGATIVE
    | COMMON_1 | EMBEDS | ADAPTER | OUTPUT | CALLBACK
)  # fmt: skip
INPAINT = (
    {"prompt": None} | MASK | SIZE | CROP | {"strength": 1.0} | STEPS | {"guidance_scale": 7.5}
    | NEGATIVE | COMMON_1 | {"latents": None} | EMBEDS | ADAPTER | OUTPUT | CALLBACK
)  # fmt: skip
XL_TXT2IMG = (
    PROMPT_XL | SIZE | STEPS | _END | {"guidance_scale": 5.0} | NEGATIVE_XL | COMMON_1
    | {"latents": None} | EMBEDS | POOLED | ADAPTER | OUTPUT | RESCALE | XL_SIZES | CALLBACK
)  # fmt: skip
XL_IMG2IMG = (
    PROMPT_XL | {"image": None, "strength": 0.3} | STEPS | _START | {"guidance_scale": 5.0}
    | NEGATIVE_XL | COMMON_1 | {"latents": None} | EMBEDS | POOLED | ADAPTER | OUTPUT | RESCALE
    | XL_SIZES | SCORES | CALLBACK
)  # fmt: skip
XL_INPAINT = (
    PROMPT_XL | MASK | SIZE | CROP | {"strength": 0.9999} | STEPS | _START
    | {"guidance_scale": 7.5} | NEGATIVE_XL | COMMON_1 | {"latents": None} | EMBEDS | POOLED
    | ADAPTER | OUTPUT | RESCALE | XL_SIZES | SCORES | CALLBACK
)  # fmt: skip
# Of `encode_prompt`; the arguments of a call follow with their defaults.
_ENCODE = {"device": None, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
ENCODE = (
    {"prompt": None}
    | _ENCODE
    | NEGATIVE
    | EMBEDS
    | {"lora_scale": None, "clip_skip": None}
    | TXT2IMG
)
XL_ENCODE = (
    PROMPT_XL
    | _ENCODE
    | NEGATIVE_XL
    | EMBEDS
    | POOLED
    | {"lora_scale": None, "clip_skip": None}
    | XL_TXT2IMG
)
# Names that diffusers still reads, although they are not parameters.
OLDER = {"callback": None, "callback_steps": None}

# Arguments that ldmref does not have, with advice.
UNSUPPORTED = {
    "timesteps": "ldmref.modes takes sigmas; a scheduler's configuration chooses the spacing",
    "sigmas": "ldmref.modes takes sigmas; a scheduler's configuration chooses the spacing",
    "ip_adapter_image": "ldmref has no IP-Adapter",
    "ip_adapter_image_embeds": "ldmref has no IP-Adapter",
    "lora_scale": "ldmref.load(folder, lora=[(file, weight)]) merges a LoRA",
    "cross_attention_kwargs": "ldmref.load(folder, lora=[(file, weight)]) merges a LoRA",
    "masked_image_latents": "give image and mask_image",
    "prompt_2": "both text encoders read prompt",
    "negative_prompt_2": "both text encoders read negative_prompt",
    "denoising_start": "ldmref.modes takes sigmas for a part of the noise levels",
    "denoising_end": "ldmref.modes takes sigmas for a part of the noise levels",
    **dict.fromkeys(XL_SIZES, "SDXL is conditioned on the size of the image itself"),
    **dict.fromkeys(SCORES, "the base model of SDXL does not read a score"),
}


def bind(
    name: str, parameters: Mapping[str, Any], args: tuple[Any, ...], values: Mapping[str, Any]
) -> SimpleNamespace:
    """Return the arguments of a call by name, with diffusers' defaults.

    Raises:
        TypeError: Too many positional arguments, or one that is also given by name.
        UsageError: An argument that does not exist, that ldmref does not have, or whose value
            cannot be used; the message names it.
    """
    names = list(parameters)
    if len(args) > len(names):
        raise TypeError(f"{name} takes at most {len(names)} arguments, not {len(args)}")
    positional = dict(zip(names, args, strict=False))
    for key in values:
        if key in positional:
            raise TypeError(f"{name} got multiple values for argument {key!r}")
        if key not in parameters and key not in OLDER:
            hint = did_you_mean(key, parameters)
            raise UsageError(f"{name} has no argument {key!r}", code="E-USAGE", hint=hint)
    bound = {**parameters, **OLDER, **positional, **values}
    for key, hint in UNSUPPORTED.items():
        neutral = (parameters.get(key), None, {}, "")
        if key in bound and not any(bound[key] is one or bound[key] == one for one in neutral):
            message = f"ldmref.compat.diffusers does not support {key}"
            raise UsageError(message, code="E-UNSUPPORTED", hint=hint)
    found = SimpleNamespace(**bound)
    check(found)
    return found


def check(arguments: SimpleNamespace) -> None:
    """Check the arguments whose values ldmref does not check itself.

    Raises:
        UsageError: A value of the wrong type, or out of its range.
    """
    for name in ("num_images_per_prompt", "callback_steps", "padding_mask_crop", "clip_skip"):
        value = getattr(arguments, name, None)
        least = 0 if name in ("padding_mask_crop", "clip_skip") else 1
        if value is not None and not is_integer(value, least):
            message = f"{name} must be a whole number of at least {least}, not {short_repr(value)}"
            raise UsageError(message, code="E-USAGE")
    for name in ("guidance_scale", "guidance_rescale", "eta", "strength"):
        value = getattr(arguments, name, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            message = f"{name} must be a number, not {short_repr(value)}"
            raise UsageError(message, code="E-USAGE")
    if arguments.output_type not in OUTPUT_TYPES:
        raise UsageError(
            f"output_type must be one of {', '.join(OUTPUT_TYPES)}, "
            f"not {short_repr(arguments.output_type)}",
            code="E-USAGE",
        )
    for name in ("callback_on_step_end", "callback"):
        value = getattr(arguments, name)
        if value is not None and not callable(value):
            message = f"{name} must be a function, not {short_repr(value)}"
            raise UsageError(message, code="E-CALLBACK")
    arguments.num_images_per_prompt = arguments.num_images_per_prompt or 1


def is_integer(value: Any, least: int) -> bool:
    """Return whether a value is an integer of at least `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(whole and value >= least)


def signature_of(parameters: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature of a pipeline's call, for `help` and completion."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(name, kind, default=value) for name, value in parameters.items()]
    return inspect.Signature([inspect.Parameter("self", kind), *named])
