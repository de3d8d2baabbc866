"""A LoRA of the transformers of Stable Diffusion 3 and Flux.1: losses, resuming, and its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from noisy_batches import scaled_latents

import ldmref
from ldmref.errors import UsageError
from ldmref.io.adapters.lora_changes import lora_changes
from ldmref.io.adapters.lora_file import read_loras
from ldmref.models.family import family_of
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten, tree_map
from ldmref.models.presets import preset
from ldmref.training.family_rules import training_rules_of

torch = pytest.importorskip("torch")
from ldmref.math.flow import flow_velocity  # noqa: E402
from ldmref.models.conditioning import add_scale  # noqa: E402
from ldmref.modes.text import encode_conditioning  # noqa: E402
from ldmref.training.batches import FULL_BATCH  # noqa: E402
from ldmref.training.diffusion.latents import Latents, NoisyLatents  # noqa: E402
from ldmref.training.diffusion.stage import DenoiserTraining, DiffusionBatches  # noqa: E402
from ldmref.training.finetune.adapters import make_adapter  # noqa: E402
from ldmref.training.finetune.finetuning_run import check_base  # noqa: E402
from ldmref.training.finetune.lora_targets import list_targets, lora_layers  # noqa: E402
from ldmref.training.finetune.recipe import FineTuneRecipe, LoraConfig  # noqa: E402
from ldmref.training.finetune.stage import RecordingBackend, fine_tune_trainer  # noqa: E402
from ldmref.training.recipes.schema import Budget  # noqa: E402

FAMILIES = ["flux-tiny", "sd3-tiny"]
RANK = 4


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return ldmref.random_model(name, backend=RecordingBackend("cpu", "float32"))


def caption(i, rng):
    return "red heart"


def recipe(name, steps=20) -> FineTuneRecipe:
    base = FineTuneRecipe(base=name, lora=LoraConfig(RANK, 2.0, tuple(list_targets(preset(name)))))
    optimizer = replace(base.diffusion.optimizer, learning_rate=0.05, warmup=1, weight_decay=0.0)
    return replace(
        base, diffusion=replace(base.diffusion, optimizer=optimizer, budget=Budget(steps))
    )


def latents_of(model) -> NoisyLatents:
    mean = np.random.default_rng(0).standard_normal((3, *model.latent_shape(16, 16)))
    mean = mean.astype(np.float32)
    return scaled_latents(Latents(mean, np.full_like(mean, -20.0)), np.ones(3), 1.0, model.backend)


def trainer_of(settings, model):
    adapter = make_adapter(settings, model, caption)
    data = replace(settings, data=replace(settings.data, size=16))
    return adapter, fine_tune_trainer(data, model.config, adapter, latents_of(model), model.backend)


def loss_of(settings, model, adapter, params) -> float:
    """The squared error of the velocity on one batch, computed from the definition."""
    stage = settings.diffusion
    training = DenoiserTraining(model.config, stage, 7, model.backend)
    batches = DiffusionBatches(latents_of(model), caption, training)
    batch = batches(0, FULL_BATCH)
    adapted = adapter.adapted(model.backend, params)
    condition = encode_conditioning(adapted, batch.prompts, (16, 16))
    condition = add_scale(adapted.backend, condition, model.config.defaults.cfg_scale)
    with torch.no_grad():
        velocity = adapted.predict(batch.xt, batch.t.float(), condition)
    return float((velocity - flow_velocity(batch.x0, batch.eps)).square().mean())


def test_twenty_steps_lower_the_loss_of_a_batch(name, model):
    settings = recipe(name)
    before = tree_map(lambda x: x.clone(), dict(model.params))
    adapter, trainer = trainer_of(settings, model)
    start = loss_of(settings, model, adapter, tree_map(torch.from_numpy, adapter.initial))
    losses = [loss.loss for loss in trainer.run()]
    assert len(losses) == 20
    assert loss_of(settings, model, adapter, trainer.params) < 0.9 * start
    changed = flatten(dict(adapter.adapted(model.backend, trainer.params).params))
    different = {n for n, x in flatten(before).items() if not torch.equal(x, changed[n])}
    shapes = flatten(model_spec(model.config))
    text = {n for n in shapes if n.startswith("text_encoder") and "text_model.encoder.layers" in n}
    matrices = {n for n in text if n.endswith(".weight") and len(shapes[n]) == 2}
    attention = {n for n in shapes if ".attn" in n and n.endswith(".weight") and "norm" not in n}
    targets = {*lora_layers(model.config, settings.lora.targets)}
    assert matrices | attention <= targets
    # the last block of Stable Diffusion 3 drops what its text asks for
    last = f"transformer.transformer_blocks.{model.config.denoiser.num_layers - 1}.attn.add_q_proj"
    unused = {f"{last}.weight"} if name == "sd3-tiny" else set()
    skipped = {n for n in text if "layers.1" in n}  # of CLIP, whose last layer is pooled alone
    assert targets - unused - skipped <= different <= targets


def test_muon_leaves_first_and_last_layers_to_adamw(name, model):
    """Those that the family names, as in a training from the beginning."""
    settings = replace(recipe(name), method="full")
    optimizer = replace(settings.diffusion.optimizer, muon_rate=1e-3)
    settings = replace(settings, diffusion=replace(settings.diffusion, optimizer=optimizer))
    _, trainer = trainer_of(settings, model)
    ends = training_rules_of(family_of(model.config)).ends
    assert {n for n in trainer.parameters if n.endswith(ends)}
    assert not any(n.endswith(ends) for n in trainer.muon) and trainer.muon


def test_resumed_equals_uninterrupted_bit_for_bit(name, model):
    settings = recipe(name, steps=6)
    _, whole = trainer_of(settings, model)
    list(whole.run())
    _, first = trainer_of(settings, model)
    for loss in first.run():
        if loss.step == 3:
            break
    state = {key: tensor.numpy().copy() for key, tensor in first.state().items()}
    _, second = trainer_of(settings, model)
    second.load_state(3, state)
    list(second.run())
    for key, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[key]), key


def test_the_file_holds_what_was_trained(name, model, tmp_path):
    """alpha / rank is in `up`; every name is diffusers'."""
    settings = recipe(name, steps=3)
    adapter, trainer = trainer_of(settings, model)
    list(trainer.run())
    adapter.write(tmp_path, trainer.ema_params())
    (lora,) = read_loras([adapter.file(tmp_path)])
    trained = flatten(trainer.ema_params())
    changes = lora_changes(model.config, lora)
    assert len(changes) == len(trained) // 2
    for tensor, change in changes.items():
        assert np.array_equal(change.parts["down"], trained[f"{tensor}.down"])
        assert np.array_equal(change.parts["up"], trained[f"{tensor}.up"] * np.float32(2.0 / RANK))
    ends = {"." + key.rpartition(".lora_")[2] for key in lora.tensors}
    parts = {key.partition(".")[0] for key in lora.tensors}
    encoders = {"text_encoder", "text_encoder_2"} if name == "sd3-tiny" else {"text_encoder"}
    assert ends == {".A.weight", ".B.weight"} and parts == {"transformer", *encoders}


def test_targets_that_a_family_lacks_are_refused(name):
    settings = replace(recipe(name), lora=LoraConfig(targets=("attention", "convolutions")))
    with pytest.raises(UsageError, match="has no 'convolutions'") as caught:
        check_base(preset(name), settings)
    assert caught.value.code == "E-RECIPE" and "it has attention" in caught.value.hint


def test_defaults_of_large_bases():
    for name in ("flux-dev", "sd35-medium"):
        names = lora_layers(preset(name), ("attention",))
        assert any(".add_k_proj." in n for n in names) and not any("norm" in n for n in names)
        assert list_targets(preset(name)) == ["attention", "feed_forward", "projections", "text"]
