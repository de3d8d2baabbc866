"""ControlNets of SD3 and Flux.1: their files, what they declare and how they differ, by hand."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace

import numpy as np
import pytest

from ldmref.errors import CorruptModelError
from ldmref.families.flux import FLUX
from ldmref.families.flux import control_files as flux_files
from ldmref.families.flux import controlnet as flux
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux.controlnet import FluxControlConfig
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3 import SD3
from ldmref.families.sd3 import control_files as sd3_files
from ldmref.families.sd3 import controlnet as sd3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.controlnet import MMDiTControlConfig
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import preset
from ldmref.models.params import flatten
from ldmref.ports.arguments import names_of

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


FLUX_CHANGES = [
    {},
    {"num_layers": 1, "num_single_layers": 0},
    {"num_layers": 0, "num_single_layers": 2},
    {"guidance_embeds": True},
    {"num_mode": 7},
    {"conditioning_embedding_channels": 4},
    {"num_attention_heads": 1, "joint_attention_dim": 11, "pooled_projection_dim": 9},
    {"in_channels": 16, "out_channels": 16},
]


FLUX_CASES = [(change, False) for change in FLUX_CHANGES]
FLUX_CASES += [(x, True) for x in FLUX_CHANGES if x.get("num_layers", 1)]  # XLabs' have them all


@pytest.mark.parametrize(("change", "original"), FLUX_CASES)
def test_a_file_of_flux1_says_every_size(change, original):
    net = replace(FLUX_NET, **change)
    table = flux_files.make_table(net, original)
    [(found, entries)] = recognised(flux_files, net, FLUX_MODEL, table)
    assert found == replace(net, sample_size=128)
    assert entries == table


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


@pytest.mark.parametrize(
    "name",
    [
        "controlnet_x_embedder.weight",
        "context_embedder.weight",
        "time_text_embed.text_embedder.linear_1.weight",
    ],
)
def test_a_file_of_flux1_has_every_tensor_that_says_a_size(name):
    table = flux_files.make_table(FLUX_NET, False)
    assert len(recognised(flux_files, FLUX_NET, FLUX_MODEL, table)) == 1
    assert recognised(flux_files, FLUX_NET, FLUX_MODEL, table, (name,)) == []
    assert recognised(flux_files, FLUX_NET, FLUX_MODEL, table, **{name: ()}) == []
    double = ["transformer_blocks.0.attn.norm_q.weight"]
    assert len(recognised(flux_files, FLUX_NET, FLUX_MODEL, table, double)) == 1
    both = [*double, "single_transformer_blocks.0.attn.norm_q.weight"]
    assert recognised(flux_files, FLUX_NET, FLUX_MODEL, table, both) == []


def test_a_damaged_file_of_flux1_has_one_head():
    table = flux_files.make_table(FLUX_NET, False)
    for width, heads in ((11, 1), (12, 1), (25, 2), (36, 3)):
        changed = {"controlnet_x_embedder.weight": (width, 16)}
        [(found, _)] = recognised(flux_files, FLUX_NET, FLUX_MODEL, table, **changed)
        assert found.num_attention_heads == heads


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


SD3_CHANGES = [
    {},
    {"num_layers": 1},
    {"num_attention_heads": 1, "attention_head_dim": 16, "qk_norm": "rms_norm"},
    {"qk_norm": "rms_norm", "attention_head_dim": 4},
    {"dual_attention_layers": (0, 3), "qk_norm": "rms_norm"},
    {"extra_conditioning_channels": 1},
    {"in_channels": 16, "out_channels": 16, "patch_size": 1},
    {"joint_attention_dim": 0, "force_zeros_for_pooled_projection": False},
    {"use_pos_embed": False},
]


@pytest.mark.parametrize("change", SD3_CHANGES, ids=lambda change: " ".join(change) or "plain")
def test_a_file_of_sd3_says_every_size(change):
    net = replace(SD3_NET, **change)
    denoiser = SD3_MODEL if "in_channels" not in change else replace(SD3_MODEL, in_channels=16)
    table = sd3_files.diffusers_table(net)
    [(found, entries)] = recognised(sd3_files, net, denoiser, table)
    assert found == net
    assert entries == table


@pytest.mark.parametrize("change", SD3_CHANGES[:5])
def test_what_a_file_of_sd3_says_without_a_model(change):
    """A head has 64 numbers where no norm tells, and the sample is as large as the table."""
    net = replace(SD3_NET, **{**change, "attention_head_dim": 64})
    [(found, _)] = recognised(sd3_files, net, None, sd3_files.diffusers_table(net))
    assert found == replace(net, sample_size=18)
    wide = replace(net, pos_embed_max_size=80)
    [(found, _)] = recognised(sd3_files, wide, FLUX_MODEL, sd3_files.diffusers_table(wide))
    assert found == replace(wide, sample_size=128)


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


def test_a_damaged_file_of_sd3_has_whole_heads():
    table = sd3_files.diffusers_table(SD3_NET)
    for width, heads in ((63, 1), (129, 2)):
        changed = {"pos_embed_input.proj.weight": (width, 4, 2, 2)}
        [(found, _)] = recognised(sd3_files, SD3_NET, None, table, **changed)
        assert (found.num_attention_heads, found.attention_head_dim) == (heads, 64)


def test_a_damaged_file_of_sd3_has_a_head_and_a_block():
    table = sd3_files.diffusers_table(SD3_NET)
    blocks = [name for name in table if name.startswith("transformer_blocks.")]
    [(found, _)] = recognised(sd3_files, SD3_NET, None, table, blocks)
    assert (found.num_layers, found.num_attention_heads) == (1, 1)
    other = {"transformer_blocks.x.attn2.to_q.weight": (1, 1)}
    [(found, _)] = recognised(sd3_files, SD3_NET, SD3_MODEL, table, **other)
    assert found.attention_head_dim == 8 and found.dual_attention_layers == ()


@pytest.mark.parametrize("shape", [(), (8, 8)])
def test_a_norm_of_a_head_has_one_axis(shape):
    """Otherwise it is no file of a ControlNet, and no error of the program."""
    norm = {"transformer_blocks.0.attn.norm_q.weight": shape}
    table = sd3_files.diffusers_table(SD3_NET)
    assert recognised(sd3_files, SD3_NET, SD3_MODEL, table, **norm) == []
    table = flux_files.make_table(FLUX_NET, False)
    assert recognised(flux_files, FLUX_NET, FLUX_MODEL, table, **norm) == []


@pytest.mark.parametrize(
    "name", ["pos_embed_input.proj.weight", "time_text_embed.text_embedder.linear_1.weight"]
)
def test_a_file_of_sd3_has_every_tensor_that_says_a_size(name):
    table = sd3_files.diffusers_table(SD3_NET)
    assert recognised(sd3_files, SD3_NET, SD3_MODEL, table, (name,)) == []
    assert recognised(sd3_files, SD3_NET, SD3_MODEL, table, **{name: (4,)}) == []
    for other in ("pos_embed.pos_embed", "context_embedder.weight", "pos_embed.proj.weight"):
        assert recognised(sd3_files, SD3_NET, SD3_MODEL, table, **{other: ()}) == []


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


def test_parameters_of_a_net_of_flux1():
    net = replace(FLUX_NET, num_mode=7, conditioning_embedding_channels=3)
    shapes = flatten(flux.controlnet_spec(net))
    assert shapes["controlnet_x_embedder.weight"] == (24, 16)
    assert shapes["controlnet_x_embedder.bias"] == (24,)
    assert shapes["controlnet_mode_embedder.weight"] == (7, 24)
    assert shapes["input_hint_block.conv_in.weight"] == (16, 3, 3, 3)
    assert shapes["input_hint_block.conv_out.weight"] == (3, 16, 3, 3)
    zero = [name for name in shapes if name.startswith("controlnet_blocks.")]
    assert len(zero) == 2 * 3 and {len(shapes[name]) for name in zero} == {1, 2}
    assert len([name for name in shapes if name.startswith("controlnet_single_blocks.")]) == 2 * 5
    assert all(shapes[name] == (24,) * len(shapes[name]) for name in zero)
    assert not any(name.startswith(("norm_out", "proj_out")) for name in shapes)
    plain = flatten(flux.controlnet_spec(FLUX_NET))
    assert {*shapes} - {*plain} >= {"controlnet_mode_embedder.weight"}
    assert not any(name.startswith(("input_hint", "controlnet_mode")) for name in plain)


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("modes", [0, 1, 7])
@pytest.mark.parametrize("guided", [False, True])
def test_networks_of_a_net_of_flux1(channels, modes, guided):
    net = replace(
        FLUX_NET,
        conditioning_embedding_channels=channels,
        num_mode=modes,
        guidance_embeds=guided,
    )
    assert net.encodes_image == bool(channels)
    *encoder, network = flux.describe_networks(net)
    arguments = [x.argument for x in network.inputs]
    want = ["x", "t", "context", "hint", "pooled"] + ["guidance"] * guided + ["mode"] * bool(modes)
    assert arguments == want
    assert [x.role for x in network.outputs] == [
        *(f"blocks.{i}" for i in range(3)),
        *(f"single_blocks.{i}" for i in range(5)),
    ]
    hint = network.inputs[3]
    assert hint.shape[1] == 4
    if modes:
        mode = network.inputs[-1]
        assert (mode.role, mode.content, mode.below) == ("controlnet_mode", "labels", modes)
        assert mode.shape_at({"batch": 3}) == (3, 1) and names_of(network, mode) == (
            mode.role,
            "mode",
        )
    assert len(encoder) == bool(channels)
    for one in encoder:
        [image] = one.inputs
        assert image.shape_at({"batch": 2, "height": 3, "width": 5}) == (2, 3, 24, 40)
        assert image.content == "image"
        assert names_of(one, image)[:3] == ("hint", "input", "0")
        assert (one.name, one.params) == ("controlnet.hint", "controlnet")
        assert [(x.role, x.exported) for x in one.outputs] == [("", "features")]
        assert one.spec() == flux.controlnet_spec(net)


def test_the_net_that_fits_a_model_of_flux1():
    fill = preset("flux-fill-dev")
    net = flux.fit_config(fill)
    assert (net.in_channels, net.conditioning_embedding_channels, net.num_mode) == (16, 16, 0)
    names = [f.name for f in dataclasses.fields(FluxConfig) if f.name != "in_channels"]
    assert all(getattr(net, name) == getattr(fill.denoiser, name) for name in names)
    assert not [*flux.list_differences(fill, net)]


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({}, []),
        ({"in_channels": 5}, ["in_channels"]),
        ({"num_attention_heads": 3}, ["width"]),
        ({"joint_attention_dim": 21}, ["joint_attention_dim"]),
        ({"pooled_projection_dim": 15}, ["pooled_projection_dim"]),
        ({"num_layers": 4}, ["num_layers"]),
        ({"num_layers": 2, "num_single_layers": 5}, []),
        ({"num_single_layers": 6}, ["num_single_layers"]),
        ({"guidance_embeds": True}, ["guidance_embeds"]),
        ({"conditioning_embedding_channels": 4}, ["pixels of the hint per latent cell"]),
    ],
)
def test_differences_of_a_net_of_flux1(change, want):
    config = replace(preset("flux-tiny"), denoiser=FLUX_MODEL)
    assert config.vae.latent_channels == 4 and config.vae.factor == 2
    found = [*flux.list_differences(config, replace(FLUX_NET, **change))]
    assert [name for name, _, _ in found] == want
    values = {
        "in_channels": (5, 4),
        "width": (36, 24),
        "joint_attention_dim": (21, 20),
        "pooled_projection_dim": (15, 16),
        "guidance_embeds": (True, False),
        "pixels of the hint per latent cell": (8, 2),
    }
    for name, have, fits in found:
        assert values.get(name, (have, fits)) == (have, fits)


def test_a_model_that_reads_guidance_takes_nets_of_both_kinds():
    guided = replace(FLUX_MODEL, guidance_embeds=True)
    config = replace(preset("flux-tiny"), denoiser=guided)
    for own in (False, True):
        assert not [*flux.list_differences(config, replace(FLUX_NET, guidance_embeds=own))]


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


def test_blocks_that_a_net_does_not_have():
    params = {"blocks": "x"}
    assert flux.pair_blocks(params, "other", "layers") == []


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [0, 20])
def test_parameters_of_a_net_of_sd3(joint):
    net = replace(SD3_NET, joint_attention_dim=joint, extra_conditioning_channels=2)
    shapes = flatten(sd3.controlnet_spec(net))
    assert shapes["pos_embed_input.proj.weight"] == (16, 6, 2, 2)
    assert shapes["pos_embed.pos_embed"] == (1, 81, 16)
    assert shapes["time_text_embed.text_embedder.linear_1.weight"] == (16, 16)
    assert shapes["controlnet_blocks.4.weight"] == (16, 16)
    assert "controlnet_blocks.5.weight" not in shapes
    assert shapes["transformer_blocks.4.norm1.linear.weight"] == (96, 16)
    assert shapes["transformer_blocks.4.attn.to_q.bias"] == (16,)
    assert ("context_embedder.weight" in shapes) == (joint > 0)
    assert ("transformer_blocks.4.ff_context.net.2.weight" in shapes) == (joint > 0)
    assert not any(name.startswith(("norm_out", "proj_out")) for name in shapes)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({}, []),
        ({"in_channels": 5}, ["in_channels"]),
        ({"patch_size": 1}, ["patch_size"]),
        ({"num_attention_heads": 3}, ["width"]),
        ({"pooled_projection_dim": 15}, ["pooled_projection_dim"]),
        ({"joint_attention_dim": 21}, ["joint_attention_dim"]),
        ({"joint_attention_dim": 0}, []),
        ({"num_layers": 6}, ["num_layers"]),
        ({"num_layers": 4}, []),
        ({"extra_conditioning_channels": 1}, []),
        ({"extra_conditioning_channels": 2}, ["extra_conditioning_channels"]),
    ],
)
def test_differences_of_a_net_of_sd3(change, want):
    config = replace(preset("sd3-tiny"), denoiser=SD3_MODEL)
    found = [*sd3.list_differences(config, replace(SD3_NET, **change))]
    assert [name for name, _, _ in found] == want
    if want == ["extra_conditioning_channels"]:
        assert found[0][1] == 2


def test_the_net_that_fits_a_model_of_sd3():
    config = preset("sd35-medium")
    net = sd3.fit_config(config)
    names = [f.name for f in dataclasses.fields(MMDiTConfig)]
    assert all(getattr(net, name) == getattr(config.denoiser, name) for name in names)
    assert isinstance(net, MMDiTControlConfig)
    assert not [*sd3.list_differences(config, net)]


ZEROS = "force_zeros_for_pooled_projection"


@pytest.mark.parametrize(
    ("zeros", "extra", "reads_pooled", "shifted"),
    [
        (False, 0, True, False),
        (True, 0, False, True),
        (False, 1, False, False),
        (True, 1, False, False),
    ],
)
def test_hints_and_pooled_text_of_a_net_of_sd3(zeros, extra, reads_pooled, shifted):
    net = replace(SD3_NET, **{ZEROS: zeros, "extra_conditioning_channels": extra})
    vae = preset("sd3-medium").vae
    assert net.reads_pooled == reads_pooled and net.hint_channels == 4 + extra
    latents = np.zeros((1, 4, 2, 2))
    found = sd3.make_hint(net, vae, latents)
    assert found == pytest.approx(1.5305 * 0.0609 if shifted else 0.0, rel=1e-12)
    control = sd3.CONTROL
    assert control.hole(net) == (-1.0 if extra else None)
    assert control.reads_mask(net) == (extra == 1)
    assert control.zeroed(net) == (() if reads_pooled else ("pooled",))


def test_what_controlnets_declare():
    control, net = sd3.CONTROL, SD3_NET
    assert not control.reads_mask(replace(net, extra_conditioning_channels=2))
    assert control.hole(replace(net, extra_conditioning_channels=2)) == -1.0
    assert control.shared(net) == ()
    assert control.shared(replace(net, use_pos_embed=False)) == ("pos_embed",)
    kinds = [control.kind(replace(net, control_type=number)) for number in (-1, 0, 1, 2)]
    assert kinds == [None, 0, 1, 2]
    inputs = control.inputs(replace(preset("sd3-tiny"), denoiser=SD3_MODEL))
    assert len(inputs.blocks) == 4 and not inputs.single_blocks
    assert inputs.blocks[0].shape[2] == 16
    inputs = flux.CONTROL.inputs(replace(preset("flux-tiny"), denoiser=FLUX_MODEL))
    assert (len(inputs.blocks), len(inputs.single_blocks)) == (3, 5)
    assert inputs.single_blocks[0].shape[2] == 24
    [network] = control.networks(net)
    assert [x.argument for x in network.inputs] == ["x", "t", "context", "hint", "pooled"]
    assert [x.role for x in network.outputs] == [f"blocks.{i}" for i in range(5)]
    alone = replace(net, joint_attention_dim=0, extra_conditioning_channels=1)
    [network] = control.networks(alone)
    assert [x.argument for x in network.inputs] == ["x", "t", "hint", "pooled"]
    assert network.inputs[2].shape[1] == 5
    for family, files in ((SD3, sd3_files), (FLUX, flux_files)):
        assert family.control.candidates is files.list_candidates


@pytest.mark.parametrize(
    ("joint", "kind", "scaled"),
    [(0, 1, True), (0, 0, False), (0, 2, False), (0, None, False), (20, 1, False)],
)
def test_the_image_that_a_net_for_edges_reads(joint, kind, scaled):
    net = replace(SD3_NET, joint_attention_dim=joint)
    assert sd3.list_kinds(net) == (() if joint else ("blur", "canny", "depth"))
    pixels = np.array([-1.0, 0.0, 1.0])
    found = sd3.scale_image(net, pixels, kind)
    assert found.tolist() == ([0.5, 64.25, 128.0] if scaled else pixels.tolist())


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
