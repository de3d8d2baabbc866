"""An exported folder opens in diffusers' pipeline of ONNX Runtime; its tensors name layers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ldmref
from ldmref.export import export_onnx
from ldmref.io.diffusers.config import (
    convert_autoencoder_config,
    convert_text_config,
    convert_unet_config,
)
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models import preset
from ldmref.ports.written import (
    SCHEDULERS,
    write_scheduler_config,
    write_text_config,
    write_unet_config,
)

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tiny"
    export_onnx(ldmref.random_model("tiny", seed=1), path)
    return path


def test_it_opens_and_makes_an_image(folder):
    pytest.importorskip("onnxruntime")
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.OnnxStableDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    ids = pipe.tokenizer(["a red cat"], padding="max_length", max_length=16).input_ids
    own = ldmref.random_model("tiny", seed=1).tokenizer.tokenize(["a red cat"]).ids
    np.testing.assert_array_equal(np.ravel(ids), np.ravel(own))
    pipe.set_progress_bar_config(disable=True)
    pipe.vae_decoder = lambda latent_sample: [latent_sample[:, :3]]
    images = pipe("a red cat", 64, 64, num_inference_steps=1, output_type="np").images
    assert images.shape == (1, 8, 8, 3) and np.isfinite(images).all()


@pytest.mark.parametrize("network", ["unet", "text_encoder", "vae_decoder"])
def test_tensors_are_called_as_layers(folder, network):
    graph = onnx.load(folder / network / "model.onnx", load_external_data=False).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names) and all(names)
    model = ldmref.random_model("tiny", seed=1)
    params = model.params["vae" if network == "vae_decoder" else network]
    produced = {name for node in graph.node for name in node.output}
    layer = {"unet": "conv_in", "vae_decoder": "decoder.conv_in"}.get(network)
    layer = layer or "text_model.encoder.layers.0.mlp.fc1"
    assert f"{layer}/output" in produced
    assert params
    operators = {node.output[0]: node for node in graph.node}
    assert operators[f"{layer}/output"].name.startswith(f"{layer}/")


# -- optimum --------------------------------------------------------------------------------------


def test_each_network_has_the_configuration_of_diffusers(folder):
    """optimum-onnx refuses a folder without them; ours are read back from them."""
    config = ldmref.random_model("tiny").config

    def read(part):
        return json.loads((folder / part / "config.json").read_text())

    assert convert_unet_config(read("unet")) == config.unet
    assert convert_text_config(read("text_encoder")) == config.text_encoder
    for part in ("vae_decoder", "vae_encoder"):
        assert convert_autoencoder_config(read(part)) == config.vae


@pytest.mark.parametrize("name", ["sd15", "sd15-inpainting", "sd2-base", "sdxl"])
def test_configurations_of_presets_are_read_back(name):
    config = preset(name)
    assert convert_unet_config(write_unet_config(config.unet)) == config.unet
    for text in config.text_encoders:
        assert convert_text_config(write_text_config(text), xl=name == "sdxl") == text


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_schedulers_are_read_as_they_were_written(sampler):
    data = {"_class_name": SCHEDULERS[sampler], "steps_offset": 1, "beta_end": 0.012}
    data |= {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    data |= {"skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample_range": 2.0}
    config = convert_scheduler_config(data)
    assert convert_scheduler_config(write_scheduler_config(config, sampler)) == config
