"""Latent diffusion with a U-Net: files of ControlNets, and what pipelines are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families import latent_diffusion, unet
from ldmref.io.diffusers.folder import diffusers_table
from ldmref.models import preset
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.denoiser_config import UNetConfig
from ldmref.ports import latent_diffusion as unet_pipelines

SD15, SDXL = preset("sd15"), preset("sdxl")
SMALL = UNetConfig(
    in_channels=5, out_channels=4, block_out_channels=(8, 12, 16), layers_per_block=1,
    attention_levels=(True, True, False), num_heads=(2, 2, 2),
    transformer_layers_per_block=(1, 1, 1), cross_attention_dim=10, norm_num_groups=4,
)  # fmt: skip


# -- ControlNets ----------------------------------------------------------------------------------


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


# -- diffusers' pipelines -------------------------------------------------------------------------


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
