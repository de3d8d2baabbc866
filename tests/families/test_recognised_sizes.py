"""Sizes that single files of transformers say, from small shapes that are written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ldmref.families.combined_files import CLIP_G, CLIP_L, T5
from ldmref.families.flux import files as flux
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux2 import files as flux2
from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux3 import files as flux3
from ldmref.families.flux3.config import Flux3Config
from ldmref.families.krea2 import files as krea2
from ldmref.families.krea2.config import Krea2Config
from ldmref.families.sd3 import files as sd3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import ModelConfig, preset

FILES = {
    "flux-tiny": flux,
    "flux2-tiny": flux2,
    "flux3-tiny": flux3,
    "krea-2-tiny": krea2,
    "sd3-tiny": sd3,
}
NETWORKS = {  # whose heads are the published ones, without which the axes do not fit
    flux: FluxConfig(
        in_channels=6, out_channels=6, num_layers=2, num_single_layers=3, num_attention_heads=3,
        joint_attention_dim=7, pooled_projection_dim=9,
    ),
    flux3: Flux3Config(
        in_channels=6, out_channels=6, num_layers=2, num_single_layers=3, num_attention_heads=3,
        joint_attention_dim=7, timestep_channels=10, mlp_ratio=2.0,
    ),
    krea2: Krea2Config(
        in_channels=6, out_channels=6, num_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=11, timestep_embed_dim=10, text_hidden_dim=48, num_text_layers=5,
        text_num_attention_heads=6, text_num_key_value_heads=3, text_intermediate_size=13,
        num_layerwise_text_blocks=3, num_refiner_text_blocks=1,
    ),
    sd3: MMDiTConfig(
        in_channels=6, out_channels=6, sample_size=30, patch_size=3, num_layers=4,
        num_attention_heads=3, joint_attention_dim=7, pooled_projection_dim=9,
        pos_embed_max_size=10, dual_attention_layers=(1, 2),
    ),
}  # fmt: skip
FIELDS = {  # changes of one or two sizes
    flux: [{"guidance_embeds": True}, {"num_attention_heads": 1}],
    flux3: [{"flow_map": True}, {"mlp_ratio": 2.5}, {"num_attention_heads": 1}],
    krea2: [{"num_key_value_heads": 4}, {"num_attention_heads": 2, "num_key_value_heads": 1}],
    sd3: [
        {"qk_norm": "rms_norm"},
        {"qk_norm": "rms_norm", "attention_head_dim": 20},
        {"dual_attention_layers": ()},
        {"patch_size": 1, "sample_size": 10},
        {"pos_embed_max_size": 60, "sample_size": 128},
        {"num_attention_heads": 1},
    ],
}
CASES = [(file, change) for file, changes in FIELDS.items() for change in ({}, *changes)]


def shapes_of(file, network):
    """Return the shapes of a file of a transformer, without a prefix."""
    return list_stored_shapes(file.original_table(ModelConfig(denoiser=network), prefix=""))


@pytest.mark.parametrize(
    ("file", "change"), CASES, ids=[f"{f.__name__.split('.')[2]} {[*c]}" for f, c in CASES]
)
def test_sizes_are_those_of_the_tensors(file, change):
    network = replace(NETWORKS[file], **change)
    found = file.recognise(shapes_of(file, network), prefix="")
    assert found.denoiser == network
    kinds = {name: type(x) for name, x in vars(found.denoiser).items()}
    assert kinds == {name: type(x) for name, x in vars(network).items()}


@pytest.mark.parametrize(
    ("file", "last"),
    [(krea2, "last.linear.weight"), (sd3, "final_layer.linear.weight")],
    ids=["krea2", "sd3"],
)
def test_the_last_layer_says_the_channels_of_the_output(file, last):
    shapes = shapes_of(file, NETWORKS[file])
    cells = 9 if file is sd3 else 4
    for rows in (5 * cells, 5 * cells + 1):
        found = file.recognise(shapes | {last: (rows, shapes[last][1])}, prefix="")
        assert (found.denoiser.in_channels, found.denoiser.out_channels) == (6, 5)


FIRST = {  # the tensor whose rows are the width of the tokens
    flux: "img_in.weight",
    flux3: "emb_in.image.weight",
    sd3: "x_embedder.proj.weight",
    krea2: "first.weight",
}


@pytest.mark.parametrize("file", FIRST, ids=lambda file: file.__name__.split(".")[2])
def test_a_damaged_file_has_whole_heads(file):
    """One at least, but in Krea 2."""
    shapes = shapes_of(file, NETWORKS[file])
    head = NETWORKS[file].attention_head_dim
    for width, heads in ((head - 1, 0 if file is krea2 else 1), (2 * head + 1, 2)):
        damaged = shapes | {FIRST[file]: (width, *shapes[FIRST[file]][1:])}
        found = file.recognise(damaged, prefix="").denoiser
        assert (found.num_attention_heads, found.attention_head_dim) == (heads, head)


def test_a_damaged_file_of_krea2_has_whole_heads_of_the_text():
    shapes = shapes_of(krea2, NETWORKS[krea2])
    for rows in (17, 23):
        changed = {
            "txtmlp.0.scale": (rows,),
            "txtfusion.refiner_blocks.0.attn.wk.weight": (rows, 48),
            "blocks.0.attn.wk.weight": (128 + rows, 512),
        }
        found = krea2.recognise(shapes | changed, prefix="").denoiser
        assert (found.text_hidden_dim, found.text_num_attention_heads) == (rows, 2)
        assert (found.text_num_key_value_heads, found.num_key_value_heads) == (2, 1)


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_smallest_models_are_recognised(name):
    file, config = FILES[name], preset(name)
    shapes = list_stored_shapes(file.original_table(config, prefix="a."))
    assert file.recognise(shapes, prefix="a.") == config
    assert file.recognise(shapes, prefix="") is None


# -- models beside the transformer ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "guided", "concat", "like"),
    [
        (16, True, "", "flux-dev"),
        (16, False, "", "flux-schnell"),
        (96, True, "folded_mask", "flux-fill-dev"),
        (32, True, "control", "flux-control-dev"),
    ],
)
def test_files_of_flux1_have_the_settings_of_the_nearest_model(channels, guided, concat, like):
    network = FluxConfig(in_channels=channels, guidance_embeds=guided, num_layers=2)
    found = flux.recognise(shapes_of(flux, network))
    assert found == replace(preset(like), name="flux", denoiser=network)
    assert found.concat == concat


@pytest.mark.parametrize(
    ("channels", "guided"), [(17, True), (96, False), (32, False), (20, False)]
)
def test_files_of_flux1_with_other_images_are_not_known(channels, guided):
    network = FluxConfig(in_channels=channels, guidance_embeds=guided, num_layers=2)
    assert flux.recognise(shapes_of(flux, network)) is None


@pytest.mark.parametrize(("flow_map", "like"), [(True, "flux3-klein"), (False, "flux3-klein-base")])
def test_files_of_flux3_have_the_settings_of_the_nearest_model(flow_map, like):
    network = Flux3Config(num_layers=2, flow_map=flow_map)
    found = flux3.recognise(shapes_of(flux3, network))
    assert found == replace(preset(like), name="flux3", denoiser=network)


def test_files_of_krea2_have_the_settings_of_raw():
    network = Krea2Config(num_layers=2)
    found = krea2.recognise(shapes_of(krea2, network))
    assert found == replace(preset("krea-2"), name="krea2", denoiser=network)


def test_files_of_sd3_have_the_settings_of_medium():
    network = MMDiTConfig(num_layers=2)
    found = sd3.recognise(shapes_of(sd3, network), prefix="")
    medium = preset("sd3-medium")
    assert (found.name, found.denoiser, found.text_encoders) == (
        "sd3",
        network,
        medium.text_encoders,
    )
    usual = found.defaults
    assert (usual.steps, usual.cfg_scale) == (28, 7.0)


@pytest.mark.parametrize(("t5", "count"), [(False, 2), (True, 3)])
def test_files_of_sd3_with_text_encoders_may_lack_t5(t5, count):
    shapes = list_stored_shapes(sd3.original_table(preset("sd3-medium")))
    shapes |= {f"text_encoders.{name}.transformer.x": (1,) for name in (CLIP_L, CLIP_G)}
    if t5:
        shapes[f"text_encoders.{T5}.transformer.shared.weight"] = (1,)
    found = sd3.recognise(shapes)
    assert len(found.text_encoders) == count and found.name == "sd3-medium"


# -- what is no such file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "x_embedder.proj.weight",
        "pos_embed",
        "context_embedder.weight",
        "y_embedder.mlp.0.weight",
        "final_layer.linear.weight",
    ],
)
def test_a_file_of_sd3_has_every_tensor_that_tells_a_size(name):
    shapes = shapes_of(sd3, NETWORKS[sd3])
    assert sd3.recognise(shapes, prefix="") is not None
    assert sd3.recognise({key: x for key, x in shapes.items() if key != name}, prefix="") is None
    assert sd3.recognise(shapes | {name: ()}, prefix="") is None


SD3_SIZES = [
    ("x_embedder.proj.weight", 0),
    ("x_embedder.proj.weight", 1),
    ("x_embedder.proj.weight", 2),
    ("context_embedder.weight", 1),
    ("y_embedder.mlp.0.weight", 1),
    ("joint_blocks.0.x_block.attn.ln_q.weight", 0),
]


@pytest.mark.parametrize(("name", "axis"), SD3_SIZES)
def test_sizes_of_sd3_may_be_1_but_not_0(name, axis):
    shapes = shapes_of(sd3, replace(NETWORKS[sd3], qk_norm="rms_norm"))
    shape = [*shapes[name]]
    for size in (0, 1):
        shape[axis] = size
        found = sd3.recognise(shapes | {name: tuple(shape)}, prefix="")
        assert (found is None) == (size == 0)


def test_a_file_of_sd3_has_blocks():
    shapes = shapes_of(sd3, NETWORKS[sd3])
    without = {name: x for name, x in shapes.items() if not name.startswith("joint_blocks.")}
    assert sd3.recognise(without, prefix="") is None
    assert sd3.recognise(without | {"joint_blocks.0": (1,)}, prefix="") is None


def test_a_file_of_flux2_has_the_modulation_of_its_width_and_no_guidance():
    shapes = list_stored_shapes(flux2.original_table(preset("flux2-tiny")))
    assert flux2.recognise(shapes) == preset("flux2-tiny")
    for modulated in ((95, 32), (96, 33), (64, 32)):
        assert flux2.recognise(shapes | {"single_stream_modulation.lin.weight": modulated}) is None
    assert flux2.recognise(shapes | {"guidance_in.in_layer.weight": (1, 1)}) is None


def test_a_file_of_flux2_is_that_of_a_published_model():
    network = Flux2Config(num_layers=2)
    assert flux2.recognise(shapes_of(flux2, network)) is None


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("single_blocks.0.norm.query_norm.weight", "single_blocks.0.norm.query_norm.scale"),
        ("single_blocks.0.norm.key_norm.weight", "single_blocks.0.norm.key_norm.scale"),
        ("single_blocks.0.norm.key_norm.scale", "single_blocks.0.norm.key_norm.scale"),
        ("single_blocks.0.linear1.weight", "single_blocks.0.linear1.weight"),
    ],
)
def test_norms_that_comfyui_has_written(name, ours):
    assert flux2.rename_norm(name) == ours


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("flux2-klein-4b", "text_encoders.qwen3_4b.transformer.model."),
        ("flux2-klein-9b", "text_encoders.qwen3_8b.transformer.model."),
        ("flux2-tiny", "text_encoders.qwen3_4b.transformer.model."),
    ],
)
def test_text_encoders_of_flux2_in_a_checkpoint(name, prefix):
    config = preset(name)
    text = replace(config.text_encoder, num_hidden_layers=1)
    tables = flux2.list_other_networks(replace(config, text_encoder=text))
    assert [*tables] == ["vae", "text_encoder"]
    assert all(entry.name.startswith(prefix) for entry in tables["text_encoder"].values())
    for ours, entry in tables["text_encoder"].items():
        assert entry.name == prefix + ours
    assert all(entry.name.startswith("vae.") for entry in tables["vae"].values())


def test_the_first_layer_of_a_block_of_one_stream_stacks_four():
    [_, single] = flux.list_blocks(10).values()
    rows = {name: layer.rows for name, layer in single[1].items() if not isinstance(layer, str)}
    assert rows == {
        "attn.to_q": (0, 70),
        "attn.to_k": (10, 70),
        "attn.to_v": (20, 70),
        "proj_mlp": (30, 70),
    }


def test_layers_of_xlabs_have_their_third_of_a_stack():
    network = replace(NETWORKS[flux], num_layers=1, num_single_layers=2)
    table = flux.xlabs_layers(replace(preset("flux-dev"), denoiser=network))
    found = {name: (entry.name, entry.third) for name, entry in table.items()}
    block, single = "double_blocks.0.processor", "single_blocks.1.processor"
    ours, one = "transformer_blocks.0.attn", "single_transformer_blocks.1"
    want = {
        f"{ours}.to_q.weight": (f"{block}.qkv_lora1.weight", 0),
        f"{ours}.to_v.weight": (f"{block}.qkv_lora1.weight", 2),
        f"{ours}.add_k_proj.weight": (f"{block}.qkv_lora2.weight", 1),
        f"{ours}.to_out.0.weight": (f"{block}.proj_lora1.weight", None),
        f"{ours}.to_add_out.weight": (f"{block}.proj_lora2.weight", None),
        f"{one}.attn.to_k.weight": (f"{single}.qkv_lora.weight", 1),
        f"{one}.proj_out.weight": (f"{single}.proj_lora.weight", None),
    }
    assert {name: found[name] for name in want} == want
    assert len(found) == 3 + 3 + 1 + 1 + 2 * (3 + 1)
    assert all(table[name].shape == (384, 384) for name in found if "proj_out" not in name)


def test_halves_of_the_last_layers_of_sd3_are_exchanged():
    config = preset("sd3-tiny")
    table = sd3.original_table(config)
    swapped = {name.rpartition(".")[0] for name, entry in table.items() if entry.form == "swapped"}
    last = config.denoiser.num_layers - 1
    assert swapped == {f"transformer_blocks.{last}.norm1_context.linear", "norm_out.linear"}
    assert {entry.form for entry in table.values()} == {"", "swapped"}
    assert table["pos_embed.pos_embed"].name == "model.diffusion_model.pos_embed"
    thirds = {
        name.split(".")[-2]: (entry.name.rpartition(".")[0], entry.third)
        for name, entry in table.items()
        if name.startswith("transformer_blocks.0.attn.") and entry.third is not None
    }
    block = "model.diffusion_model.joint_blocks.0"
    image, text = f"{block}.x_block.attn.qkv", f"{block}.context_block.attn.qkv"
    assert thirds == {f"to_{x}": (image, i) for i, x in enumerate("qkv")} | {
        f"add_{x}_proj": (text, i) for i, x in enumerate("qkv")
    }
