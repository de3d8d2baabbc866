"""DiT from nothing: recipes of both kinds of loss, resuming, and the gradients of a step."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.io import TensorFile
from ldmref.math import timestep_embedding
from ldmref.models import unflatten
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.params import Params
from ldmref.training import OptimizerConfig, read_recipe, train
from ldmref.training.diffusion.latents import Latents, NoisyLatents
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer
from ldmref.training.recipes.file import recipe_from_dict
from ldmref.training.recipes.schema import Budget, DiffusionStage

FLOW = """
        [model.scheduler]
        prediction_type = "flow"
        sampler = "euler"
        spacing = "flow"
        final_sigma = "zero"
        shift = 1.5
"""


@pytest.fixture
def write_recipe(tmp_path):
    """Write a recipe on folders of red and of blue images; the classes are the folders."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (220, 40, 40)), ("blue", (40, 40, 220))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(np.array(color) + rng.normal(0, 8, (16, 16, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{i}.png")

    def write(loss="simple", scheduler=FLOW, steps=4, rest=""):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f"""
        data = {{ source = '{tmp_path / "data"}', size = 16 }}
        [model]
        preset = "dit-tiny"
        {scheduler}
        [autoencoder.budget]
        steps = 4
        [diffusion]
        objective = {{ condition = "class", loss = "{loss}" }}
        optimizer = {{ batch_size = 4, warmup = 1 }}
        budget = {{ steps = {steps} }}
        {rest}
        """
        )
        return recipe

    return write


def test_the_recipe_of_the_readme_is_read():
    page = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    recipe = recipe_from_dict(tomllib.loads(text))
    assert recipe.model.denoiser.num_layers == 6
    assert recipe.model.denoiser.out_channels == recipe.model.vae.latent_channels


@pytest.mark.parametrize(("loss", "scheduler"), [("hybrid", ""), ("simple", FLOW)])
def test_a_recipe_trains_it(tmp_path, write_recipe, loss, scheduler):
    """Autoencoder and transformer; a velocity has no learned variance."""
    command = ["train", str(write_recipe(loss, scheduler)), "-o", str(tmp_path / "out")]
    assert main([*command, "--no-plots"]) == 0
    model = ldmref.load(tmp_path / "out" / "model")
    assert model.config.text_encoder.class_names == ("blue", "red")
    assert model.config.denoiser.num_classes == 2
    assert model.config.denoiser.out_channels == (4 if scheduler else 8)
    head = np.asarray(model.params["transformer"].proj_out_2.weight)
    assert 0 < np.abs(head).max() < 0.1  # it began at zero
    modes.txt2img(model, "red", seed=1, steps=2)


def test_a_recipe_of_a_flow_resumes_bit_for_bit(tmp_path, write_recipe):
    """Two of four steps with a constant rate, and the rest by the same command, as recorded."""
    short = write_recipe(steps=2)
    change = {"diffusion": {"optimizer": {"cooldown": 0.0}}}
    four = {"diffusion": {"optimizer": {"cooldown": 0.0}, "budget": {"steps": 4}}}
    train(read_recipe(short, change), tmp_path / "parts")
    train(read_recipe(tmp_path / "parts" / "recipe.toml", four), tmp_path / "parts")
    train(read_recipe(short, four), tmp_path / "whole")
    parts, whole = (
        TensorFile(tmp_path / name / "diffusion.safetensors") for name in ("parts", "whole")
    )
    names = [name for name in whole if not name.startswith("progress.")]
    assert len(names) > 100
    assert all(np.array_equal(parts[name], whole[name]) for name in names)


def test_the_flow_learns_the_colour_of_each_class(tmp_path, write_recipe):
    """The two classes differ in the mean of their latents, which the velocity must know."""
    rest = "[progress]\nseconds = 0"
    recipe = write_recipe(steps=300, rest=rest)
    steps = {"autoencoder": {"budget": {"steps": 150}}}
    model = ldmref.load(train(read_recipe(recipe, steps), tmp_path / "out"))
    means = {
        name: np.asarray(modes.txt2img(model, name, seed=1, steps=8).images[0]).mean((0, 1))
        for name in ("red", "blue")
    }
    assert means["red"][0] > means["red"][2] + 50 and means["blue"][2] > means["blue"][0] + 50


def test_gradients_of_the_flow_are_those_of_diffusers(pipe, folder):
    """Of the squared error of eps - x0 at a time s, in float64."""
    model = ldmref.load(folder, dtype="float64")
    z = model.config.vae.latent_channels
    config = replace(
        model.config,
        scheduler=replace(model.config.scheduler, prediction_type="flow"),
        denoiser=replace(model.config.denoiser, out_channels=z),
    )
    theirs = DiTTransformer2DModel.from_config(pipe.transformer.config, out_channels=z)
    theirs = theirs.double().train()
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.forward = lambda t: timestep_embedding(
            t.double(), 256, freq_shift=1
        )
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # the batch drops its classes itself
    moments = np.random.default_rng(0).standard_normal((2, 4, 4, 8, 8))
    ops = get_backend("torch", dtype="float64")
    as_they_are = LatentScale(ops, AutoencoderConfig(scaling_factor=1.0), Params())
    noisy = NoisyLatents(Latents(*moments), np.ones(4), as_they_are, ops)
    condition = Condition(lambda i, rng: str(100 * i), model.tokenizers)
    stage = DiffusionStage(optimizer=OptimizerConfig(batch_size=4, warmup=1), budget=Budget(1))
    names = [n for n, _ in theirs.named_parameters()]
    start = {f"transformer.{n}": p.detach().numpy() for n, p in theirs.named_parameters()}
    watch = Gradients()
    training = DenoiserTraining(config, stage, 0, ops)
    params = unflatten(start)
    next(diffusion_trainer(noisy, condition, training, params, observer=watch).run())
    seen = watch.seen
    labels = torch.as_tensor([int(prompt) if prompt else 1000 for prompt in seen.prompts])
    s = torch.as_tensor(seen.timesteps / 1000)[:, None, None, None]
    xs = (1 - s) * seen.x0 + s * seen.noise
    velocity = theirs(xs, timestep=1000 * s[:, 0, 0, 0], class_labels=labels).sample
    (velocity - (seen.noise - seen.x0)).square().mean().backward()
    want = {n: p.grad for n, p in theirs.named_parameters()}
    largest = max(x.abs().max() for x in want.values())
    for name in names:
        got = watch.gradients[f"transformer.{name}"].view(want[name].shape)
        assert (got - want[name]).abs().max() < 1e-10 * largest, name


class Gradients:
    """Keeps the batch and the gradients of a step."""

    def begin(self, step, ops):
        return ops

    def batch(self, batch):
        self.seen = batch

    def end(self, gradients, norm, loss, rate):
        self.gradients = {name: x.clone() for name, x in gradients.items()}
