"""The makers' single files: the names of the transformer.

They hold nothing else. GGUF files have the same names, and so have ComfyUI's, behind a prefix.
Source: github.com/krea-ai/krea-2, mmdit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ldmref.families.flux.network import PATCH
from ldmref.families.krea2.config import Krea2Config, transformer_of
from ldmref.families.krea2.network import transformer_spec
from ldmref.families.krea2.presets import make_presets
from ldmref.families.transformer_files import (
    count_blocks,
    find_known,
    list_files,
    remove_prefix,
)
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape, flatten

NAMES = {  # of a layer or tensor, outside of the blocks
    "img_in": "first",
    "time_embed.linear_1": "tmlp.0",
    "time_embed.linear_2": "tmlp.2",
    "time_mod_proj": "tproj.1",
    "text_fusion.projector": "txtfusion.projector",
    "txt_in.norm.weight": "txtmlp.0.scale",
    "txt_in.linear_1": "txtmlp.1",
    "txt_in.linear_2": "txtmlp.3",
    "final_layer.scale_shift_table": "last.modulation.lin",
    "final_layer.norm.weight": "last.norm.scale",
    "final_layer.linear": "last.linear",
}
BLOCKS = {"transformer_blocks.": "blocks.", "text_fusion.": "txtfusion."}
IN_BLOCKS = {
    "scale_shift_table": "mod.lin",
    "norm1.weight": "prenorm.scale",
    "norm2.weight": "postnorm.scale",
    "attn.to_q": "attn.wq",
    "attn.to_k": "attn.wk",
    "attn.to_v": "attn.wv",
    "attn.to_gate": "attn.gate",
    "attn.norm_q.weight": "attn.qknorm.qnorm.scale",
    "attn.norm_k.weight": "attn.qknorm.knorm.scale",
    "attn.to_out.0": "attn.wo",
    "ff.gate": "mlp.gate",
    "ff.up": "mlp.up",
    "ff.down": "mlp.down",
}


def original_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor of the makers for each parameter of the transformer.

    The table of a block is one row there.
    """
    found = {}
    for name, shape in flatten(transformer_spec(transformer_of(config))).items():
        stored = find_name(name)
        form = "flat" if stored.endswith(".mod.lin") else ""
        found[name] = KeyEntry(prefix + stored, shape, form=form)
    return found


def find_name(name: str) -> str:
    """Return the makers' name of a parameter.

    >>> find_name("text_fusion.refiner_blocks.1.attn.to_out.0.weight")
    'txtfusion.refiner_blocks.1.attn.wo.weight'
    """
    for ours, theirs in NAMES.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    ours, theirs = next(pair for pair in BLOCKS.items() if name.startswith(pair[0]))
    parts = name.removeprefix(ours).split(".")
    place = next(i for i, part in enumerate(parts) if part.isdigit()) + 1
    inner = ".".join(parts[place:])
    renamed = next(x for x in IN_BLOCKS if inner == x or inner.startswith(f"{x}."))
    block = ".".join(parts[:place])
    return f"{theirs}{block}.{IN_BLOCKS[renamed]}{inner.removeprefix(renamed)}"


def recognise(shapes: Mapping[str, Shape], prefix: str = "") -> ModelConfig | None:
    """Return the configuration of a file of the makers; None if it is another file.

    A file of Turbo has the names and shapes of one of Raw, which is taken.
    """
    own = remove_prefix(shapes, prefix)
    try:
        d, patch = own["first.weight"]
        ((head,), (text_head,)) = (
            own[f"{block}.attn.qknorm.qnorm.scale"]
            for block in ("blocks.0", "txtfusion.refiner_blocks.0")
        )
        network = Krea2Config(
            in_channels=patch // PATCH**2,
            out_channels=own["last.linear.weight"][0] // PATCH**2,
            num_layers=count_blocks(own, "blocks"),
            attention_head_dim=head,
            num_attention_heads=d // head,
            num_key_value_heads=own["blocks.0.attn.wk.weight"][0] // head,
            intermediate_size=own["blocks.0.mlp.gate.weight"][0],
            timestep_embed_dim=own["tmlp.0.weight"][1],
            text_hidden_dim=own["txtmlp.0.scale"][0],
            num_text_layers=own["txtfusion.projector.weight"][1],
            text_num_attention_heads=own["txtmlp.0.scale"][0] // text_head,
            text_num_key_value_heads=own["txtfusion.refiner_blocks.0.attn.wk.weight"][0]
            // text_head,
            text_intermediate_size=own["txtfusion.refiner_blocks.0.mlp.gate.weight"][0],
            num_layerwise_text_blocks=count_blocks(own, "txtfusion.layerwise_blocks"),
            num_refiner_text_blocks=count_blocks(own, "txtfusion.refiner_blocks"),
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        return None
    presets = make_presets()
    known = find_known(presets.values(), network)
    if known is not None or sum(network.axes_dims_rope) != head:
        return known
    return replace(presets["krea-2"], name="krea2", denoiser=network)


ORIGINALS = list_files("the transformer of Krea 2", recognise, original_table)
"""The files of Krea 2."""
