"""diffusers' pipeline of Qwen-Image 2.1: how it is made, and how it calls the networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ldmref.families.qwen_image_21.config import transformer_of
from ldmref.families.qwen_image_21.text import CHAT, IMAGE_START
from ldmref.models.config import ModelConfig
from ldmref.models.transformer_layers import join_cells
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.qwen3 import TextProcessor, describe_qwen3_vl
from ldmref.samplers.config import listed_levels

OWN = ("sample_size",)  # a field that diffusers' class does not have
PROCESSOR = "processor"  # the part of the pipeline that holds the tokenizer
STEPS = 1000.0  # training timesteps of the time of the transformer
TIMES = ("time_text_embed", "time_text_embed.time_proj")  # the layers that get the time


class SystemProcessor(TextProcessor):
    """The processor of a pipeline that asks for the tokens of its system message."""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], **options: object
    ) -> list[list[int]]:
        """Return the ids of a system message, of which the pipeline drops as many; see `adapt`."""
        text = f"<|im_start|>system\n{messages[0]['content'][0]['text']}<|im_end|>\n"
        return [self.tokenizer(text).input_ids]


def describe_pipeline(config: ModelConfig) -> LibraryObject:
    """Return diffusers' pipeline of a configuration; Turbo has its own flow times."""
    times = config.scheduler.flow_times
    return LibraryObject(
        "diffusers:QwenImage21Pipeline", {"sample_sigmas": list(times)} if times else {}
    )


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration."""
    network = transformer_of(config)
    return LibraryObject("diffusers:QwenImage21Transformer2DModel", {}, network, OWN)


def make_request(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call: the scale, and the levels of Turbo for a number of steps.

    A call has no argument for the length of texts, and does not read the number of steps if the
    pipeline has its own levels.
    """
    times = config.scheduler.flow_times
    levels = listed_levels(times, asked["steps"])[:-1].tolist() if times else None
    return {
        "true_cfg_scale": asked["cfg_scale"],
        "sigmas": levels,
        "guidance_scale": None,
        "max_sequence_length": None,
    }


def adapt(pipe: Any) -> None:
    """Let a pipeline read what the published model has fixed, and keep exact frequencies.

    That is the number of pixels per cell, and that of the tokens of the system message. The
    frequencies of the times are float32 in a model that diffusers reads in bfloat16, but
    `pipe.to(dtype)` rounds buffers, which changes the embeddings of times by more than their size.
    """
    pipe.vae_scale_factor = 2 ** (len(pipe.vae.config.dim_mult) - 1)
    pipe._drop_idx = CHAT.dropped  # of a small vocabulary the system message has more
    times = pipe.transformer.time_text_embed.time_proj
    frequencies = times.freqs
    del times.freqs
    times.freqs = frequencies  # an attribute, and no buffer


PARTS = PipelineParts(
    describe_pipeline,
    describe_denoiser,
    text_encoder=partial(describe_qwen3_vl, kind="Qwen3VLForConditionalGeneration"),
    request=make_request,
    takes_tokens=True,
    adapt=adapt,
    tokenizer_folders={"tokenizer": PROCESSOR},
    tokenizers=lambda tokenizers: {PROCESSOR: SystemProcessor(tokenizers["tokenizer"])},
    alone=True,  # an image begins behind the longest text of a batch
)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    Without padding the pipeline passes no mask; with it, images begin behind the padding. Times are
    multiplied in float32, as the transformer does.
    """
    import torch

    states = arguments["encoder_hidden_states"]
    mask = arguments.get("encoder_hidden_states_mask")
    start = {} if mask is None else {IMAGE_START: torch.full(states.shape[:1], states.shape[1])}
    if mask is None:
        mask = torch.ones(states.shape[:2])
    return start | {
        "sample": arguments["hidden_states"],
        "timestep": STEPS * arguments["timestep"].float(),
        "encoder_hidden_states": states,
        "encoder_attention_mask": mask.long(),
    }


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any | None:
    """Return an array of a layer as ours: times as timesteps, of the last layers the image alone.

    Steps after the first compute the image alone in the blocks, as no layer of ours does; their
    arrays are left out.
    """
    sample = inputs["sample"]  # latents, or tokens
    cells = sample.shape[1] if sample.ndim == 3 else sample.shape[-2] * sample.shape[-1]
    if layer.startswith(("norm_out", "proj_out")) or not layer:
        return array[:, -cells:] if array.ndim == 3 else array
    if layer in TIMES and array.ndim != 2:  # its second argument only says a data type
        return STEPS * array.float() if array.ndim == 1 else None
    if not layer.startswith("transformer_blocks") or array.ndim < 3:
        return array
    text = inputs["encoder_hidden_states"].shape[1]
    attends = layer.rpartition(".")[2]
    if attends == "attention":  # of the text; that of the image follows in the first step
        return array if array.shape[2] == text else None
    return None if attends != "attention~1" and array.shape[1] == cells else array


def read_states(output: Any, skip: int, pipeline: object) -> Any:
    """Return the last hidden states, of which the pipeline has taken off the norm."""
    return output.hidden_states[-1 - skip]


PORT = FamilyPort(
    "qwen-image-2.1",
    ("QwenImage21Transformer2DModel",),
    unpack=join_cells,
    inputs=read_inputs,
    states=read_states,
    layer=read_layer,
    arguments={"x": ("hidden_states",)},
    parts=PARTS,
)
