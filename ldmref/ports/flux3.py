"""diffusers' modular pipelines of FLUX.3: how they are made, and how they call the networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ldmref.families.flux3.config import transformer_of
from ldmref.families.flux3.files import PIPELINES
from ldmref.families.flux3.positions import ROW_SCALE
from ldmref.families.flux3.text import LAYERS
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.models.config import ModelConfig
from ldmref.models.transformer_layers import join_cells
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.qwen3 import TextProcessor, describe_qwen3_vl, read_layers

STEPS = 1000.0  # training timesteps, over diffusers' time
TIMES = ("timestep", "target_timestep")
PLACES = "image_cond_ids"
POSITIONS = ("img_ids", "txt_ids")
SAME_ROWS = 1e-6  # relative difference of rows of the same numbers
SHARED = re.compile(  # layers that read or return a row for every token
    r"silu.*|\w+_stream_modulations\..*|norm_out.*|(mode_blocks\.\w+|\w+_blocks)\.\d+"
)
MODULAR = tuple(zip(PIPELINES, ("Flux3AutoBlocks", "Flux3DistilledAutoBlocks"), strict=True))
GUIDER = "diffusers.guiders:ClassifierFreeGuidance"
PROCESSOR = "diffusers.modular_pipelines.flux3.image_processor:Flux3ImageProcessor"
OWN = ("out_channels", "sample_size")  # fields that diffusers' class does not have
UPSAMPLER = "prompt_upsampler"  # a language model of 9 billion parameters, which writes prompts


def join_parts(flow_map: bool, **parts: object) -> Any:
    """Return the modular pipeline of diffusers that has some parts.

    Args:
        flow_map: Whether it is that of the distilled model.
        **parts: The networks and what else it reads, by name.
    """
    import diffusers

    blocks = getattr(diffusers, MODULAR[flow_map][1])()
    blocks.sub_blocks.pop(UPSAMPLER)
    pipe = blocks.init_pipeline()
    pipe.update_components(**parts)
    return pipe


def describe_pipeline(config: ModelConfig) -> LibraryObject:
    """Return diffusers' pipeline of a configuration, without the model that rewrites prompts."""
    return LibraryObject(f"{__name__}:join_parts", {"flow_map": config.denoiser.is_flow_map})


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration."""
    network = transformer_of(config)
    channels = {"cond_in_channels": network.in_channels}  # of references, which are latents too
    return LibraryObject("diffusers:Flux3Transformer2DModel", channels, network, OWN)


def describe_more(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, LibraryObject]:
    """Return what reads images and, of a model that is not distilled, the guidance."""
    found = {"image_processor": LibraryObject(PROCESSOR)}
    if not config.denoiser.is_flow_map:
        found["guider"] = LibraryObject(GUIDER, {"guidance_scale": asked["cfg_scale"]})
    return found


def make_request(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call: the layers of the text encoder; guidance is a part."""
    text = config.text_encoder
    assert isinstance(text, Qwen3Config)
    return {"text_encoder_out_layers": text.hidden_layers, "guidance_scale": None}


PARTS = PipelineParts(
    describe_pipeline,
    describe_denoiser,
    text_encoder=partial(describe_qwen3_vl, kind="Qwen3VLForConditionalGeneration"),
    request=make_request,
    tokenizers=lambda tokenizers: {"tokenizer": TextProcessor(tokenizers["tokenizer"])},
    more=describe_more,
    alone=True,  # a call takes one prompt
    modular=lambda config: MODULAR[config.denoiser.is_flow_map],
)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    Times are multiplied in the format of the tokens, as the transformer does.
    """
    found = dict(arguments)
    tokens, positions = found.get("hidden_states"), found.get("img_ids")
    if tokens is not None and positions is not None:
        rows, columns = (len(positions[:, axis].unique()) for axis in (1, 2))
        found["hidden_states"] = join_cells(tokens, rows, columns)
    for name in POSITIONS:  # ours follow from the arrays; others show in the first attention
        found.pop(name, None)
    for name in TIMES:
        if found.get(name) is not None:
            time = found[name] if tokens is None else found[name].to(tokens.dtype)
            found[name] = STEPS * time
    if found.get(PLACES) is not None:
        found[PLACES] = place_as_ours(found[PLACES])
    return found


def place_as_ours(ids: Any) -> Any:
    """Return the positions of references, (1, k, 4), of those of a call, (k, 4).

    Rows and columns of each reference begin at 0. Their scale and the number are ours: others
    show in the first attention.
    """
    import torch

    starts = (ids[:, 1] == 0) & (ids[:, 2] == 0)
    number = torch.cumsum(starts, dim=0)
    found = torch.zeros_like(ids)
    found[:, 3] = -number.to(ids.dtype)
    for k in number.unique():
        for axis in (1, 2):
            counted = ids[number == k, axis].unique(return_inverse=True)[1]
            found[number == k, axis] = ROW_SCALE * counted.to(ids.dtype)
    return found[None]


def read_layer(inputs: Mapping[str, Any], layer: str, array: Any) -> Any:
    """Return an array of a layer as our layer of that name has it.

    Modulations are the same for all tokens of a mode, and diffusers has a row for each. Products of
    several rows may round each of them differently.
    """
    if array.ndim != 3 or not SHARED.fullmatch(layer):
        return array
    first = array[:, :1]
    apart = (array - first).abs().amax()
    return first if apart <= SAME_ROWS * first.abs().amax() else array


def read_states(output: Any, skip: int, pipe: object) -> Any:
    """Return the hidden states that the transformer reads, side by side."""
    return read_layers(output, LAYERS, skip, pipe)


PORT = FamilyPort(
    "flux3",
    ("Flux3Transformer2DModel",),
    halves=("cond", "uncond"),
    unpack=join_cells,
    inputs=read_inputs,
    states=read_states,
    layer=read_layer,
    arguments={"x": ("hidden_states",), "t_next": ("t_ref",)},
    first_layers={"context": (("context_embedder", "input"),)},
    parts=PARTS,
)
