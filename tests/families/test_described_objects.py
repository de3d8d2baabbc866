"""What families say of the networks and pipelines of diffusers holds for the installed ones."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.cases.shrink import shrink
from ldmref.families import sd3
from ldmref.families.autoencoders import flux2 as flux2_vae
from ldmref.families.autoencoders import qwen_image, qwen_image_21_config
from ldmref.families.combined_files import PROJECTION, list_other_networks
from ldmref.families.qwen3 import files as qwen3_files
from ldmref.families.qwen_image_21 import files as qwen_image_21_files
from ldmref.families.z_image import files as z_image_files
from ldmref.models import preset
from ldmref.models.family import BUILT_IN, family_of, find_family
from ldmref.passport import kit_families
from ldmref.ports import flux3 as flux3_pipelines
from ldmref.ports.network_port import find_autoencoder_port
from ldmref.ports.port import find_port, port_of

pytest.importorskip("diffusers")

import diffusers
import sd3_networks
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

FAMILIES = {name: find_family(name) for name in BUILT_IN}
ASKED = {"steps": 4, "cfg_scale": 5.0, "sampler": "euler"}
TRANSFORMERS = [
    name
    for name in kit_families()
    if preset(name).denoiser.network == "transformer" and port_of(family_of(preset(name))).parts
]
RULES = [  # of arguments that a class has and ldmref reads with one value alone
    (z_image_files.PLAIN, "ZImageTransformer2DModel"),
    (qwen_image_21_files.PLAIN, "QwenImage21Transformer2DModel"),
    (flux2_vae.PLAIN, "AutoencoderKLFlux2"),
    (qwen_image.PLAIN, "AutoencoderKLQwenImage"),
    (qwen_image_21_config.PLAIN, "AutoencoderKLQwenImage21"),
]


OTHER_DEFAULTS = {  # ours, which are those of a published model, where a class has others or none
    "latent-diffusion": {  # of Stable Diffusion 1
        "sample_size": 64, "transformer_layers_per_block": (1, 1, 1, 1),
        "cross_attention_dim": 768, "class_embed_type": "", "addition_embed_type": "",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
    "sd3": {"num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 192, "qk_norm": ""},
    "flux": {"in_channels": 16, "out_channels": 16},  # of the latents, without the patches
    "flux2": {  # of klein 4B
        "out_channels": 128, "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
        "joint_attention_dim": 7680, "guidance_embeds": False,
    },
    "krea2": {"in_channels": 16},
    # Of four cells each.
    "AutoencoderKLFlux2": {"latent_channels": 128, "decoder_block_out_channels": ()},
    "AutoencoderKL": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
                      "shift_factor": 0.0},
}  # fmt: skip
UNKNOWN_TO_DIFFUSERS = {  # with the values of the published models
    "latent-diffusion": {"num_heads": (8, 8, 8, 8), "resnet_updown": False,
                         "attention": "cross", "flow_map": False},
    "sd3": {"empty_tokens": 256},
    "flux": {"sample_size": 128}, "z-image": {"out_channels": 16, "sample_size": 128},
    "flux2": {"sample_size": 64}, "flux3": {"out_channels": 128, "sample_size": 64},
    "krea2": {"out_channels": 16, "sample_size": 128}, "qwen-image-2.1": {"sample_size": 64},
}  # fmt: skip


def parameters_of(path):
    """Return the names of the arguments of a class or function."""
    module, _, name = path.partition(":")
    return {*inspect.signature(getattr(importlib.import_module(module), name)).parameters}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_described_objects_have_the_arguments_that_are_set(name):
    config = preset(name)
    parts = port_of(family_of(config)).parts
    described = [parts.pipeline(config), parts.denoiser(config), parts.scheduler(config, "euler")]
    described += [find_autoencoder_port(config.vae.kind).module(config.vae)]
    described += parts.more(config, ASKED).values()
    for made in described:
        known = parameters_of(made.path)
        assert {*made.arguments} <= known, made.path
        assert not {*made.own} & (known - {*made.settings}), made.path


@pytest.mark.parametrize(("rules", "kind"), RULES, ids=[kind for _, kind in RULES])
def test_arguments_with_one_value_are_those_of_the_class(rules, kind):
    known = inspect.signature(getattr(diffusers, kind)).parameters
    assert {*rules} <= {*known}


def test_requests_have_the_number_of_tokens_of_t5():
    config = preset("sd35-medium")
    request = port_of(family_of(config)).parts.request
    assert request(config, ASKED) == {"max_sequence_length": 256}
    assert request(replace(config, text_encoder_3=None), ASKED) == {}
    dev = preset("flux-dev")
    assert find_port("flux").parts.request(dev, ASKED)["max_sequence_length"] == 512


def test_calls_of_flux2_may_lack_tokens_or_their_positions():
    read = find_port("flux2").inputs
    tokens, ids = torch.ones(1, 4, 16), torch.zeros(4, 4)
    for given in ({"hidden_states": tokens}, {"img_ids": ids}, {}):
        found = read({**given, "timestep": torch.tensor([0.5])})
        assert found.keys() == {*given, "timestep"} and found["timestep"].item() == 500.0


STATES = {  # the layers that a transformer reads, of eight and the embeddings
    "z-image": (7,),
    "qwen-image-2.1": (8,),
    "krea-2": (2, 5),
    "flux3-klein": (2, 4, 7),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_hidden_states_of_pipelines_are_earlier_by_what_is_skipped(name, skip, monkeypatch):
    monkeypatch.setattr(flux3_pipelines, "LAYERS", STATES["flux3-klein"])
    states = [torch.full((1, 2, 3), float(i)) for i in range(9)]
    pipe = SimpleNamespace(text_encoder_select_layers=STATES["krea-2"])
    read = port_of(family_of(preset(name))).states
    found = read(SimpleNamespace(hidden_states=states), skip, pipe)
    assert found[0, 0, ::3].tolist() == [layer - skip for layer in STATES[name]]


def test_pipelines_of_qwen_image_have_the_sizes_of_the_model():
    config = preset("qwen-image-2.1")
    times = SimpleNamespace(freqs=torch.ones(3))
    embed = SimpleNamespace(time_text_embed=SimpleNamespace(time_proj=times))
    pipe = SimpleNamespace(vae=SimpleNamespace(config=config.vae), transformer=embed)
    port_of(family_of(config)).parts.adapt(pipe)
    assert pipe.vae_scale_factor == config.vae.factor == 16
    assert pipe._drop_idx == family_of(config).text.templates(config)["text_encoder"].dropped
    assert torch.equal(times.freqs, torch.ones(3))


def test_operations_of_sd3_are_those_that_torch_counts():
    """Without the attention, which torch does not count on a CPU."""
    config = replace(shrink(preset("sd35-medium")), denoiser=sd3_networks.config_of("3.5 medium"))
    net, (image, text) = config.denoiser, sd3.count_tokens(config, 24, 16)
    side = config.vae.factor
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sd3_networks.make_transformer("3.5 medium").float()(
            hidden_states=torch.zeros(1, net.in_channels, 16 // side, 24 // side),
            encoder_hidden_states=torch.zeros(1, text, net.joint_attention_dim),
            pooled_projections=torch.zeros(1, net.pooled_projection_dim),
            timestep=torch.tensor([500.0]),
        )
    attention = 4 * net.num_layers * (image + text) ** 2 * net.width
    attention += 4 * len(net.dual_attention_layers) * image**2 * net.width
    assert counter.get_total_flops() == sd3.count_flops(config, 24, 16) - attention


def test_the_projection_of_clip_is_the_identity_in_the_format_of_files():
    tables = list_other_networks(preset("sd3-medium"), ("clip_l", "clip_g", "t5xxl"), "vae.")
    identity = tables["text_encoder"][PROJECTION]
    assert isinstance(identity, np.ndarray) and identity.dtype == np.float32
    assert np.array_equal(identity, np.eye(768))


# -- defaults -------------------------------------------------------------------------------------


def differing_defaults(ours, theirs):
    """Return the defaults of a configuration that a class of diffusers does not have."""
    arguments = inspect.signature(theirs.__init__).parameters
    found = {}
    for field in dataclasses.fields(ours):
        if field.name in arguments:
            other = arguments[field.name].default
            if field.default != (tuple(other) if isinstance(other, list) else other):
                found[field.name] = field.default
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_of_denoisers_are_those_of_diffusers_classes(name):
    family = FAMILIES[name]
    for kind in port_of(family).modules:
        found = differing_defaults(family.denoiser, getattr(diffusers, kind))
        assert found == OTHER_DEFAULTS.get(name, {})
    fields = {field.name: field.default for field in dataclasses.fields(family.denoiser)}
    assert {key: fields[key] for key in UNKNOWN_TO_DIFFUSERS[name]} == UNKNOWN_TO_DIFFUSERS[name]


@pytest.mark.parametrize("name", ["sd15", "flux2-klein-4b", "krea-2", "qwen-image-2.1"])
def test_defaults_of_autoencoders_are_those_of_diffusers_classes(name):
    vae = preset(name).vae
    made = find_autoencoder_port(vae.kind).module(vae)
    kind = made.path.partition(":")[2]
    found = differing_defaults(type(vae), getattr(diffusers, kind))
    assert found == OTHER_DEFAULTS.get(kind, {})


def test_defaults_of_qwen3_are_those_of_transformers():
    """Of fields that a file of a text encoder omits."""
    theirs = transformers.Qwen3Config()
    assert {name: getattr(theirs, name) for name in qwen3_files.DEFAULTS} == qwen3_files.DEFAULTS


@pytest.mark.parametrize("name", FAMILIES)
def test_pipelines_and_networks_are_classes_of_diffusers(name):
    family = FAMILIES[name]
    modules = port_of(family).modules
    assert family.folders and modules
    assert {*family.folders, *modules} <= {*dir(diffusers)}
