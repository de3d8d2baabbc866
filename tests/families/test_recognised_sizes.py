"""Models that single files of transformers belong to, from small shapes."""

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


def shapes_of(file, network):
    """Return the shapes of a file of a transformer, without a prefix."""
    return list_stored_shapes(file.original_table(ModelConfig(denoiser=network), prefix=""))


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
