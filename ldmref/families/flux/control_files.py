"""Single files of ControlNets of Flux.1, which have no configuration beside them.

Two layouts are in use: the names of diffusers (InstantX, Shakker Labs), and those of XLabs, whose
nets copy the names of the original transformer. Sources: the names of the published files;
XLabs-AI/x-flux, src/flux/controlnet.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.controlnet import HINT_WIDTHS, FluxControlConfig, controlnet_spec
from ldmref.families.flux.files import ENDS, list_blocks
from ldmref.families.transformer_files import count_blocks, find_entry
from ldmref.io.key_table import KeyEntry, KeyTable, key_table
from ldmref.math.tokens import PATCH
from ldmref.models.params import Shape, flatten

ORIGINAL = {  # the layers that the transformer does not have
    "controlnet_x_embedder": "pos_embed_input",
    "input_hint_block.conv_in": "input_hint_block.0",
    "input_hint_block.conv_out": f"input_hint_block.{4 * len(HINT_WIDTHS) - 2}",
} | {
    f"input_hint_block.blocks.{i}": f"input_hint_block.{2 * i + 2}"
    for i in range(2 * len(HINT_WIDTHS) - 2)
}
HINT_OUT = ("input_hint_block.conv_out.weight", f"{ORIGINAL['input_hint_block.conv_out']}.weight")


def list_candidates(
    shapes: Mapping[str, Shape], denoiser: object
) -> Iterator[tuple[FluxControlConfig, KeyTable]]:
    """Yield the configuration of a file of these names and shapes, with its key table.

    Args:
        shapes: Names and shapes of the tensors.
        denoiser: The configuration of the model's denoiser, for the rotated parts of a head, which
            no tensor has; or of another family's, for those of Flux.1.
    """
    is_original = "pos_embed_input.weight" in shapes
    names = {
        ours: theirs if is_original else ours
        for ours, theirs in {**ENDS, "controlnet_x_embedder": "pos_embed_input"}.items()
    }
    first = (
        "double_blocks.0.img_attn.norm.query_norm.scale"
        if is_original
        else "transformer_blocks.0.attn.norm_q.weight"
    )
    single = "single_transformer_blocks.0.attn.norm_q.weight"
    guided = f"{names['time_text_embed.guidance_embedder.linear_1']}.weight"
    try:
        d, packed = shapes[f"{names['controlnet_x_embedder']}.weight"]
        joint = shapes[f"{names['context_embedder']}.weight"][1]
        pooled = shapes[f"{names['time_text_embed.text_embedder.linear_1']}.weight"][1]
        (head,) = shapes[first] if first in shapes else shapes[single]
        kinds = shapes.get("controlnet_mode_embedder.weight", (0, d))[0]
        features = next((shapes[name][0] for name in HINT_OUT if name in shapes), 0)
    except (KeyError, ValueError, IndexError):
        return
    known = denoiser if isinstance(denoiser, FluxConfig) else FluxConfig()
    axes = known.axes_dims_rope
    if sum(axes) != head:
        return
    blocks = ("double_blocks", "single_blocks")
    if not is_original:
        blocks = ("transformer_blocks", "single_transformer_blocks")
    double, one = (count_blocks(shapes, kind) for kind in blocks)
    config = FluxControlConfig(
        in_channels=packed // PATCH**2,
        out_channels=packed // PATCH**2,
        num_layers=double,
        num_single_layers=one,
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=joint,
        pooled_projection_dim=pooled,
        guidance_embeds=guided in shapes,
        axes_dims_rope=axes,
        num_mode=kinds,
        conditioning_embedding_channels=features,
    )
    yield config, make_table(config, is_original)


def make_table(config: FluxControlConfig, is_original: bool) -> KeyTable:
    """Return the tensor of a file for each parameter, with the names of diffusers or of XLabs."""
    table = key_table(flatten(controlnet_spec(config)), {"": ""})
    if not is_original:
        return table
    return {name: _entry(name, entry, config.width) for name, entry in table.items()}


def _entry(name: str, entry: KeyEntry, width: int) -> KeyEntry:
    layer, _, leaf = name.rpartition(".")
    if layer in ORIGINAL:
        return replace(entry, name=f"{ORIGINAL[layer]}.{leaf}")
    if layer.startswith("controlnet_"):
        return entry
    return find_entry(name, entry.shape, ENDS, list_blocks(width))
