"""DoRA, LoHa, LoKr and several LoRAs: files of PEFT and diffusers, their weights and images."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import numpy as np
import pytest
from checkpoint_folders import load_diffusers

import ldmref
from ldmref import modes
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from small_pipelines import pipeline  # noqa: E402

PIPELINES = {
    "sd1": lambda: pipeline("sd1"),
    "sdxl": lambda: pipeline("sdxl"),
    "sd3": lambda: sd3_networks.make_pipeline("3 medium"),
    "flux": lambda: flux_networks.make_pipeline(True),
}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
KERNELS = ["conv1", "conv2", "conv_shortcut"]
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module", params=PIPELINES)
def made(request, tmp_path_factory, skip):
    """(diffusers' pipeline, the folder that it writes, the name of its denoiser)."""
    if find_spec("peft") is None:
        skip("peft", "needed for diffusers' own merging, is not installed")
    pipe = PIPELINES[request.param]()
    folder = tmp_path_factory.mktemp("adapters") / request.param
    pipe.save_pretrained(folder)
    return pipe, folder, "unet" if hasattr(pipe, "unet") else "transformer"


def targets_of(part):
    return TARGETS + (KERNELS if part == "unet" else [])


def randomise(module, seed):
    """Fill what an adapter trains with random numbers; lengths change by up to a half."""
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data.mul_(0.75 + 0.5 * torch.rand_like(parameter))
        elif "lora_" in name or "hada_" in name or "lokr_" in name:
            parameter.data.normal_().mul_(0.2)


def write_lora(pipe, part, folder, seed, **options):
    """Save a random LoRA of the denoiser with diffusers, which records PEFT's configuration."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    network = copy.deepcopy(getattr(pipe, part))
    network.add_adapter(LoraConfig(r=3, lora_alpha=2, target_modules=targets_of(part), **options))
    randomise(network, seed)
    layers = get_peft_model_state_dict(network)
    config = network.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    type(pipe).save_lora_weights(
        folder, **{f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": config}
    )


def assert_weights(folder, path, network, part, weight=1.0):
    """Compare our merged denoiser with a merged network of diffusers in float64."""
    config, flat, _ = load_diffusers(folder)
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    ours = apply_loras(config, flat, read_loras([(path, weight)]))
    changed = 0
    for name, x in network.state_dict().items():
        want = x.detach().numpy()
        got = ours[f"{part}.{name}"]
        assert np.abs(got - want).max() <= 1e-10 * max(1.0, np.abs(want).max()), name
        changed += not np.array_equal(got, flat[f"{part}.{name}"])
    assert changed > 10


@pytest.mark.parametrize("dora", [True, False])
def test_merged_weights_are_those_of_diffusers(made, tmp_path, dora):
    """At weight 1; diffusers' DoRA at another weight has another definition."""
    pipe, folder, part = made
    write_lora(pipe, part, tmp_path / "a", 1, use_dora=dora, use_rslora=not dora)
    weight = 1.0 if dora else 0.7
    theirs = copy.deepcopy(pipe)
    getattr(theirs, part).double()
    theirs.load_lora_weights(tmp_path / "a", low_cpu_mem_usage=False)
    theirs.fuse_lora(components=[part], lora_scale=weight)
    theirs.unload_lora_weights()
    assert_weights(folder, tmp_path / "a", getattr(theirs, part), part, weight)


@pytest.mark.parametrize("kind", ["LoHa", "LoHa effective", "LoKr", "LoKr both", "DoRA"])
def test_folders_of_peft_are_merged_as_peft_does(made, tmp_path, kind):
    """With numbers per layer, in float64."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

    pipe, folder, part = made
    options = {"r": 4, "target_modules": targets_of(part)}
    patterns = {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"to_k": 7, "ff.*": 3}}
    config = {
        "LoHa": lambda: LoHaConfig(alpha=5, **options, **patterns),
        "LoHa effective": lambda: LoHaConfig(alpha=5, use_effective_conv2d=True, **options),
        "LoKr": lambda: LoKrConfig(alpha=5, **options, **patterns),
        "LoKr both": lambda: LoKrConfig(
            alpha=5, decompose_both=True, use_effective_conv2d=True, **(options | {"r": 1})
        ),
        "DoRA": lambda: LoraConfig(lora_alpha=5, use_dora=True, **options, **patterns),
    }[kind]()
    network = get_peft_model(copy.deepcopy(getattr(pipe, part)).double(), config)
    randomise(network, 2)
    network.save_pretrained(tmp_path / "style")
    assert_weights(folder, tmp_path / "style", network.merge_and_unload(), part)


def test_doras_with_weight_zero(tmp_path, skip):
    """Nothing here; PEFT gives the learned lengths to the unchanged rows."""
    if find_spec("peft") is None:
        skip("peft", "needed for its merging, is not installed")
    from peft import LoraConfig, get_peft_model

    from ldmref.io.adapters.lora_file import Lora

    config = preset("tiny")
    base = torch.nn.Sequential(torch.nn.Linear(32, 16, bias=False)).double()
    weight = base[0].weight.detach().numpy().copy()
    lora = LoraConfig(r=2, lora_alpha=2, target_modules=["0"], use_dora=True)
    network = get_peft_model(base, lora)
    for name, parameter in network.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data.mul_(1.5)
    parts = {
        name.partition(".0.")[2].replace(".default", ""): x.detach().numpy().copy()
        for name, x in network.named_parameters()
        if "lora_" in name
    }
    network.base_model.model[0].set_scale("default", 0.0)
    theirs = network.merge_and_unload()[0].weight.detach().numpy()
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    flat = {name: np.zeros(shape) for name, shape in flatten(model_spec(config)).items()}
    flat[f"unet.{path}.weight"] = weight
    tensors = {f"unet.{path}.{name}": x for name, x in parts.items()}
    none, full = (
        apply_loras(config, flat, [Lora("x", tensors, w)])[f"unet.{path}.weight"]
        for w in (0.0, 1.0)
    )
    assert np.array_equal(none, weight)
    assert np.allclose(full, 1.5 * weight, rtol=1e-6)  # `up` is zero
    assert np.allclose(theirs, 1.5 * weight, rtol=1e-6)


def noise_of(model):
    shape = 1, *model.latent_shape(**SIZE)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def their_image(pipe, latents):
    packed = torch.tensor(latents)
    if "Flux" in type(pipe).__name__:
        packed = type(pipe)._pack_latents(packed, 1, *latents.shape[1:])
    options = {"guidance_scale": 2.5, "num_inference_steps": 3, "output_type": "np"}
    return pipe("red cat", latents=packed, **options, **SIZE).images[0]


@pytest.mark.parametrize(
    "case", [("dora", 1.0), ("plain", 0.6), ("plain", -0.8), ("two", 0.6)], ids=str
)
def test_images_are_those_of_diffusers(made, tmp_path, case):
    """With the adapters beside the weights there and merged here."""
    pipe, folder, part = made
    kind, weight = case
    write_lora(pipe, part, tmp_path / "a", 1, use_dora=kind == "dora")
    write_lora(pipe, part, tmp_path / "b", 2)
    used = [("a", weight), ("b", -0.5)] if kind == "two" else [("a", weight)]
    theirs = copy.deepcopy(pipe)
    for name, _ in used:
        theirs.load_lora_weights(tmp_path / name, adapter_name=name, low_cpu_mem_usage=False)
    theirs.set_adapters([name for name, _ in used], [number for _, number in used])
    plain = ldmref.load(folder)
    model = ldmref.load(folder, lora=[(tmp_path / name, number) for name, number in used])
    latents = noise_of(plain)
    options = {"latents": latents, "cfg_scale": 2.5, "steps": 3, **SIZE}
    got, before = (
        np.asarray(modes.txt2img(m, "red cat", **options).images[0]).astype(int)
        for m in (model, plain)
    )
    want = np.round(their_image(theirs, latents) * 255)
    assert np.abs(got - want).max() <= 1
    assert np.abs(before - want).max() > 4
