"""The files of Flux.1: diffusers' folders, and the makers' single files.

Single files, such as flux1-dev.safetensors, hold the transformer alone: the autoencoder is a file
of its own, ae.safetensors, with CompVis' names. GGUF files have the same names. ComfyUI's
checkpoints also hold autoencoder and text encoders. Sources: black-forest-labs/flux,
src/flux/model.py, modules/layers.py; the names of the published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ldmref.families.combined_files import CLIP_L, T5, UNUSED, list_other_networks
from ldmref.families.flux.config import FluxConfig, transformer_of
from ldmref.families.flux.network import transformer_spec
from ldmref.families.flux.presets import (
    CONTROL_SCALE,
    CONTROL_STEPS,
    FILL_SCALE,
    FILL_STEPS,
    SCALES,
    STEPS,
    make_presets,
)
from ldmref.families.flux.text import T5_LENGTH
from ldmref.families.transformer_files import (
    MakersBlocks,
    MakersLayer,
    MakersNames,
    count_blocks,
    find_model,
    list_entries,
    list_files,
    reads_sizes,
    stack_layers,
)
from ldmref.io.diffusers.checks import read_json, require_class
from ldmref.io.diffusers.config import (
    T5_CLASS,
    convert_autoencoder_config,
    convert_t5_config,
    convert_text_config,
)
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.diffusers.folder import get_class
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.io.key_table import KeyEntry
from ldmref.math.tokens import PATCH
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.params import Shape, flatten

# -- diffusers' folders ----------------------------------------------------------------------------

FILL = "FluxFillPipeline"
CONTROL = ("FluxControlPipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline")
PIPELINES = (
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    FILL,
    *CONTROL,
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
)
PACKED = 4  # cells of a token, which diffusers counts as channels


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    transformer = convert_transformer_config(read_json(folder / "transformer" / "config.json"))
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    kinds = [get_class(index, name) for name in ("text_encoder", "text_encoder_2")]
    require_class(kinds[0], ["CLIPTextModel"], "the first text encoder is", "E-CONFIG")
    require_class(kinds[1], [T5_CLASS], "the second text encoder is", "E-CONFIG")
    clip = read_json(folder / "text_encoder" / "config.json")
    t5 = read_json(folder / "text_encoder_2" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = get_class(index, "scheduler")
    side = transformer.sample_size * vae.factor
    guided = transformer.guidance_embeds
    defaults = Defaults(STEPS[guided], SCALES[guided], width=side, height=side)
    fill = index["_class_name"] == FILL
    control = index["_class_name"] in CONTROL
    if fill:
        defaults = replace(defaults, steps=FILL_STEPS, cfg_scale=FILL_SCALE)
    elif control:
        defaults = with_control_defaults(defaults)
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        text_encoder=convert_text_config(clip, class_name=kinds[0]),
        text_encoder_2=convert_t5_config(t5, T5_LENGTH),
        scheduler=convert_scheduler_config(scheduler, kind, str(index["_class_name"])),
        concat="folded_mask" if fill else "control" if control else "",
        defaults=defaults,
    )


def with_control(config: ModelConfig) -> ModelConfig:
    """Return a model with the configuration of Flux.1 [Depth]: it also reads a control image."""
    latents = config.vae.latent_channels
    return replace(
        config,
        denoiser=replace(transformer_of(config), in_channels=2 * latents),
        concat="control",
        defaults=with_control_defaults(config.defaults),
    )


def with_control_defaults(defaults: Defaults) -> Defaults:
    """Return defaults with the steps and the guidance scale of Flux.1 [Depth]."""
    return replace(defaults, steps=CONTROL_STEPS, cfg_scale=CONTROL_SCALE)


def convert_transformer_config(data: Mapping[str, Any]) -> FluxConfig:
    """Convert the configuration of a `FluxTransformer2DModel`; see `read_denoiser`."""
    return read_denoiser(FluxConfig(), data, {"patch_size": (1,)}, PACKED)


# -- single files ----------------------------------------------------------------------------------

AUTOENCODER = "vae."
ENDS: MakersNames = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    # shift and scale there, in diffusers scale and shift
    "norm_out.linear": MakersLayer("final_layer.adaLN_modulation.1", form="swapped"),
    "proj_out": "final_layer.linear",
}
ATTENTION: dict[str, str | MakersLayer] = {  # of a block of two streams, also of FLUX.2
    **stack_layers("img_attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    **stack_layers("txt_attn.qkv", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
}
DOUBLE: MakersNames = ATTENTION | {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
SINGLE: MakersNames = {  # of a block of one stream
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
FIRST_LINEAR = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")  # stacked, d rows each but 4 d


def list_blocks(width: int) -> MakersBlocks:
    """Return the names of the blocks of a transformer of this width."""
    first = {
        layer: MakersLayer("linear1", rows=(number * width, 7 * width))
        for number, layer in enumerate(FIRST_LINEAR)
    }
    return {
        "transformer_blocks": ("double_blocks", DOUBLE),
        "single_transformer_blocks": ("single_blocks", {**SINGLE, **first}),
    }


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer."""
    transformer = transformer_of(config)
    return list_entries(transformer_spec(transformer), ENDS, list_blocks(transformer.width), prefix)


