"""Groups of layers that a LoRA changes, and the small models and runs of golden cases."""

from __future__ import annotations

import math
import re

import pytest

from ldmref import modes
from ldmref.cases.golden_models import golden_config, golden_model, golden_runs
from ldmref.cases.trace_runs import golden_traces
from ldmref.models.family import BUILT_IN, find_family
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.validate import check_config

FAMILIES = {name: find_family(name) for name in BUILT_IN}
NO_GROUP = re.compile(  # time, modulations, the last layer, and the first one of a U-Net
    r"norm|modulation|adaLN|(^|[_.])time|^t_embedder|^proj_out|final_layer|^conv_(in|out)|projector"
)
ATTENTION = re.compile(r"\.attn\w*\.(?!norm)|\.attention\.(?!norm)")
FEED_FORWARD = re.compile(r"\.ff(_context)?\.|\.feed_forward\.|\.img_mlp\.|single_\w+\.\d+\.proj_")


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


# -- golden cases ---------------------------------------------------------------------------------


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
