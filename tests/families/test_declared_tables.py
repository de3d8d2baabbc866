"""Defaults and tables of the families against the classes of diffusers and transformers."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re

import pytest

from ldmref import modes
from ldmref.cases.golden_models import golden_config, golden_model, golden_runs
from ldmref.cases.trace_runs import golden_traces
from ldmref.families.qwen3 import files as qwen3_files
from ldmref.models import preset
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.family import list_families
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.validate import check_config

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


# -- pipelines and small models -------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_pipelines_and_networks_are_classes_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    calls = FAMILIES[name].diffusers
    assert calls.pipelines and calls.modules
    for kind in (*calls.pipelines, *calls.modules):
        assert inspect.isclass(getattr(diffusers, kind, None)), kind


SMALL_NETWORKS = {  # parameters of the denoiser, the autoencoder and the text encoders
    "sd15": (61948, 27395, 7344), "sd2-base": (61948, 27395, 7344),
    "sd2-v": (61948, 27395, 7344), "sdxl": (97900, 27395, 10624, 10752),
    "ldm-text2img-large": (61948, 27395, 8272), "ldm-text2img256": (72496, 27035, 8272),
    "emoji": (47456, 27395, 7344), "emoji-128": (67928, 27395, 7344),
    "sd3-medium": (24304, 27303, 13040, 5432, 45064),
    "sd35-medium": (36016, 27303, 13040, 5432, 45064),
    "flux-dev": (77920, 27303, 12784, 17764), "flux-schnell": (71152, 27303, 12784, 17764),
    "z-image": (325076, 27303, 20496), "z-image-turbo": (325076, 27303, 20496),
    "flux2-klein-4b": (102464, 27427, 23908), "flux2-klein-base-4b": (102464, 27427, 23908),
    "flux3-klein-base": (99232, 27427, 20496), "flux3-klein": (108448, 27427, 20496),
    "krea-2": (68047, 41503, 27320), "krea-2-turbo": (68047, 41503, 27320),
    "qwen-image-2.1": (25892, 108276, 20496), "qwen-image-2.1-turbo": (25892, 108276, 20496),
}  # fmt: skip


def test_small_models_of_golden_cases_keep_their_sizes():
    """Suites that ports have stored, and their results, are of these networks."""
    found = {}
    for name in dict.fromkeys(run.preset for run in golden_runs()):
        config = golden_config(name)
        check_config(config)
        specs = model_spec(config).values()
        found[name] = tuple(sum(map(math.prod, flatten(spec).values())) for spec in specs)
    assert found == SMALL_NETWORKS


@pytest.mark.parametrize("trace", [*golden_traces()], ids=lambda trace: trace.name)
def test_golden_runs_are_accepted_by_their_models(trace):
    """Their samplers, settings and words are known, and no two of a model are the same."""
    model = golden_model(trace.family)
    assert trace.mode in ("txt2img", "img2img", "inpaint")
    same = [x for x in golden_traces((trace.family,)) if x.name == trace.name]
    assert len(same) == 1
    params = {k: v for k, v in trace.params.items() if k not in ("strength", "width", "height")}
    modes.plan("txt2img", model, **params, width=16, height=16)  # or it raises an error
