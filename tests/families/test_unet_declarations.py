"""Latent diffusion with a U-Net: inputs, residuals, ControlNets, coders and pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families import latent_diffusion, unet
from ldmref.io.diffusers.folder import diffusers_table
from ldmref.models import preset
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.declared import BATCH, HEIGHT, WIDTH, CallSize
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.params import flatten
from ldmref.models.text_config import TextConfig
from ldmref.models.unet import unet_spec
from ldmref.ports import latent_diffusion as unet_pipelines
from ldmref.ports.arguments import first_layers_of, names_of
from ldmref.training.family_rules import list_zeros

SD15, SDXL = preset("sd15"), preset("sdxl")
SMALL = UNetConfig(
    in_channels=5, out_channels=4, block_out_channels=(8, 12, 16), layers_per_block=1,
    attention_levels=(True, True, False), num_heads=(2, 2, 2),
    transformer_layers_per_block=(1, 1, 1), cross_attention_dim=10, norm_num_groups=4,
)  # fmt: skip
BARE = replace(SMALL, cross_attention_dim=0, attention="self", attention_levels=(False,) * 3)


# -- inputs ---------------------------------------------------------------------------------------


def test_inputs_of_a_unet():
    sample, time, text = unet.unet_inputs(SMALL)
    assert (sample.argument, sample.role, sample.content) == ("x", "sample", "normal")
    assert sample.shape == (BATCH, 5, HEIGHT, WIDTH)
    assert (time.argument, time.role, time.content) == ("t", "timestep", "timesteps")
    assert time.shape == (CallSize("timesteps"),)
    assert (text.argument, text.role) == ("context", "encoder_hidden_states")
    assert text.shape == (BATCH, CallSize("tokens", label="sequence_length"), 10)
    made = unet.describe_unet(SMALL)
    assert names_of(made, sample) == ("sample", "input", "0", "x")
    assert names_of(made, time) == ("timestep", "t", "timesteps")
    assert names_of(made, text) == ("encoder_hidden_states", "context")
    assert first_layers_of(made, text) == (("attn2.to_k", "input"),)
    assert first_layers_of(made, time) == (("time_proj", "input"),)
    assert [x.argument for x in unet.unet_inputs(BARE)] == ["x", "t"]


def test_inputs_of_a_unet_that_reads_sizes():
    added = replace(
        SMALL,
        addition_embed_type="text_time",
        addition_time_embed_dim=7,
        projection_class_embeddings_input_dim=50,
    )
    *_, pooled, sizes = unet.unet_inputs(added)
    assert (pooled.argument, pooled.role, pooled.shape) == ("pooled", "text_embeds", (BATCH, 8))
    made = unet.describe_unet(added)
    assert names_of(made, pooled) == ("text_embeds", "added_cond_kwargs.text_embeds", "text_time.0")
    assert names_of(made, sizes) == ("time_ids", "added_cond_kwargs.time_ids", "text_time.1")
    assert (sizes.argument, sizes.role, sizes.shape) == ("sizes", "time_ids", (BATCH, 6))
    assert sizes.content == "sizes"
    assert [x.argument for x in unet.unet_inputs(replace(added, cross_attention_dim=0))] == [
        "x",
        "t",
        "pooled",
        "sizes",
    ]


def test_a_unet_is_declared():
    made = unet.describe_unet(SMALL)
    assert (made.name, made.params, made.exported, made.numbered) == ("unet", "unet", "unet", True)
    assert made.settings == {"config": SMALL} and made.description == "U-Net"
    assert [tuple(x) for x in made.outputs] == [("", "out_sample")]
    assert made.inputs == tuple(unet.unet_inputs(SMALL))
    assert made.text_attention.layers == (".attn2",)
    assert flatten(made.spec()) == flatten(unet_spec(SMALL))
    assert made.steerable.parts == {"down": "down_blocks.", "mid": "mid_block.", "up": "up_blocks."}
    guided = made.steerable.attention
    assert guided.layers == ("attn2",) and guided.blend == 0.5 and guided.order == 1
    assert guided.prompts == {"": ("context", "pooled", "sizes")} and guided.repeated == {}
    assert guided.texts == {"spatial_transformer": ("context",)}


def test_a_unet_without_text_has_no_context():
    made = unet.describe_unet(BARE)
    assert made.settings == {"config": BARE, "context": None}
    assert made.text_attention is None and made.steerable.attention is None
    assert made.steerable.parts == unet.PARTS


def test_a_flow_map_reads_the_end_of_a_step():
    made = unet.describe_unet(replace(SMALL, flow_map=True))
    end = made.inputs[-1]
    assert (end.argument, end.role, end.content) == ("t_next", "target_timestep", "ends")
    assert end.shape == (CallSize("timesteps"),)
    assert len(made.inputs) == len(unet.describe_unet(SMALL).inputs) + 1


# -- ControlNets ----------------------------------------------------------------------------------


def test_residuals_follow_every_skip_connection():
    found = unet.unet_residuals(SMALL)
    want = [(8, 1), (8, 1), (8, 2), (12, 2), (12, 4), (16, 4)]
    assert len(found.down) == len(want)
    for i, (x, (channels, over)) in enumerate(zip(found.down, want, strict=True)):
        end = f"_{over}" if over > 1 else ""
        sides = (
            CallSize("height", over=over, label=f"height{end}"),
            CallSize("width", over=over, label=f"width{end}"),
        )
        assert x.shape == (BATCH, channels, *sides)
        assert (x.argument, x.role) == ("control", f"control.down.{i}")
        assert x.exported == f"down_block_additional_residuals.{i}"
    lowest = unet.unet_residuals(SD15.unet).mid
    assert lowest.shape[2] == CallSize("height", over=8, label="height_8")
    assert found.mid.role == "control.mid" and found.mid.shape == found.down[-1].shape
    assert found.mid.exported == "mid_block_additional_residual"


def test_a_controlnet_of_a_unet_is_declared():
    net = ControlNetConfig(SMALL, conditioning_channels=2)
    made = unet.describe_controlnet(net)
    assert (made.name, made.params, made.exported) == ("controlnet",) * 3 and made.numbered
    assert made.settings == {"config": net}
    assert [x.argument for x in made.inputs] == ["x", "t", "context", "hint"]
    hint = made.inputs[3]
    assert hint.shape == (BATCH, 8, HEIGHT, WIDTH) and hint.content == "normal"
    assert names_of(made, hint) == ("hint",)
    assert first_layers_of(made, hint) == (("controlnet_cond_embedding", "output"),)
    down = [(f"down.{i}", f"down_block_res_samples.{i}") for i in range(6)]
    assert [tuple(x) for x in made.outputs] == [*down, ("mid", "mid_block_res_sample")]
    assert flatten(made.spec()) == flatten(controlnet_spec(net))
    bare = unet.describe_controlnet(ControlNetConfig(BARE))
    assert [x.argument for x in bare.inputs] == ["x", "t", "hint"]
    assert bare.settings == {"config": ControlNetConfig(BARE), "context": None}
    added = replace(SMALL, addition_embed_type="text_time")
    made = unet.describe_controlnet(ControlNetConfig(added))
    assert [x.argument for x in made.inputs] == ["x", "t", "context", "hint", "pooled", "sizes"]
    made = unet.describe_controlnet(ControlNetConfig(replace(added, cross_attention_dim=0)))
    assert [x.argument for x in made.inputs] == ["x", "t", "hint", "pooled", "sizes"]
    assert made.description == "ControlNet"


def test_the_encoder_of_hints_is_declared():
    net = ControlNetConfig(
        SMALL, conditioning_channels=2, conditioning_embedding_out_channels=(4, 8, 16)
    )
    hinting, made = unet.UNET_CONTROL.networks(net)
    assert (hinting.name, hinting.params, hinting.settings) == ("controlnet.hint", "controlnet", {})
    assert made.name == "controlnet"
    (hint,) = hinting.inputs
    assert hint.shape == (BATCH, 2, CallSize("height", 4), CallSize("width", 4))
    assert (hint.argument, hint.role, hint.content) == ("hint", "hint", "hint")
    assert names_of(hinting, hint) == ("hint", "input", "0")
    assert [tuple(x) for x in hinting.outputs] == [("", "features")]
    assert flatten(hinting.spec()) == flatten(controlnet_spec(net))


def test_the_control_of_a_unet():
    control = unet.UNET_CONTROL
    assert [*control.classes] == ["ControlNetModel"]
    assert control.default(SDXL) == ControlNetConfig(SDXL.unet)
    assert control.hole(ControlNetConfig(SMALL)) == -1.0
    assert control.inputs(SD15) == unet.unet_residuals(SD15.unet)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, []),
        ({"block_out_channels": (320, 640, 1280, 1281)}, ["block_out_channels"]),
        ({"layers_per_block": 3}, ["layers_per_block"]),
        ({"cross_attention_dim": 1024}, ["cross_attention_dim"]),
        ({"class_embed_type": "text"}, ["class_embed_type"]),
        ({"addition_embed_type": "text_time"}, ["addition_embed_type"]),
        ({"in_channels": 9}, ["in_channels"]),
        ({"out_channels": 9}, []),
    ],
)
def test_a_controlnet_must_fit_its_model(changes, want):
    net = ControlNetConfig(replace(SD15.unet, **changes))
    found = [*unet.list_differences(SD15, net)]
    assert [name for name, _, _ in found] == want
    for name, have, wanted in found:
        assert have == changes[name] and wanted == getattr(SD15.unet, name)


def test_the_hint_of_a_controlnet_must_fit():
    net = ControlNetConfig(
        SD15.unet, conditioning_channels=4, conditioning_embedding_out_channels=(16, 32)
    )
    (first, second) = unet.list_differences(SD15, net)
    assert first == ("conditioning_channels", 4, 3) and second[1:] == (2, 8)
    inpainting = preset("sd15-inpainting")
    assert not [*unet.list_differences(inpainting, ControlNetConfig(SD15.unet))]


def test_files_of_controlnets_may_be_those_of_every_unet():
    known = [*unet.list_candidates({}, None)]
    found = [net.unet.cross_attention_dim for net, _ in known]
    assert found == [768, 1024, 2048]
    ours = replace(SMALL, in_channels=9)
    ((net, table),) = unet.list_candidates({}, ours)
    assert net == ControlNetConfig(replace(SMALL, in_channels=4))
    names = {entry.name for entry in table.values()}
    assert any("input_hint_block" in name for name in names)
    shapes = {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}
    ((same, theirs),) = unet.list_candidates(shapes, ours)
    assert same == net and theirs == diffusers_table(controlnet_spec(net))


# -- text encoders and autoencoders ---------------------------------------------------------------


def test_networks_are_in_the_order_of_a_run():
    names = [network.name for network in latent_diffusion.networks_of(SD15)]
    assert names == ["text_encoder", "unet", "vae.decode", "vae.encode"]
    semantic = preset("ldm-semantic")
    networks = latent_diffusion.networks_of(semantic)
    assert [x.name for x in networks] == ["unet", "cond_stage", "vae.decode", "vae.encode"]
    rescaler = networks[1]
    assert rescaler.params == rescaler.exported == "cond_stage"
    assert rescaler.settings == {"factor": semantic.vae.factor}
    (onehot,) = rescaler.inputs
    sides = (CallSize("height", semantic.vae.factor), CallSize("width", semantic.vae.factor))
    assert onehot.shape == (BATCH, semantic.segmentation_classes, *sides)
    assert (onehot.argument, onehot.role, onehot.content) == ("onehot", "onehot", "classes")
    assert names_of(rescaler, onehot) == ("onehot", "input", "x", "0")
    assert [tuple(x) for x in rescaler.outputs] == [("", "sample")]


@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_a_text_encoder_is_declared(projection, masked):
    config = TextConfig(
        vocab_size=11,
        max_position_embeddings=7,
        projection_dim=projection,
        use_attention_mask=masked,
    )
    made = latent_diffusion.describe_text_encoder("text_encoder_2", config)
    assert (made.name, made.params, made.exported) == ("text_encoder_2",) * 3
    assert made.settings == {"config": config} and not made.numbered
    ids = made.inputs[0]
    assert (ids.argument, ids.role, ids.content) == ("ids", "input_ids", "ids")
    assert ids.shape == (BATCH, 7) and ids.below == 11
    assert names_of(made, ids) == ("input_ids", "input", "0", "ids")
    tables = ("embeddings", "token_embedding", "shared", "embed_tokens")
    read = tuple((table, role) for table in tables for role in ("ids", "input"))
    assert first_layers_of(made, ids) == read
    assert len(made.inputs) == 1 + masked
    if masked:
        mask = made.inputs[1]
        assert (mask.argument, mask.role, mask.content) == ("mask", "attention_mask", "mask")
        assert mask.shape == (BATCH, 7)
        assert names_of(made, mask) == ("attention_mask", "mask")
    want = [("", "hidden_states"), ("pooled", "text_embeds")]
    assert [tuple(x) for x in made.outputs] == (want if projection else [("", "last_hidden_state")])
    name = "text_encoder_pooled" if projection else "text_encoder"
    assert made.function.__name__ == name
    assert ("pooled" in made.description) == bool(projection)
    assert (f"({config.model_type})" in made.description) != bool(projection)


def test_coders_have_latents_and_images():
    vae = preset("flux2-klein-4b").vae
    decoder, encoder = latent_diffusion.describe_autoencoder(vae)
    for made, name in ((decoder, "decode"), (encoder, "encode")):
        assert (made.name, made.params) == (f"vae.{name}", "vae")
        assert made.settings == {"config": vae} and made.exported == f"vae_{name}r"
        assert made.description.startswith(f"{name}r of a ")
    kind = autoencoder_of(vae)
    assert decoder.function is kind.decode and encoder.function is kind.encode
    assert isinstance(decoder.inputs[0].shape[1], int)
    small, _ = latent_diffusion.describe_autoencoder(SD15.vae)
    assert small.inputs[0].shape == (BATCH, 4, HEIGHT, WIDTH)
    assert decoder.layers == ("decoder", "post_quant_conv")
    assert encoder.layers == ("encoder", "quant_conv")
    (z,), (image,) = decoder.inputs, encoder.inputs
    sides = (CallSize("height", 2), CallSize("width", 2))
    assert (z.argument, z.role, z.exported) == ("z", "latents", "latent_sample")
    assert z.shape == (BATCH, 32, *sides) and z.content == "normal"
    assert names_of(decoder, z) == ("latents", "input", "z", "x", "0", "sample")
    assert (image.argument, image.role, image.content) == ("image", "image", "image")
    assert image.shape == (BATCH, 3, CallSize("height", 16), CallSize("width", 16))
    assert image.exported == "sample"
    assert names_of(encoder, image) == ("image", "input", "x", "0", "sample")
    assert [tuple(x) for x in decoder.outputs] == [("", "sample")]
    assert [tuple(x) for x in encoder.outputs] == [
        ("mean", "latent_sample"),
        ("logvar", "latent_logvar"),
    ]


# -- conditions, training and golden cases --------------------------------------------------------


def test_sdxl_reads_the_size_of_an_image():
    ops = get_backend("numpy", dtype="float32")
    states, pooled = np.zeros((2, 3, 4)), np.ones((2, 5))
    found = latent_diffusion.condition_on_text(ops, SDXL, states, pooled, (640, 480))
    assert found.context is states and found.pooled is pooled
    assert found.sizes.tolist() == [[480, 640, 0, 0, 480, 640]] * 2
    assert found.sizes.dtype == getattr(np, ops.state_dtype)
    bare = latent_diffusion.condition_on_text(ops, SD15, states, pooled, (640, 480))
    assert bare.context is states and bare.pooled is None and bare.sizes is None


def test_last_layers_begin_at_zero():
    with_text = ("conv2.weight", "proj_out.weight", "conv_out.weight")
    assert list_zeros(SD15) == with_text
    alone = list_zeros(preset("ldm-unconditional"))
    assert alone == (*with_text, "to_out.0.weight")


def test_groups_of_a_lora():
    targets = latent_diffusion.LORA_TARGETS
    assert targets["projections"] == (".proj_in", ".proj_out")
    ends = (".conv1", ".conv2", ".conv_shortcut", "samplers.0.conv")
    assert targets["convolutions"] == ends


# -- diffusers' pipelines -------------------------------------------------------------------------


def test_pipelines_of_stable_diffusion():
    one = unet_pipelines.describe_pipeline(SD15)
    assert one.path == "diffusers:StableDiffusionPipeline"
    assert one.settings == {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    for zeros in (False, True):
        two = unet_pipelines.describe_pipeline(replace(SDXL, zero_empty_negative=zeros))
        assert two.path == "diffusers:StableDiffusionXLPipeline"
        assert two.settings == {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}


def test_a_model_without_a_pipeline():
    with pytest.raises(UsageError) as caught:
        unet_pipelines.describe_pipeline(preset("ldm-unconditional"))
    assert caught.value.code == "E-PASSPORT"


@pytest.mark.parametrize("name", ["ldm-text2img-large", "ldm-text2img256"])
def test_the_pipeline_of_latent_diffusion_cannot_run_a_kit(name):
    config = preset(name)
    assert unet_pipelines.describe_pipeline(config).path == "diffusers:LDMTextToImagePipeline"
    with pytest.raises(UsageError, match="reads 77 tokens") as caught:
        unet_pipelines.PARTS.require_kit(config)
    assert caught.value.code == "E-PASSPORT"


def test_a_unet_that_adds_the_text_to_the_time_has_no_pipeline():
    config = replace(SD15, denoiser=replace(SD15.unet, class_embed_type="text"))
    with pytest.raises(UsageError, match="adds the text"):
        unet_pipelines.describe_pipeline(config)


def test_networks_and_schedulers_of_pipelines():
    made = unet_pipelines.describe_denoiser(SD15)
    assert made.path == "diffusers:UNet2DConditionModel" and "_class_name" not in made.settings
    assert made.settings["cross_attention_dim"] == 768
    made = unet_pipelines.describe_scheduler(SD15, "ddim")
    assert made.path == "diffusers:DDIMScheduler" and "_class_name" not in made.settings
    assert made.settings["beta_end"] == SD15.scheduler.beta_end
    with pytest.raises(UsageError, match="no sampler") as caught:
        unet_pipelines.describe_scheduler(SD15, "no sampler")
    assert "ddim" in (caught.value.hint or "")


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("model", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_requests_leave_the_size_to_the_latents(model, zeros, negative):
    asked = {"width": 64, "height": 32, "negative_prompt": negative}
    want = {"width": None, "height": None}
    if model is SDXL:
        want |= {"original_size": (32, 64), "target_size": (32, 64)}
    if zeros and not negative:
        want["negative_prompt"] = None
    config = replace(model, zero_empty_negative=zeros)
    assert unet_pipelines.PARTS.request(config, asked) == want
