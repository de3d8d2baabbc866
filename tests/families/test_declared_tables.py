"""Defaults and tables of the families against the classes of diffusers and transformers."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from ldmref.families.qwen3 import files as qwen3_files
from ldmref.models import preset
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.family import list_families
from ldmref.models.model import model_spec
from ldmref.models.params import flatten

FAMILIES = {family.name: family for family in list_families()}
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
    "AutoencoderKLFlux2": {"latent_channels": 128},  # of four cells
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
NO_GROUP = re.compile(  # time, modulations, the last layer, and the first one of a U-Net
    r"norm|modulation|adaLN|(^|[_.])time|^t_embedder|^proj_out|final_layer|^conv_(in|out)|projector"
)
ATTENTION = re.compile(r"\.attn\w*\.(?!norm)|\.attention\.(?!norm)")
FEED_FORWARD = re.compile(r"\.ff(_context)?\.|\.feed_forward\.|\.img_mlp\.|single_\w+\.\d+\.proj_")


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
    diffusers = pytest.importorskip("diffusers")
    family = FAMILIES[name]
    for kind in family.diffusers.modules:
        found = differing_defaults(family.denoiser, getattr(diffusers, kind))
        assert found == OTHER_DEFAULTS.get(name, {})
    fields = {field.name: field.default for field in dataclasses.fields(family.denoiser)}
    assert {key: fields[key] for key in UNKNOWN_TO_DIFFUSERS[name]} == UNKNOWN_TO_DIFFUSERS[name]


@pytest.mark.parametrize("name", ["sd15", "flux2-klein-4b", "krea-2", "qwen-image-2.1"])
def test_defaults_of_autoencoders_are_those_of_diffusers_classes(name):
    pytest.importorskip("diffusers")
    vae = preset(name).vae
    made = autoencoder_of(vae).module(vae)
    kind = made.path.partition(":")[2]
    import diffusers

    found = differing_defaults(type(vae), getattr(diffusers, kind))
    assert found == OTHER_DEFAULTS.get(kind, {})


def test_defaults_of_qwen3_are_those_of_transformers():
    """Of fields that a file of a text encoder omits."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen3Config()
    assert {name: getattr(theirs, name) for name in qwen3_files.DEFAULTS} == qwen3_files.DEFAULTS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_has_the_group_that_its_place_says(name):
    """`lora_layers="attention"` takes the projections of every attention, and nothing else."""
    family = FAMILIES[name]
    config = family.presets[next(iter(family.presets))]
    network = f"{family.denoiser.network}."
    shapes = flatten(model_spec(config))
    layers = [
        path.removeprefix(network).removesuffix(".weight")
        for path, shape in shapes.items()
        if path.startswith(network) and path.endswith(".weight") and len(shape) > 1
    ]
    targets = family.lora.targets
    convolutions = ["convolutions"] if name == "latent-diffusion" else []
    assert [*targets] == ["attention", "feed_forward", "projections", *convolutions]
    for layer in layers:
        groups = [group for group, ends in targets.items() if layer.endswith(tuple(ends))]
        if ATTENTION.search(f".{layer}"):
            assert groups == ["attention"], layer
        elif FEED_FORWARD.search(layer):
            assert groups == ["feed_forward"], layer
        elif NO_GROUP.search(layer):
            assert not groups, layer
        else:
            assert groups in (["projections"], ["convolutions"]), layer
