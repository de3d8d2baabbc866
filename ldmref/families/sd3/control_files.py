"""Single files of ControlNets of Stable Diffusion 3, which have no configuration beside them.

Two layouts are in use: the names of diffusers (InstantX, alimama), and those of Stability's files
for 3.5 large, whose blocks have the names of their program. Sources: the names of the published
files; huggingface/diffusers, scripts/convert_sd3_controlnet_to_diffusers.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.controlnet import MMDiTControlConfig, controlnet_spec
from ldmref.families.sd3.files import BLOCK, IMAGE, THIRDS
from ldmref.io.key_table import KeyEntry, KeyTable, key_table
from ldmref.models.params import Shape, flatten

HEAD = 64  # the width of a head of all published ControlNets without norms of queries and keys
BLOCKS = "transformer_blocks."


def list_candidates(
    shapes: Mapping[str, Shape], denoiser: object
) -> Iterator[tuple[MMDiTControlConfig, KeyTable]]:
    """Yield the configuration of a file of these names and shapes, with its key table.

    The tensors do not say whether the net reads the pooled text: one that reads hidden states does
    not, which is diffusers' default, and one of the image alone does.

    Args:
        shapes: Names and shapes of the tensors.
        denoiser: The configuration of the model's denoiser, for sizes that no tensor has, such as
            the width of a head; or of another family's.
    """
    model = denoiser if isinstance(denoiser, MMDiTConfig) else None
    try:
        d, hint, patch, _ = shapes["pos_embed_input.proj.weight"]
        pooled = shapes["time_text_embed.text_embedder.linear_1.weight"][1]
        _, joint = shapes.get("context_embedder.weight", (d, 0))
        table = shapes.get("pos_embed.pos_embed", (1, 0))[1]
        _, z, *_ = shapes.get("pos_embed.proj.weight", (d, model.in_channels if model else hint))
        (head,) = shapes.get(f"{BLOCKS}0.attn.norm_q.weight", (0,))
    except (KeyError, ValueError, IndexError):
        return
    head = head or (model.attention_head_dim if model and model.width == d else HEAD)
    numbers = {name.split(".")[1] for name in shapes if name.startswith(BLOCKS)}
    dual = {name.split(".")[1] for name in shapes if ".attn2." in name}
    side = round(table**0.5) or (model.pos_embed_max_size if model else 1)
    config = MMDiTControlConfig(
        in_channels=z,
        out_channels=z,
        sample_size=model.sample_size if model else min(128, side * patch),
        patch_size=patch,
        num_layers=max(len(numbers), 1),
        num_attention_heads=max(d // head, 1),
        attention_head_dim=head,
        joint_attention_dim=joint,
        pooled_projection_dim=pooled,
        pos_embed_max_size=side,
        dual_attention_layers=tuple(sorted(int(n) for n in dual if n.isdecimal())),
        qk_norm="rms_norm" if f"{BLOCKS}0.attn.norm_q.weight" in shapes else "",
        extra_conditioning_channels=max(hint - z, 0),
        use_pos_embed="pos_embed.proj.weight" in shapes,
        force_zeros_for_pooled_projection=joint > 0,
    )
    yield config, original_table(config) if _is_original(shapes) else diffusers_table(config)


def _is_original(shapes: Mapping[str, Shape]) -> bool:
    return f"{BLOCKS}0.attn.qkv.weight" in shapes


def diffusers_table(config: MMDiTControlConfig) -> KeyTable:
    """Return the tensors of a file with diffusers' names, without those of the transformer."""
    spec = controlnet_spec(config)
    own = {n: part for n, part in spec.items() if config.use_pos_embed or n != "pos_embed"}
    return key_table(flatten(own), {"": ""})


def original_table(config: MMDiTControlConfig) -> KeyTable:
    """Return the tensors of a file of Stability for each parameter: queries, keys and values of a
    block are stacked, and its layers have the names of the original transformer.
    """
    table = {}
    for name, entry in diffusers_table(config).items():
        table[name] = entry
        if name.startswith(BLOCKS):
            _, number, layer, leaf = _split(name)
            stream, *path, third = THIRDS[layer] if layer in THIRDS else (*BLOCK[layer], None)
            assert stream == IMAGE
            stored = ".".join((f"{BLOCKS}{number}", *path, leaf))
            table[name] = replace(KeyEntry(stored, entry.shape), third=third)
    return table


def _split(name: str) -> tuple[str, str, str, str]:
    """Return the parts of a tensor of a block: `blocks.0.attn.to_q.weight` has four."""
    path, _, leaf = name.rpartition(".")
    blocks, number, layer = path.split(".", 2)
    return blocks, number, layer, leaf
