"""The files of Stable Diffusion 3: diffusers' folders, and the makers' single files.

Single files, such as sd3_medium.safetensors, also hold the autoencoder (`first_stage_model`), and
some of them text encoders; T5 may be missing. Sources: Stability-AI/sd3.5, mmditx.py; the names of
the published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ldmref.errors import short_repr
from ldmref.families.combined_files import (
    CLIP_G,
    CLIP_L,
    T5,
    UNUSED,
    lacks_t5,
    list_other_networks,
)
from ldmref.families.sd3.config import MMDiTConfig, transformer_of
from ldmref.families.sd3.network import transformer_spec
from ldmref.families.sd3.presets import MEDIUM, make_presets
from ldmref.families.sd3.text import T5_TOKENS
from ldmref.families.transformer_files import PREFIX, remove_prefix
from ldmref.io.diffusers.checks import COMPLETE, config_error, read_json
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
from ldmref.models.config import TEXT_ENCODERS, Defaults, ModelConfig, TextConfig
from ldmref.models.family import SingleFile
from ldmref.models.params import Shape, flatten

# -- diffusers' folders ----------------------------------------------------------------------------

PIPELINES = (
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
    "StableDiffusion3ControlNetPipeline",
)
OMITTED: dict[str, Any] = {  # of diffusers' class, where it has other values than the published
    "num_layers": 18,
    "num_attention_heads": 18,
    "pos_embed_max_size": 96,
}
Transformer = TypeVar("Transformer", bound=MMDiTConfig)
WITHOUT_T5 = (
    f'{COMPLETE}; or, for a model without T5, write [null, null] for "text_encoder_3" and '
    '"tokenizer_3" in model_index.json'
)
HINTS = {name: WITHOUT_T5 if name == TEXT_ENCODERS[2] else COMPLETE for name in TEXT_ENCODERS}


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
    texts: dict[str, Any] = {
        name: convert_encoder_config(read_json(folder / name / "config.json", HINTS[name]), kind)
        for name in TEXT_ENCODERS
        if (kind := get_class(index, name))  # T5 may be missing
    }
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = get_class(index, "scheduler")
    side = transformer.sample_size * vae.factor
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        scheduler=convert_scheduler_config(scheduler, kind, str(index["_class_name"])),
        defaults=Defaults(28, 7.0, width=side, height=side),
        **texts,
    )


def convert_encoder_config(data: Mapping[str, Any], kind: str) -> TextConfig:
    """Convert the configuration of a text encoder of this class.

    Raises:
        CorruptModelError: It is another kind of T5.
    """
    if kind == T5_CLASS:
        return convert_t5_config(data, T5_TOKENS)
    return convert_text_config(data, xl=True, class_name=kind)


def convert_transformer_config(data: Mapping[str, Any]) -> MMDiTConfig:
    """Convert the configuration of an `SD3Transformer2DModel`; see `read_transformer`."""
    return read_transformer(MMDiTConfig(**OMITTED), data)


def read_transformer(
    omitted: Transformer, data: Mapping[str, Any], text: bool = True
) -> Transformer:
    """Return the configuration of a transformer, or of its ControlNet.

    Args:
        omitted: The values of the fields that the file omits.
        data: The contents of the file.
        text: Whether the blocks have a stream for the text.

    Raises:
        CorruptModelError: The width of the projected text is not that of the image; or as
            `read_denoiser`.
    """
    fields = {
        "qk_norm": data.get("qk_norm") or "",
        "joint_attention_dim": data.get("joint_attention_dim", omitted.joint_attention_dim) or 0,
    }
    found = read_denoiser(omitted, {**data, **fields})
    text_width = data.get("caption_projection_dim", 1152)
    if text and text_width != found.width:
        raise config_error(
            f"the transformer has caption_projection_dim = {short_repr(text_width)}, its image "
            f"tokens {found.width}: both streams must be as wide"
        )
    return found


# -- single files ----------------------------------------------------------------------------------

AUTOENCODER = "first_stage_model."
ENDS = {
    "pos_embed": "",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
OF_BLOCK = re.compile(r"joint_blocks\.(?P<number>[0-9]{1,6})(?P<layer>\..+)")
IMAGE, TEXT = "x_block", "context_block"
BLOCK = {  # the layer of a block -> its stream and its layer there
    "norm1.linear": (IMAGE, "adaLN_modulation.1"),
    "norm1_context.linear": (TEXT, "adaLN_modulation.1"),
    "attn.to_out.0": (IMAGE, "attn.proj"),
    "attn.to_add_out": (TEXT, "attn.proj"),
    "attn.norm_q": (IMAGE, "attn.ln_q"),
    "attn.norm_k": (IMAGE, "attn.ln_k"),
    "attn.norm_added_q": (TEXT, "attn.ln_q"),
    "attn.norm_added_k": (TEXT, "attn.ln_k"),
    "attn2.to_out.0": (IMAGE, "attn2.proj"),
    "attn2.norm_q": (IMAGE, "attn2.ln_q"),
    "attn2.norm_k": (IMAGE, "attn2.ln_k"),
    "ff.net.0.proj": (IMAGE, "mlp.fc1"),
    "ff.net.2": (IMAGE, "mlp.fc2"),
    "ff_context.net.0.proj": (TEXT, "mlp.fc1"),
    "ff_context.net.2": (TEXT, "mlp.fc2"),
}
THIRDS = {  # of the stacked queries, keys and values
    f"{attention}.{ours}": (stream, f"{attention}.qkv", third)
    for attention, stream, pattern in (
        ("attn", IMAGE, "to_{}"),
        ("attn", TEXT, "add_{}_proj"),
        ("attn2", IMAGE, "to_{}"),
    )
    for third, ours in enumerate(pattern.format(letter) for letter in "qkv")
}


def original_table(config: ModelConfig, prefix: str = PREFIX) -> dict[str, KeyEntry]:
    """Return the tensor of the original for each parameter of the transformer.

    The last layers of both streams compute shift and scale there, in diffusers scale and shift.
    """
    transformer = transformer_of(config)
    last = f"transformer_blocks.{transformer.num_layers - 1}.norm1_context.linear"
    table = {}
    for name, shape in flatten(transformer_spec(transformer)).items():
        layer, _, leaf = name.rpartition(".")
        form = "swapped" if layer in (last, "norm_out.linear") else ""
        if layer in ENDS:
            path, third = (ENDS[layer],), None
        else:
            _, number, layer = layer.split(".", 2)
            *path, third = THIRDS[layer] if layer in THIRDS else (*BLOCK[layer], None)
            path = "joint_blocks", number, *path
        stored = prefix + ".".join(filter(None, (*path, leaf)))
        table[name] = KeyEntry(stored, shape, third, form)
    return table


def recognise(shapes: Mapping[str, Shape], prefix: str = PREFIX) -> ModelConfig | None:
    """Return the configuration of a file of the original; None if it is another file.

    A file with text encoders, but not T5, is that of a model without it.
    """
    own = remove_prefix(shapes, prefix)
    try:
        d, z, patch, _ = own["x_embedder.proj.weight"]
        side = round(own["pos_embed"][-2] ** 0.5)
        joint = own["context_embedder.weight"][1]
        pooled = own["y_embedder.mlp.0.weight"][1]
        outputs = own["final_layer.linear.weight"][0]
        (head,) = own.get("joint_blocks.0.x_block.attn.ln_q.weight", (64,))
    except (KeyError, ValueError, IndexError):
        return None
    blocks = [found for found in map(OF_BLOCK.match, own) if found]
    if min(d, z, patch, joint, pooled, head) < 1 or not blocks:
        return None
    network = MMDiTConfig(
        in_channels=z,
        out_channels=outputs // patch**2,
        sample_size=min(128, side * patch),
        patch_size=patch,
        num_layers=len({found["number"] for found in blocks}),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=joint,
        pooled_projection_dim=pooled,
        pos_embed_max_size=side,
        dual_attention_layers=tuple(
            sorted({int(found["number"]) for found in blocks if ".attn2." in found["layer"]})
        ),
        qk_norm="rms_norm" if any(".ln_q." in found["layer"] for found in blocks) else "",
    )
    known = (
        config
        for config in make_presets().values()  # which also say what no tensor does
        if config.denoiser == replace(network, sample_size=config.denoiser.sample_size)
    )
    other = replace(MEDIUM, name="sd3", denoiser=network, defaults=Defaults(28, 7.0))
    found = next(known, other)
    return replace(found, text_encoder_3=None) if lacks_t5(shapes) else found


ORIGINALS = tuple(
    SingleFile(
        "the transformer of Stable Diffusion 3",
        partial(recognise, prefix=prefix),
        partial(original_table, prefix=prefix),
        UNUSED,
        others=partial(list_other_networks, texts=(CLIP_L, CLIP_G, T5), autoencoder=AUTOENCODER),
    )
    for prefix in (PREFIX, "")
)
"""With and without the prefix of files that hold other networks."""
