"""Faults of the masks of padding, put into small pipelines for prompts of unequal length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.transformers import (
    transformer_krea2,
    transformer_qwenimage21,
    transformer_z_image,
)
from diffusers.modular_pipelines.modular_pipeline import ModularPipeline
from torch.utils.hooks import RemovableHandle
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_vl import modeling_qwen3_vl

import ldmref

SHORT = "a red cat"
MIDDLE = "the blue house of a dog"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat"
LONGER = f"{LONG}, {LONG}, {LONG}"
BATCHES = {  # whose texts have unequal numbers of the units that a family pads to
    "z-image": [SHORT, LONGER]
}
TRANSFORMERS = {"qwen-image-2.1": "encoder_hidden_states_mask", "krea2": "encoder_attention_mask"}
LANGUAGE_MODELS = {
    "qwen-image-2.1": modeling_qwen3_vl,
    "krea2": modeling_qwen3_vl,
    "z-image": modeling_qwen3,
    "flux2": modeling_qwen3,
    "flux3": modeling_qwen3_vl,
}
CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "inverted": lambda mask: ~mask,
    "one late": lambda mask: mask.roll(1, -1),
    "one early": lambda mask: mask.roll(-1, -1),
    "left out": torch.ones_like,
    "of another row": lambda mask: mask.roll(1, 0),
}


def changed(mask: torch.Tensor, name: str) -> torch.Tensor:
    """Return a mask with a fault, in its type."""
    return CHANGES[name](mask.bool()).to(mask.dtype)


def hook_argument(module: Any, argument: str, name: str) -> RemovableHandle:
    """Let a network be given a wrong mask."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any]):
        return args, kwargs | {argument: changed(kwargs[argument], name)}

    return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)


def change_attention(patch: pytest.MonkeyPatch, family: str, name: str) -> None:
    """Let the transformer use another mask than it was given."""
    if family == "qwen-image-2.1":
        kind = transformer_qwenimage21.QwenImage21AttnProcessor
        own = kind.__call__

        def call(self, *args, key_valid=None, **kwargs):
            valid = None if key_valid is None else changed(key_valid, name)
            return own(self, *args, key_valid=valid, **kwargs)

        patch.setattr(kind, "__call__", call)
        return
    module = {"krea2": transformer_krea2, "z-image": transformer_z_image}[family]
    attend = module.dispatch_attention_fn

    def dispatch(*args, attn_mask=None, **kwargs):
        mask = None if attn_mask is None else changed(attn_mask, name)
        return attend(*args, attn_mask=mask, **kwargs)

    patch.setattr(module, "dispatch_attention_fn", dispatch)


def change_language_model(patch: pytest.MonkeyPatch, family: str, name: str) -> None:
    """Let the text encoder use another mask than it was given."""
    module = LANGUAGE_MODELS[family]
    make = module.create_causal_mask

    def causal_mask(*args: Any, attention_mask: Any = None, **kwargs: Any):
        return make(*args, attention_mask=changed(attention_mask, name), **kwargs)

    patch.setattr(module, "create_causal_mask", causal_mask)


PADDING = 0  # T5's token that pads
T5 = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}


def mask_t5(encoder: Any, name: str) -> RemovableHandle:
    """Let T5, which reads its padding, be given a mask of it: "right", or a change of that."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any]):
        mask = (args[0] != PADDING).long()
        mask = mask if name == "right" else changed(mask, name)
        return args, kwargs | {"attention_mask": mask}

    return encoder.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)


def exchange_argument(module: Any, *names: str) -> RemovableHandle:
    """Let a network be given the rows of an argument in another order."""

    def hook(module: Any, args: tuple, kwargs: dict[str, Any]):
        return args, kwargs | {name: kwargs[name].flip(0) for name in names}

    return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)


def exchange_ids(encoder: Any) -> RemovableHandle:
    """Let a text encoder read the prompts in another order."""

    def hook(module: Any, args: tuple):
        return args[0].flip(0), *args[1:]

    return encoder.register_forward_pre_hook(hook, prepend=True)


def pool_the_last(encoder: Any) -> RemovableHandle:
    """Let CLIP return the state of the last token, which is padding, instead of the end token."""

    def hook(module: Any, args: tuple, output: Any) -> Any:
        last = output.last_hidden_state[:, -1]
        if hasattr(module, "text_projection"):
            output.text_embeds = module.text_projection(last)
        else:
            output.pooler_output = last
        return output

    return encoder.register_forward_hook(hook)


PLACES = ("given", "encoder given", "transformer", "encoder")


@contextmanager
def made(pipe: Any, family: str, place: str, name: str) -> Iterator[None]:
    """Put a fault into a pipeline for a while: where it is, and which."""
    with pytest.MonkeyPatch.context() as patch:
        hook = None
        if place == "given":
            hook = hook_argument(pipe.transformer, TRANSFORMERS[family], name)
        elif place == "encoder given":
            hook = hook_argument(pipe.text_encoder, "attention_mask", name)
        elif place == "transformer":
            change_attention(patch, family, name)
        else:
            change_language_model(patch, family, name)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()


def in_format(pipe: Any, path: Any, dtype: torch.dtype) -> Any:
    """Return a pipeline read from its folder in another format, as users read it."""
    pipe.save_pretrained(str(path))
    for name, network in list(pipe.components.items()):
        if isinstance(network, torch.nn.Module):
            option = "dtype" if name.startswith("text_encoder") else "torch_dtype"
            kind: Any = type(network)
            read = kind.from_pretrained(path, subfolder=name, **{option: dtype})
            if isinstance(pipe, ModularPipeline):
                pipe.update_components(**{name: read.eval()})
            else:
                pipe.register_modules(**{name: read.eval()})
    return pipe


def record_batch(
    pipe: Any, family: str, path: Any, prompts: Any = None, seed: int = 5, **more: Any
) -> Any:
    """Record two steps of a pipeline."""
    options: dict[str, Any] = {"num_inference_steps": 2, "width": 24, "height": 16}
    if family == "qwen-image-2.1":
        options |= {"width": 96, "height": 64, "use_kv_cache": False}
    if family == "z-image":
        options |= {"max_sequence_length": 128, "guidance_scale": 0.0}
    if family == "krea2":
        options |= {"max_sequence_length": 64, "guidance_scale": 0.0}
    if family == "flux2":
        options |= {
            "max_sequence_length": 64,
            "guidance_scale": 1.0,
            "text_encoder_out_layers": (1, 2, 3),
        }
    if family.startswith("flux3"):  # whose pipeline takes one prompt
        options |= {"text_encoder_out_layers": (1, 2), "output": "images"}
        prompts = prompts or SHORT
        pipe.set_progress_bar_config(disable=True)
    if family in T5:
        options |= {"max_sequence_length": 64, "guidance_scale": 1.0}
    prompts = prompts or [*BATCHES.get(family, (SHORT, LONG))]  # pipelines change lists
    with ldmref.recording(pipe, path) as trace:
        pipe(prompt=prompts, generator=torch.Generator().manual_seed(seed), **options | more)
    return trace.trace