XLABS = {  # layers of a block in XLabs' files of LoRAs, which stack queries, keys and values alone
    "attn.to_{}": ("transformer_blocks", "double_blocks.{}.processor.qkv_lora1"),
    "attn.add_{}_proj": ("transformer_blocks", "double_blocks.{}.processor.qkv_lora2"),
    "attn.to_out.0": ("transformer_blocks", "double_blocks.{}.processor.proj_lora1"),
    "attn.to_add_out": ("transformer_blocks", "double_blocks.{}.processor.proj_lora2"),
    "single.attn.to_{}": ("single_transformer_blocks", "single_blocks.{}.processor.qkv_lora"),
    "single.proj_out": ("single_transformer_blocks", "single_blocks.{}.processor.proj_lora"),
}


def xlabs_layers(config: ModelConfig) -> dict[str, KeyEntry]:
    """Return the layer of XLabs' LoRA files for each matrix that they may change.

    Source: XLabs-AI/x-flux, src/flux/modules/layers.py, DoubleStreamBlockLoraProcessor and
    SingleStreamBlockLoraProcessor.
    """
    shapes = flatten(transformer_spec(transformer_of(config)))
    table = {}
    for pattern, (blocks, stored) in XLABS.items():
        for third, letter in enumerate("qkv"):
            layer = pattern.removeprefix("single.").format(letter)
            for name, shape in shapes.items():
                block, _, rest = name.partition(".")
                number, _, path = rest.partition(".")
                if block == blocks and path == f"{layer}.weight":
                    stack = third if "{}" in pattern else None
                    table[name] = KeyEntry(f"{stored.format(number)}.weight", shape, stack)
    return table


@reads_sizes
def recognise(own: Mapping[str, Shape]) -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file."""
    d, patch = own["img_in.weight"]
    (head,) = own["double_blocks.0.img_attn.norm.query_norm.scale"]
    network = FluxConfig(
        in_channels=patch // PATCH**2,
        out_channels=own["final_layer.linear.weight"][0] // PATCH**2,
        num_layers=count_blocks(own, "double_blocks"),
        num_single_layers=count_blocks(own, "single_blocks"),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=own["txt_in.weight"][1],
        pooled_projection_dim=own["vector_in.in_layer.weight"][1],
        guidance_embeds="guidance_in.in_layer.weight" in own,
    )
    presets = make_presets()
    names = (
        ("flux-dev", "flux-fill-dev", "flux-control-dev")
        if network.guidance_embeds
        else ("flux-schnell",)
    )
    extra = network.in_channels - network.out_channels
    alike = (
        model for name, model in presets.items() if name in names and model.image_channels == extra
    )
    nearest = next(alike, None)
    return find_model(presets, network, head, nearest and replace(nearest, name="flux"))


ORIGINALS = list_files(
    "the transformer of Flux.1",
    recognise,
    original_table,
    UNUSED,
    others=partial(list_other_networks, texts=(CLIP_L, T5), autoencoder=AUTOENCODER),
)
"""The files of Flux.1."""
