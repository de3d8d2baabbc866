"""ControlNets of SD3 and Flux.1: what their files do not say, and configurations of diffusers."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace

import numpy as np
import pytest

from ldmref.errors import CorruptModelError
from ldmref.families.flux import control_files as flux_files
from ldmref.families.flux import controlnet as flux
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.controlnet import FluxControlConfig
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3 import control_files as sd3_files
from ldmref.families.sd3 import controlnet as sd3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.controlnet import MMDiTControlConfig
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import preset

FLUX_MODEL = FluxConfig(
    in_channels=4,
    out_channels=4,
    num_layers=3,
    num_single_layers=5,
    num_attention_heads=2,
    attention_head_dim=12,
    joint_attention_dim=20,
    pooled_projection_dim=16,
    axes_dims_rope=(2, 4, 6),
)
FLUX_NET = FluxControlConfig(
    **{f.name: getattr(FLUX_MODEL, f.name) for f in dataclasses.fields(FluxConfig)}
)
SD3_MODEL = MMDiTConfig(
    in_channels=4,
    out_channels=4,
    sample_size=14,
    num_layers=5,
    num_attention_heads=2,
    attention_head_dim=8,
    joint_attention_dim=20,
    pooled_projection_dim=16,
    pos_embed_max_size=9,
)
SD3_NET = MMDiTControlConfig(
    **{f.name: getattr(SD3_MODEL, f.name) for f in dataclasses.fields(MMDiTConfig)}
)


# -- files of Flux.1 ------------------------------------------------------------------------------


def recognised(files, net, denoiser, table, without=(), **changed):
    """Return the only candidate of the shapes of a net, without some and with changed ones."""
    shapes = list_stored_shapes(table)
    shapes = {name: x for name, x in shapes.items() if name not in without} | changed
    return [*files.list_candidates(shapes, denoiser)]


def test_axes_of_flux1_are_those_of_the_model_or_the_published_ones():
    table = flux_files.make_table(FLUX_NET, False)
    for denoiser in (None, SD3_MODEL, replace(FLUX_MODEL, axes_dims_rope=(2, 4, 8))):
        assert recognised(flux_files, FLUX_NET, denoiser, table) == []
    moved = replace(FLUX_MODEL, axes_dims_rope=(4, 4, 4))
    [(found, _)] = recognised(flux_files, FLUX_NET, moved, table)
    assert found.axes_dims_rope == (4, 4, 4)
    wide = replace(FLUX_NET, attention_head_dim=128, axes_dims_rope=(16, 56, 56))
    table = flux_files.make_table(wide, False)
    for denoiser in (None, SD3_MODEL, FluxConfig()):
        [(found, _)] = recognised(flux_files, wide, denoiser, table)
        assert found == wide


def test_names_of_xlabs():
    net = replace(FLUX_NET, conditioning_embedding_channels=4, guidance_embeds=True)
    table = flux_files.make_table(net, True)
    names = {ours: entry.name for ours, entry in table.items()}
    want = {
        "controlnet_x_embedder.weight": "pos_embed_input.weight",
        "x_embedder.bias": "img_in.bias",
        "input_hint_block.conv_in.weight": "input_hint_block.0.weight",
        "input_hint_block.conv_out.bias": "input_hint_block.14.bias",
        "controlnet_blocks.2.weight": "controlnet_blocks.2.weight",
        "transformer_blocks.1.ff.net.2.weight": "double_blocks.1.img_mlp.2.weight",
    } | {
        f"input_hint_block.blocks.{i}.weight": f"input_hint_block.{2 * i + 2}.weight"
        for i in range(6)
    }
    assert {name: names[name] for name in want} == want
    assert len({*names.values()}) < len(names)  # queries, keys and values are stacked
    assert table["single_transformer_blocks.0.proj_mlp.weight"].rows == (72, 168)


# -- files of Stable Diffusion 3 ------------------------------------------------------------------


def test_a_file_of_sd3_without_patches_of_its_own():
    net = replace(SD3_NET, use_pos_embed=False, attention_head_dim=64)
    table = sd3_files.diffusers_table(net)
    assert not any(name.startswith("pos_embed.") for name in table)
    [(found, _)] = recognised(sd3_files, net, None, table)
    assert (found.in_channels, found.pos_embed_max_size, found.sample_size) == (4, 1, 2)
    assert not found.use_pos_embed and found.extra_conditioning_channels == 0
    model = replace(SD3_MODEL, in_channels=3)
    [(found, _)] = recognised(sd3_files, net, model, table)
    assert (found.in_channels, found.extra_conditioning_channels) == (3, 1)
    assert (found.pos_embed_max_size, found.sample_size) == (9, 14)
    model = replace(SD3_MODEL, in_channels=7)
    [(found, _)] = recognised(sd3_files, net, model, table)
    assert found.extra_conditioning_channels == 0


def test_heads_of_another_model_of_sd3_are_not_those_of_a_file():
    net = replace(SD3_NET, num_attention_heads=8, attention_head_dim=16)
    table = sd3_files.diffusers_table(net)
    same = replace(SD3_MODEL, num_attention_heads=4, attention_head_dim=32)
    for denoiser, heads in ((same, 4), (SD3_MODEL, 2), (None, 2)):
        [(found, _)] = recognised(sd3_files, net, denoiser, table)
        assert (found.num_attention_heads, found.attention_head_dim) == (heads, 128 // heads)


def test_names_of_stability():
    net = replace(SD3_NET, joint_attention_dim=0, force_zeros_for_pooled_projection=False)
    table = sd3_files.original_table(net)
    names = {ours: (entry.name, entry.third) for ours, entry in table.items()}
    block = "transformer_blocks.3"
    want = {
        f"{block}.attn.to_q.weight": (f"{block}.attn.qkv.weight", 0),
        f"{block}.attn.to_k.bias": (f"{block}.attn.qkv.bias", 1),
        f"{block}.attn.to_v.weight": (f"{block}.attn.qkv.weight", 2),
        f"{block}.attn.to_out.0.weight": (f"{block}.attn.proj.weight", None),
        f"{block}.ff.net.0.proj.weight": (f"{block}.mlp.fc1.weight", None),
        f"{block}.norm1.linear.bias": (f"{block}.adaLN_modulation.1.bias", None),
        "controlnet_blocks.0.weight": ("controlnet_blocks.0.weight", None),
    }
    assert {name: names[name] for name in want} == want
    [(found, entries)] = recognised(sd3_files, net, SD3_MODEL, table)
    assert found == net and entries == table


# -- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "count", "single", "blocks"),
    [
        (0, 3, 5, ([0, 1, 2], [0, 1, 2, 3, 4])),
        (0, 2, 2, ([0, 0, 1], [0, 0, 0, 1, 1])),
        (4, 2, 2, ([0, 1, 0], [0, 0, 0, 1, 1])),
        (4, 1, 1, ([0, 0, 0], [0, 0, 0, 0, 0])),
        (0, 0, 4, ([], [0, 0, 1, 1, 2])),
        (0, 2, 0, ([0, 0, 1], [])),
    ],
)
def test_places_of_the_residuals_of_flux1(channels, count, single, blocks):
    config = replace(preset("flux-tiny"), denoiser=FLUX_MODEL)
    net = replace(FLUX_NET, conditioning_embedding_channels=channels)
    residuals = BlockResiduals(tuple(range(count)), tuple(range(single)))
    found = flux.place_residuals(config, net, residuals)
    assert ([*found.blocks], [*found.single_blocks]) == blocks
    if not channels:
        assert flux.place_residuals(config, None, residuals) == found


SIZES = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 0,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "axes_dims_rope": [2, 4, 6],
}


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        ({}, True),
        ({"patch_size": 1}, True),
        ({"patch_size": 2}, False),
        ({"num_mode": None, "conditioning_embedding_channels": None}, True),
        ({"num_mode": 3}, True),
        ({"axes_dims_rope": [2, 4, 4]}, False),
        ({"axes_dims_rope": [3, 3, 6]}, False),
        ({"conditioning_embedding_channels": 4, "patch_size": 2}, True),
        ({"conditioning_embedding_channels": 4, "patch_size": 1}, False),
        ({"conditioning_embedding_channels": 3, "patch_size": 2}, False),
        ({"in_channels": 15}, False),
    ],
)
def test_configurations_of_nets_of_flux1(change, is_known):
    if not is_known:
        with pytest.raises(CorruptModelError):
            flux.convert_controlnet_config(SIZES | change)
        return
    net = flux.convert_controlnet_config(SIZES | change)
    assert (net.in_channels, net.out_channels, net.num_layers) == (4, 4, 1)
    assert net.num_mode == (change.get("num_mode") or 0)
    assert net.encodes_image == bool(change.get("conditioning_embedding_channels"))


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "number"),
    [({}, -1), ({"control_type": np.array([2])}, 2), ({"control_type": np.array(0.0)}, 0)],
)
def test_the_kind_that_a_file_of_stability_names(values, number):
    assert sd3.read_control_type(SD3_NET, values) == replace(SD3_NET, control_type=number)


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        ({}, True),
        ({"pos_embed_type": "sincos"}, True),
        ({"pos_embed_type": None}, False),
        ({"pos_embed_type": None, "use_pos_embed": False}, True),
        ({"caption_projection_dim": 15}, False),
        ({"caption_projection_dim": 15, "joint_attention_dim": None}, True),
    ],
)
def test_configurations_of_nets_of_sd3(change, is_known):
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "caption_projection_dim": 16,
        "joint_attention_dim": 20,
    }
    if not is_known:
        with pytest.raises(CorruptModelError):
            sd3.convert_controlnet_config(sizes | change)
        return
    net = sd3.convert_controlnet_config(sizes | change)
    assert (net.num_layers, net.pos_embed_max_size) == (18, 96)
    assert net.joint_attention_dim == (20 if "joint_attention_dim" not in change else 0)


# -- defaults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "others"),
    [
        (MMDiTControlConfig(), "SD3ControlNetModel", {"control_type": -1}),
        (FluxControlConfig(), "FluxControlNetModel", {}),
    ],
    ids=["sd3", "flux"],
)
def test_defaults_of_controlnets_are_those_of_diffusers(config, kind, others):
    """Null is 0 here."""
    diffusers = pytest.importorskip("diffusers")
    theirs = inspect.signature(getattr(diffusers, kind)).parameters
    own = {f.name for f in dataclasses.fields(config)}
    own -= {f.name for f in dataclasses.fields(type(config).__mro__[1])}
    if kind.startswith("SD3"):
        own.add("joint_attention_dim")
    found = {name: getattr(config, name) for name in own}
    want = {name: theirs[name].default or 0 for name in own - {*others}} | others
    assert found == want and len(found) >= 2
