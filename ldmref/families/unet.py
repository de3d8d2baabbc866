"""The U-Net and its ControlNets, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.diffusers.config import convert_controlnet_config
from ldmref.io.diffusers.folder import diffusers_table
from ldmref.io.key_table import KeyTable
from ldmref.models.config import ModelConfig
from ldmref.models.controlnet import (
    HINT,
    ControlNetConfig,
    controlnet,
    controlnet_spec,
    encode_hint,
)
from ldmref.models.declared import (
    BATCH,
    HEIGHT,
    WIDTH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
    NetworkOutput,
    TextAttention,
)
from ldmref.models.declared_control import DeclaredControl, Difference
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.params import Shape
from ldmref.models.steering import AttentionGuidance, Steerable
from ldmref.models.unet import Residuals, unet, unet_spec

PRESET_UNETS = ("sd15", "sd2-base", "sdxl")
TOKENS = CallSize("tokens", label="sequence_length")
END = NetworkInput("t_next", "target_timestep", (CallSize("timesteps"),), "ends")
COPIED = (  # fields of a ControlNet's U-Net that are those of the model's
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "class_embed_type",
    "addition_embed_type",
)


PARTS = {"down": "down_blocks.", "mid": "mid_block.", "up": "up_blocks."}
GUIDED = AttentionGuidance(
    ("attn2",),
    blend=0.5,
    # time and text are embedded for the prompts alone
    prompts={"": ("context", "pooled", "sizes")},
    texts={"spatial_transformer": ("context",)},
)


def describe_unet(config: UNetConfig) -> DeclaredNetwork:
    """Return a U-Net."""
    return DeclaredNetwork(
        "unet",
        "unet",
        "U-Net",
        unet,
        partial(unet_spec, config),
        unet_settings(config, config),
        (*unet_inputs(config), *((END,) if config.flow_map else ())),
        (NetworkOutput("", "out_sample"),),
        "unet",
        numbered=True,
        text_attention=TextAttention((".attn2",)) if config.attends_to_text else None,
        steerable=Steerable(parts=PARTS, attention=GUIDED if config.attends_to_text else None),
    )


def unet_settings(config: object, of_unet: UNetConfig) -> dict[str, Any]:
    """Return the arguments that are not arrays: the configuration, and no context without text."""
    return {"config": config} | ({} if of_unet.cross_attention_dim else {"context": None})


def unet_inputs(config: UNetConfig) -> list[NetworkInput]:
    """Return the inputs that a U-Net and a ControlNet share."""
    sample = (BATCH, config.in_channels, HEIGHT, WIDTH)
    inputs = [
        NetworkInput("x", "sample", sample),
        NetworkInput(
            "t",
            "timestep",
            (CallSize("timesteps"),),
            "timesteps",
        ),
    ]
    if config.cross_attention_dim:
        inputs.append(
            NetworkInput(
                "context",
                "encoder_hidden_states",
                (BATCH, TOKENS, config.cross_attention_dim),
            )
        )
    if config.addition_embed_type:
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs += [
            NetworkInput("pooled", "text_embeds", (BATCH, width)),
            NetworkInput("sizes", "time_ids", (BATCH, 6), "sizes"),
        ]
    return inputs


def describe_controlnet(net: ControlNetConfig) -> DeclaredNetwork:
    """Return a ControlNet, whose image was encoded before."""
    inputs = unet_inputs(net.unet)
    hint = NetworkInput(
        "hint",
        "hint",
        (BATCH, net.unet.block_out_channels[0], HEIGHT, WIDTH),
    )
    before = [x.argument for x in inputs].index("t") + 1
    before += any(x.argument == "context" for x in inputs)
    inputs.insert(before, hint)
    down = [
        NetworkOutput(f"down.{i}", f"down_block_res_samples.{i}")
        for i in range(len(unet_residuals(net.unet).down))
    ]
    return DeclaredNetwork(
        "controlnet",
        "controlnet",
        "ControlNet",
        controlnet,
        partial(controlnet_spec, net),
        unet_settings(net, net.unet),
        tuple(inputs),
        (*down, NetworkOutput("mid", "mid_block_res_sample")),
        "controlnet",
        numbered=True,
    )


def describe_hint(net: ControlNetConfig) -> DeclaredNetwork:
    """Return the encoder of a ControlNet's image."""
    sides = (CallSize("height", net.factor), CallSize("width", net.factor))
    hint = NetworkInput(
        "hint",
        "hint",
        (BATCH, net.conditioning_channels, *sides),
        "hint",
    )
    return DeclaredNetwork(
        "controlnet.hint",
        "controlnet",
        "encoder of a ControlNet's image",
        encode_hint,
        partial(controlnet_spec, net),
        {},
        (hint,),
        (NetworkOutput("", "features"),),
    )


