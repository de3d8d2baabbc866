"""Gradients of a LoRA of Stable Diffusion 3 and Flux.1 against those of peft, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.families.flux.network import transformer as flux_transformer
from ldmref.families.sd3.network import transformer as sd3_transformer
from ldmref.models.params import flatten, tree_map, unflatten
from ldmref.models.presets import preset

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from flux_networks import FluxPipeline  # noqa: E402

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.training.finetune.adapters import initial_lora, with_lora  # noqa: E402
from ldmref.training.finetune.lora_targets import lora_layers  # noqa: E402

RANK = 3
ALPHA = 1.5
TARGETS = ("attention", "feed_forward", "projections")
TIME = torch.tensor([3.5, 700.0], dtype=torch.float64)


def sd3(monkeypatch):
    """(configuration, our network, diffusers', the arguments of each)."""
    kind = "3.5 medium"
    x, states, pooled = draw((2, 4, 6, 8), (2, 5, 40), (2, 24))
    theirs = sd3_networks.in_float64(sd3_networks.make_transformer(kind))
    config = replace(preset("sd3-tiny"), denoiser=sd3_networks.config_of(kind))
    return config, sd3_transformer, theirs, (x, TIME, states, pooled), (x, states, pooled, TIME)


def flux(monkeypatch):
    x, states, pooled = draw((2, 4, 6, 8), (2, 5, 20), (2, 16))
    scales = torch.tensor([3.5, 1.0], dtype=torch.float64)
    theirs = flux_networks.in_float64(flux_networks.make_transformer(True), monkeypatch)
    config = replace(preset("flux-tiny"), denoiser=flux_networks.config_of(True))
    ids = FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", x.dtype), torch.zeros(5, 3)
    packed = FluxPipeline._pack_latents(x, 2, 4, 6, 8)
    arguments = packed, states, pooled, TIME / 1000, *ids, scales
    return config, flux_transformer, theirs, (x, TIME, states, pooled, scales), arguments


def draw(*shapes):
    rng = np.random.default_rng(2)
    return [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize("family", [sd3, flux])
def test_gradients_are_those_of_peft(family, monkeypatch):
    """Of the mean square of the velocity, which no permutation of the output changes."""
    config, network, theirs, ours_in, theirs_in = family(monkeypatch)
    layers = [n for n in lora_layers(config, TARGETS) if n.startswith("transformer.")]
    rng = np.random.default_rng(1)
    lora = tree_map(
        lambda x: torch.from_numpy(x + 0.1 * rng.standard_normal(x.shape)).requires_grad_(),
        initial_lora(config, layers, RANK, 0),
    )
    own = unflatten({name: x.detach().clone() for name, x in theirs.state_dict().items()})
    changed = with_lora({"transformer": own}, lora, ALPHA / RANK).transformer
    ops = TorchBackend("cpu", "float64")
    network(ops, changed, config.denoiser, *ours_in).square().mean().backward()

    modules = [name.partition(".")[2].removesuffix(".weight") for name in layers]
    adapter = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules)
    peft.inject_adapter_in_model(adapter, theirs)
    parameters = dict(theirs.named_parameters())
    pairs = []
    for name, tensor in flatten(lora).items():
        path, _, role = name.partition(".")[2].rpartition(".")
        end = {"down": "lora_A", "up": "lora_B"}[role]
        pairs.append((tensor, parameters[f"{path.removesuffix('.weight')}.{end}.default.weight"]))
    assert len(pairs) == sum(".lora_" in name for name in parameters) > 60
    with torch.no_grad():
        for tensor, parameter in pairs:
            parameter.copy_(tensor)
    theirs(*theirs_in).sample.square().mean().backward()
    largest = max(float(parameter.grad.abs().max()) for _, parameter in pairs)
    for tensor, parameter in pairs:
        want = parameter.grad
        bound = 1e-10 * max(float(want.abs().max()), 1e-6 * largest)
        assert float((tensor.grad - want).abs().max()) <= bound
