"""Gradients of a LoRA against peft's, and its file against diffusers' reader."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from small_pipelines import embed_timesteps_exactly

from ldmref.backends.torch import TorchBackend
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.models.params import Params, flatten, tree_map, unflatten
from ldmref.models.text import text_encoder
from ldmref.models.unet import unet
from ldmref.training.finetune.adapters import initial_lora, with_lora, write_lora
from ldmref.training.finetune.lora_targets import lora_layers
from ldmref.training.finetune.recipe import TARGETS

torch = pytest.importorskip("torch")
RANK = 3
ALPHA = 1.5
OPS = TorchBackend("cpu", "float64")


@pytest.fixture
def peft():
    pytest.importorskip("accelerate")
    return pytest.importorskip("peft")


@pytest.fixture
def model(folder):
    """Configuration and parameters of a family, in float64."""
    config, flat, _ = load_diffusers(folder)
    return config, unflatten({k: torch.from_numpy(v.astype(np.float64)) for k, v in flat.items()})


def random_lora(config, targets) -> Params:
    """Return a LoRA with `up` away from zero; both gradients are then away from it."""
    lora = initial_lora(config, lora_layers(config, targets), RANK, 0)
    rng = np.random.default_rng(1)
    return tree_map(lambda x: torch.from_numpy(x + 0.1 * rng.standard_normal(x.shape)), lora)


def assert_equal_gradients(peft, network, lora, compute):
    """Compare gradients of `lora` and of peft's equal one in `network` after `compute(network)`.

    `compute` returns a loss; that of ours has gone backward."""
    ours = {}
    for name, tensor in flatten(lora).items():
        path, _, role = name.partition(".")[2].rpartition(".")
        layer = path.removesuffix(".weight")
        if not any(module == layer for module, _ in network.named_modules()):
            layer = layer.removeprefix("text_model.")  # as transformers 5 names it
        ours[layer, {"down": "lora_A", "up": "lora_B"}[role]] = tensor
    modules = sorted({layer for layer, _ in ours})
    # Not the network's own `add_adapter`, which may demand a peft that is not released yet.
    adapter = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=modules)
    peft.inject_adapter_in_model(adapter, network)
    ours = {f"{layer}.{end}.default.weight": tensor for (layer, end), tensor in ours.items()}
    theirs = dict(network.named_parameters())
    assert set(ours) == {name for name in theirs if ".lora_" in name}
    with torch.no_grad():
        for name, tensor in ours.items():
            theirs[name].copy_(tensor)
    compute(network).backward()
    for name, tensor in ours.items():
        want = theirs[name].grad
        assert float((tensor.grad - want).abs().max()) <= 1e-10 * float(want.abs().max()), name


@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
def test_gradients_equal_those_of_peft(model, theirs, peft):
    config, params = model
    targets = ("attention", "feed_forward", "projections", "convolutions")
    lora = tree_map(lambda x: x.requires_grad_(), random_lora(config, targets))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 4, 8, 8))
    context = rng.standard_normal((2, 7, 24))
    x = torch.from_numpy(x)
    context = torch.from_numpy(context)
    t = torch.tensor([0.0, 731.0], dtype=torch.float64)
    target = torch.ones_like(x)
    changed = with_lora({"unet": params.unet}, lora, ALPHA / RANK)
    (unet(OPS, changed.unet, config.unet, x, t, context) - target).square().mean().backward()

    network = copy.deepcopy(theirs.unet).double()
    embed_timesteps_exactly(network)
    assert_equal_gradients(
        peft, network, lora, lambda n: (n(x, t, context).sample - target).square().mean()
    )


@pytest.mark.parametrize("family", ["sd1", "sd2"], indirect=True)
def test_gradients_of_the_text_encoder_equal_those_of_peft(model, theirs, peft):
    config, params = model
    lora = tree_map(lambda x: x.requires_grad_(), random_lora(config, ("text",)))
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 290, (2, 9)))
    changed = with_lora({"text_encoder": params.text_encoder}, lora, ALPHA / RANK)
    hidden = text_encoder(OPS, changed.text_encoder, config.text_encoder, ids)
    target = torch.linspace(-1, 1, hidden.shape[-1], dtype=torch.float64)
    (hidden - target).square().mean().backward()

    network = copy.deepcopy(theirs.text_encoder).double()
    assert_equal_gradients(
        peft,
        network,
        lora,
        lambda n: (n(ids).last_hidden_state - target).square().mean(),
    )


@pytest.mark.parametrize("targets", [("attention",), TARGETS])
def test_the_file_is_read_by_us_and_by_diffusers(model, theirs, targets, tmp_path, peft):
    config, params = model
    lora = tree_map(torch.Tensor.float, random_lora(config, targets))
    write_lora(tmp_path / "a.safetensors", config, tree_map(torch.Tensor.numpy, lora), ALPHA, {})
    flat = {name: tensor.float() for name, tensor in flatten(params).items()}
    changed = flatten(with_lora(unflatten(flat), lora, ALPHA / RANK))

    ours = apply_loras(
        config, {k: v.numpy() for k, v in flat.items()}, read_loras([tmp_path / "a.safetensors"])
    )
    pipe = copy.deepcopy(theirs)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    _, fused, _ = load_diffusers(tmp_path / "fused")
    layers = lora_layers(config, targets)
    assert len(layers) > 10
    for name, want in changed.items():
        bound = 2e-6 * max(1.0, float(want.abs().max()))
        assert np.abs(ours[name] - want.numpy()).max() <= bound, name
        assert np.abs(fused[name] - want.numpy()).max() <= bound, name
        assert torch.equal(want, flat[name]) == (name not in layers), name


def test_training_starts_at_the_model(model):
    config, params = model
    lora = initial_lora(config, lora_layers(config, ("attention", "text")), RANK, 0)
    changed = with_lora(params, tree_map(torch.from_numpy, lora), 2.0)
    for name, tensor in flatten(params).items():
        assert torch.equal(flatten(changed)[name], tensor)