def unet_residuals(config: UNetConfig) -> Residuals:
    """Return the inputs for what ControlNets add to a U-Net.

    One array for each skip connection, and one for the middle.

    >>> from ldmref.models import preset
    >>> residuals = unet_residuals(preset("sd15").unet)
    >>> residuals.down[-1].role, residuals.mid.role
    ('control.down.11', 'control.mid')
    """
    last = len(config.block_out_channels) - 1
    skips = [(config.block_out_channels[0], 0)]
    for level, channels in enumerate(config.block_out_channels):
        skips += [(channels, level)] * config.layers_per_block
        skips += [(channels, level + 1)] * (level < last)

    def describe(name: str, exported: str, channels: int, level: int) -> NetworkInput:
        suffix = f"_{2**level}" if level else ""
        height = CallSize("height", over=2**level, label=f"height{suffix}")
        width = CallSize("width", over=2**level, label=f"width{suffix}")
        shape = (BATCH, channels, height, width)
        return NetworkInput("control", name, shape, exported=exported)

    down = "down_block_additional_residuals"
    inputs = (describe(f"control.down.{i}", f"{down}.{i}", *skip) for i, skip in enumerate(skips))
    mid = "mid_block_additional_residual"
    middle = describe("control.mid", mid, config.block_out_channels[last], last)
    return Residuals(tuple(inputs), middle)


def list_differences(config: ModelConfig, net: ControlNetConfig) -> Iterator[Difference]:
    """Yield in what a ControlNet differs from those that fit a model."""
    ours = config.unet
    theirs = net.unet
    compared = [(name, getattr(theirs, name), getattr(ours, name)) for name in COPIED]
    compared += [
        ("in_channels", theirs.in_channels, config.vae.latent_channels),
        ("conditioning_channels", net.conditioning_channels, 3),
        ("pixels of the hint per latent cell", net.factor, config.vae.factor),
    ]
    yield from ((what, have, want) for what, have, want in compared if have != want)


def list_candidates(
    shapes: Mapping[str, Shape], denoiser: object
) -> Iterator[tuple[ControlNetConfig, KeyTable]]:
    """Yield the configurations that a single file may have, with CompVis' or diffusers' names.

    A file does not say for which U-Net it was made: it is that of the model or, for another family
    or without one, one of Stable Diffusion's.
    """
    from ldmref.models.presets import PRESETS  # which list the families

    unets = [PRESETS[name].unet for name in PRESET_UNETS]
    if isinstance(denoiser, UNetConfig):
        unets = [denoiser]
    for unet_config in unets:
        net = ControlNetConfig(replace(unet_config, in_channels=unet_config.out_channels))
        if f"{HINT}.conv_in.weight" in shapes:
            yield net, diffusers_table(controlnet_spec(net))
        else:
            yield net, controlnet_table(net)


UNET_CONTROL = DeclaredControl(
    {"ControlNetModel": convert_controlnet_config},
    lambda config: ControlNetConfig(unet=config.unet),
    lambda net: [describe_hint(net), describe_controlnet(net)],
    list_differences,
    Residuals,
    {
        "down_block_additional_residuals": "down",
        "mid_block_additional_residual": "mid",
    },
    lambda config: unet_residuals(config.unet),
    hole=lambda net: -1.0,  # of any, since no configuration says what it was trained on
    candidates=list_candidates,
)
