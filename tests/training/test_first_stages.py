"""First stages: every recipe in miniature, exact resuming, the loss by hand, what is exported."""

from __future__ import annotations

import runpy
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.datasets import summarize  # noqa: E402
from ldmref.datasets.base import Augmentation  # noqa: E402
from ldmref.datasets.folder import FolderDataset  # noqa: E402
from ldmref.errors import Cancelled, LdmrefError, NumericError  # noqa: E402
from ldmref.io.adapters.autoencoder import read_vae  # noqa: E402
from ldmref.models.autoencoder import decode, encode  # noqa: E402
from ldmref.models.params import flatten, tree_map, unflatten  # noqa: E402
from ldmref.training.autoencoder import stage as stage_module  # noqa: E402
from ldmref.training.autoencoder.features import feature_trainer  # noqa: E402
from ldmref.training.autoencoder.forward import Forward, forward, make_noise  # noqa: E402
from ldmref.training.autoencoder.stage import (  # noqa: E402
    autoencoder_trainer,
    update_codebook,
)
from ldmref.training.autoencoder.terms import measure  # noqa: E402
from ldmref.training.batches import (  # noqa: E402
    Part,
    image_batch,
    step_generator,
)
from ldmref.training.checkpoint import read_checkpoint, read_headers  # noqa: E402
from ldmref.training.diffusion.latents import stored_latents  # noqa: E402
from ldmref.training.recipes.file import read_recipe, recipe_from_dict  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402

ROOT = Path(__file__).parents[2]
FIRST = runpy.run_path(str(ROOT / "scripts" / "measure_first_stages.py"))["first_stages"]()
EXACT = {"absolute_weight": 0, "edge_weight": 0, "square_weight": 1, "kl_weight": 0}
GAN = {"adversarial_weight": 0.5, "adversarial_start": 2}
OPS = TorchBackend()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def noise_images(images):
    """Make images of more than one colour, which have different latents."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((16, 16), Image.Resampling.BILINEAR).save(
            images / f"noise_{i}.png"
        )
    return images


@pytest.fixture
def make(noise_images):
    """`make(objective, vae, steps=...)` -> the recipe of a small first stage."""

    def make(objective=(), vae=(), steps=20, **changes):
        small = {"block_out_channels": [4, 8], "norm_num_groups": 2, "latent_channels": 4}
        optimizer = {"batch_size": 4, "warmup": 1, "learning_rate": 5e-3}
        tables = {
            "stages": ["autoencoder"],
            "data": {"source": str(noise_images)},
            "model": {"preset": "tiny", "vae": small | dict(vae)},
            "autoencoder": {
                "objective": dict(objective),
                "optimizer": optimizer,
                "budget": {"steps": steps},
            },
            "features": {"optimizer": {"batch_size": 2}, "budget": {"steps": 4}},
        }
        return recipe_from_dict(tables | changes)

    return make


def trainer_of(recipe, features=None):
    data = FolderDataset(recipe.data.source, recipe.data.size)
    return autoencoder_trainer(data, recipe.model.vae, recipe.autoencoder, 0, OPS, features)


def bits(path):
    return {name: array.tobytes() for name, array in read_checkpoint(path)[1].items()}


# -- every recipe ---------------------------------------------------------------------------------


def test_there_is_a_recipe_for_every_first_stage():
    kinds = {"autoencoder", "denoising", "masking", "sparse-l1", "sparse-kl", "vae", "vq-vae"}
    assert kinds | {"kl-f4", "kl-f8", "vq-f4", "vq-f8"} == set(FIRST)
    factors = {name: read_recipe(name).model.vae.factor for name in FIRST}
    assert {name for name, f in factors.items() if f == 8} == {"kl-f8", "vq-f8"}


@pytest.mark.parametrize("name", FIRST)
def test_a_shipped_recipe_in_miniature(name, noise_images):
    """Its metrics improve, with the averaged weights on all images."""
    levels = len(read_recipe(name).model.vae.block_out_channels)
    vae = {"block_out_channels": [8] * levels, "norm_num_groups": 2, "latent_channels": 8}
    overrides = {
        "data": {"source": str(noise_images), "size": 16},
        "model": {"vae": vae | ({"codebook_size": 16} if name.startswith("vq") else {})},
        "autoencoder": {
            "optimizer": {"batch_size": 8, "warmup": 5, "learning_rate": 5e-3},
            "budget": {"steps": 50},
        },
    }
    if name.startswith("vq-f"):
        overrides["autoencoder"]["objective"] = {"adversarial_start": 25}
    recipe = read_recipe(name, overrides)
    data = FolderDataset(noise_images, 16)
    objective = recipe.autoencoder.objective
    network = feature_trainer(data, recipe.features, 0, OPS).ema_params()
    trainer = trainer_of(recipe, network if objective.perceptual_weight else None)

    def reached():
        params = tree_map(OPS.asarray, trainer.ema_params())
        return measure(data, params, recipe.model.vae, objective, 0, OPS)

    before = reached()
    list(trainer.run())
    after = reached()
    assert after["psnr"] > before["psnr"] + 1.0
    if name.startswith("vq"):
        assert 3 <= after["perplexity"] <= after["codes"] <= 16
    if name == "vae":
        assert after["elbo"] > before["elbo"] and after["kl"] > before["kl"]
    if name.startswith("sparse"):
        assert after["active"] < before["active"]


def test_a_training_ends_with_its_figures(make, out):
    reports = []
    lines = []
    recipe = make(EXACT, {"codebook_size": 8}, steps=3)
    train(recipe, out, on_progress=reports.append, log=lines.append)
    assert all({"psnr", "perplexity"} <= r.metrics.keys() for r in reports)
    assert lines[-1].startswith("autoencoder: psnr ") and " dB, perplexity " in lines[-1]
    lines.clear()
    train(recipe, out, on_progress=reports.append, log=lines.append)
    assert not any("autoencoder" in line for line in lines)


# -- resuming -------------------------------------------------------------------------------------

EVERYTHING = {
    "codebook by moving average, discriminator": (
        EXACT | GAN | {"codebook_decay": 0.9},
        {"codebook_size": 8},
    ),
    "codebook by gradient, log loss": (
        EXACT | GAN | {"adversarial_loss": "log"},
        {"codebook_size": 8},
    ),
    "evidence bound, learned variance": (
        EXACT | {"square_weight": 0, "elbo_weight": 1, "learn_variance": True},
        {},
    ),
    "sparse, masked": (
        EXACT | {"sparsity_weight": 1, "corruption": "masking"},
        {"latent_activation": "sigmoid"},
    ),
    "perceptual term": (EXACT | {"perceptual_weight": 1, "l1_weight": 0.1}, {}),
}


@pytest.mark.parametrize(
    ("kind", "muon_rate"),
    [
        *(pytest.param(kind, 0.0, marks=pytest.mark.slow) for kind in EVERYTHING),
        (next(iter(EVERYTHING)), 2e-3),
    ],
)
def test_10_and_10_steps_equal_20(make, tmp_path, kind, muon_rate):
    objective, vae = EVERYTHING[kind]
    recipe = make(objective, vae)
    optimizer = replace(recipe.autoencoder.optimizer, muon_rate=muon_rate)
    recipe = replace(recipe, autoencoder=replace(recipe.autoencoder, optimizer=optimizer))
    cancel = threading.Event()

    def report(progress):
        if progress.stage == "autoencoder" and progress.step == 10:
            cancel.set()

    once = tmp_path / "once"
    twice = tmp_path / "twice"
    train(recipe, once)
    with pytest.raises(Cancelled):
        train(recipe, twice, on_progress=report, cancel=cancel)
    assert read_headers(twice)["autoencoder"].step == 10
    train(recipe, twice)
    assert bits(twice / "autoencoder.safetensors") == bits(once / "autoencoder.safetensors")
    weights = "autoencoder/diffusion_pytorch_model.safetensors"
    assert (once / weights).read_bytes() == (twice / weights).read_bytes()
    names = set(bits(once / "autoencoder.safetensors"))
    assert ("params.use.counts" in names) == ("codebook" in kind)
    assert ("params.discriminator.conv_out.weight" in names) == ("adversarial_weight" in objective)


SEPARABLE = {
    "divergence": ({}, {}),
    "evidence bound, noisy": (
        EXACT
        | {"square_weight": 0, "elbo_weight": 1, "learn_variance": True}
        | {"corruption": "gaussian"},
        {},
    ),
    "perceptual term": (EXACT | {"perceptual_weight": 1}, {}),
}


@pytest.mark.parametrize("kind", SEPARABLE)
def test_a_batch_in_parts_is_the_batch(make, noise_images, kind):
    """Crops, flips, noise of every purpose, and the features themselves."""
    objective, vae = SEPARABLE[kind]
    recipe = make(objective, vae, steps=3)
    ops = TorchBackend("cpu", "float64")
    data = FolderDataset(noise_images, 16)
    data.augmentation = Augmentation(flips=True, crop=8)
    states = []
    for count in (1, 2):
        stages = [
            replace(stage, optimizer=replace(stage.optimizer, batch_size=4, accumulation=count))
            for stage in (recipe.features, recipe.autoencoder)
        ]
        network = feature_trainer(data, stages[0], 0, ops)
        list(network.run())
        features = network.ema_params() if objective.get("perceptual_weight") else None
        trainer = autoencoder_trainer(data, recipe.model.vae, stages[1], 0, ops, features)
        losses = [step.loss for step in trainer.run()]
        states.append({"losses": losses} | network.state() | trainer.state())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", sorted({*EVERYTHING} - {"evidence bound, learned variance"}))
def test_a_batch_whose_images_are_compared_stays_whole(make, kind):
    objective, vae = EVERYTHING[kind]
    recipe = make(objective, vae)
    assert not recipe.autoencoder.objective.separable(recipe.model.vae)
    changes = {"objective": objective, "optimizer": {"batch_size": 4, "accumulation": 2}}
    with pytest.raises(LdmrefError) as caught:
        make(vae=vae, autoencoder=changes)
    assert caught.value.code == "E-RECIPE" and "accumulation" in str(caught.value)


def test_an_interrupted_training_of_the_features_is_resumed(make, tmp_path):
    recipe = make(EXACT | {"perceptual_weight": 1}, steps=2)

    def stop(progress):
        if progress.stage == "features" and progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "twice", on_progress=stop)
    assert read_headers(tmp_path / "twice")["features"].step == 2
    for name in ("once", "twice"):
        train(recipe, tmp_path / name)
    for stage in ("features", "autoencoder"):
        once, twice = (bits(tmp_path / n / f"{stage}.safetensors") for n in ("once", "twice"))
        assert once == twice


def test_the_first_stage_alone_is_continued_by_the_second(make, out, noise_images):
    recipe = make(steps=3)
    stages = []
    folder = train(recipe, out)
    assert folder == out / "autoencoder" and set(read_headers(out)) == {"autoencoder"}
    diffusion = replace(recipe.diffusion, budget=replace(recipe.diffusion.budget, steps=1))
    both = replace(recipe, stages=("autoencoder", "diffusion"), diffusion=diffusion)
    folder = train(both, out, on_progress=lambda progress: stages.append(progress.stage))
    assert folder == out / "model" and set(stages) == {"diffusion"}


# -- the loss by hand -----------------------------------------------------------------------------


def forward_in_numpy(recipe, trainer, step=0):
    """Return the arrays of a step's forward pass, as NumPy in float64, and its parameters."""
    data = FolderDataset(recipe.data.source, recipe.data.size)
    objective = recipe.autoencoder.objective
    config = recipe.model.vae
    _, x = image_batch(data, step_generator(0, step, "autoencoder"), 4, OPS)
    f = forward(OPS, trainer.params, config, objective, x, make_noise(0, step, OPS))
    arrays = {
        name: getattr(f, name).detach().double().numpy()
        for name in ("x", "y", "mean", "logvar", "corrupted", "rows", "quantized")
        if getattr(f, name) is not None
    }
    return type("Arrays", (), arrays)


def mean_square(a, b):
    return ((a - b) ** 2).mean()


def kl_per_latent(f):
    return 0.5 * (f.mean**2 + np.exp(f.logvar) - 1 - f.logvar)


def bernoulli_kl(p, q):
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def nats(f, variance, beta):
    likelihood = -0.5 * ((f.x - f.y) ** 2 / variance + np.log(2 * np.pi * variance))
    return (beta * kl_per_latent(f).sum((1, 2, 3)) - likelihood.sum((1, 2, 3))).mean()


ELBO = EXACT | {"square_weight": 0, "elbo_weight": 1, "beta": 2, "variance": 0.25}
BY_HAND = {
    "plain": (EXACT, {}, lambda f: mean_square(f.x, f.y)),
    "gaussian": (
        EXACT | {"corruption": "gaussian", "corruption_amount": 0.25}, {},
        lambda f: mean_square(f.x, f.y),
    ),
    "kl": (
        {"kl_weight": 0.5}, {},
        lambda f: abs(f.x - f.y).mean() + 4 * mean_square(f.x, f.y) + 0.5 * kl_per_latent(f).mean()
        + sum(abs(np.diff(f.y - f.x, axis=axis)).mean() for axis in (2, 3)),
    ),
    "elbo": (ELBO, {}, lambda f: nats(f, 0.25, 2.0)),
    "learned variance": (ELBO | {"learn_variance": True}, {}, lambda f: nats(f, 0.25, 2.0)),
    "l1": (
        EXACT | {"l1_weight": 3}, {},
        lambda f: mean_square(f.x, f.y) + 3 * abs(f.mean).mean() / np.sqrt((f.mean**2).mean()),
    ),
    "sparsity": (
        EXACT | {"sparsity_weight": 2, "activation": 0.125}, {"latent_activation": "sigmoid"},
        lambda f: mean_square(f.x, f.y)
        + 2 * bernoulli_kl(0.125, f.mean.mean((0, 2, 3))).mean(),
    ),
    "codebook": (
        EXACT, {"codebook_size": 8},
        lambda f: mean_square(f.x, f.y) + 1.25 * mean_square(f.rows, f.quantized),
    ),
    "moving average": (
        EXACT | {"codebook_decay": 0.9, "commitment": 0.5}, {"codebook_size": 8},
        lambda f: mean_square(f.x, f.y) + 0.5 * mean_square(f.rows, f.quantized),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_loss_equals_the_formula(make, kind):
    objective, vae, by_hand = BY_HAND[kind]
    recipe = make(objective, vae)
    trainer = trainer_of(recipe)
    f = forward_in_numpy(recipe, trainer)
    loss = trainer.loss(OPS, trainer.params, 0, Part())
    assert loss.total.item() == pytest.approx(float(by_hand(f)), rel=1e-5)
    assert float(loss.metrics["psnr"]) == pytest.approx(
        np.mean([10 * np.log10(4 / mean_square(a, b)) for a, b in zip(f.x, f.y, strict=True)]), 1e-5
    )
    if "codebook_size" in vae:  # every row has the nearest code
        codes = trainer.params.quantize.embedding.weight.detach().double().numpy()
        distances = ((f.rows[..., None, :] - codes) ** 2).sum(-1)
        assert mean_square(f.rows, f.quantized) == pytest.approx(
            distances.min(-1).mean() / f.rows.shape[-1]
        )


@pytest.mark.parametrize(("kind", "amount"), [("gaussian", 0.25), ("masking", 0.75)])
def test_corruption_is_of_the_input_alone(make, kind, amount):
    recipe = make(EXACT | {"corruption": kind, "corruption_amount": amount})
    f = forward_in_numpy(recipe, trainer_of(recipe))
    if kind == "gaussian":
        assert (f.corrupted - f.x).std() == pytest.approx(amount, rel=0.05)
    else:
        lost = f.corrupted.reshape(4, -1) != f.x.reshape(4, -1)
        assert (lost.sum(1) <= 0.75 * lost.shape[1]).all() and lost.mean() > 0.7
        assert (f.corrupted[f.corrupted != f.x] == 0).all()


def test_both_networks_learn_from_their_own_term(make):
    """The decoder from what the discriminator says of its images, with the adaptive weight; the
    discriminator from its own loss alone; and neither before the first step of the game."""
    recipe = make(EXACT | GAN | {"adversarial_start": 3})
    trainer = trainer_of(recipe)
    names = list(trainer.parameters)
    before = gradients(trainer, 2)
    assert all((before[n] is None) == n.startswith("discriminator") for n in names)

    together = gradients(trainer, 3)
    data = FolderDataset(recipe.data.source, recipe.data.size)
    _, x = image_batch(data, step_generator(0, 3, "autoencoder"), 4, OPS)
    params = trainer.params
    f = forward(
        OPS, params, recipe.model.vae, recipe.autoencoder.objective, x, make_noise(0, 3, OPS)
    )
    from ldmref.training.autoencoder.stage import discriminator

    last = params.decoder.conv_out.weight
    fake, real = (discriminator(OPS, params.discriminator, p) for p in (f.y, x))
    reconstruction = (f.y - x).square().mean()
    generator = -fake.mean()
    norms = [
        float(torch.autograd.grad(t, last, retain_graph=True)[0].norm())
        for t in (reconstruction, generator)
    ]
    weight = 0.5 * norms[0] / (norms[1] + 1e-6)
    assert float(trainer.loss(OPS, params, 3, Part()).metrics["adversarial"]) == pytest.approx(
        weight, 1e-4
    )

    tensors = [trainer.parameters[n] for n in names]
    autoencoder = torch.autograd.grad(
        reconstruction + weight * generator, tensors, retain_graph=True, allow_unused=True
    )
    hinge = (1 - real).relu().mean() + (1 + fake).relu().mean()
    other = torch.autograd.grad(hinge, tensors, allow_unused=True)
    for name, a, b in zip(names, autoencoder, other, strict=True):
        expected = b if name.startswith("discriminator") else a
        assert together[name] is not None and expected is not None, name
        torch.testing.assert_close(together[name], expected, rtol=2e-3, atol=2e-6)


def gradients(trainer, step):
    for parameter in trainer.parameters.values():
        parameter.grad = None
    trainer.loss(OPS, trainer.params, step, Part()).total.backward()
    return {name: p.grad for name, p in trainer.parameters.items()}


def test_each_network_is_clipped_by_itself(make):
    trainer = trainer_of(make(EXACT | GAN | {"adversarial_start": 0}))
    assert len(trainer.clipped) == 2
    networks = [{id(p) for p in group} for group in trainer.clipped]
    for name, parameter in trainer.parameters.items():
        assert id(parameter) in networks[name.startswith("discriminator")]


# -- codebooks ------------------------------------------------------------------------------------


def filled(codes, rows, counts):
    """Parameters with a codebook, and a forward pass with these encoder outputs."""
    codes, rows = (torch.tensor(a, dtype=torch.float32) for a in (codes, rows))
    use = {"counts": torch.tensor(counts), "sums": torch.tensor(counts)[:, None] * codes}
    params = unflatten(
        {"quantize.embedding.weight": codes} | {f"use.{k}": v for k, v in use.items()}
    )
    indices = torch.cdist(rows, codes).argmin(-1)
    empty = torch.empty(0)
    f = Forward(empty, empty, empty, empty, empty, params, rows, codes[indices], indices)
    return params, f


def test_the_moving_average_of_a_codebook(make):
    objective = make(
        EXACT | {"codebook_decay": 0.5, "revive_below": 0}, {"codebook_size": 2}
    ).autoencoder.objective
    params, f = filled([[0.0], [10.0]], [[[1.0], [2.0], [9.0]]], [1.0, 2.0])
    update_codebook(params, f, objective, np.random.default_rng(0))
    assert params.use.counts.tolist() == [1.5, 1.5]  # (1 + 2) / 2, (2 + 1) / 2
    assert params.use.sums.flatten().tolist() == [1.5, 14.5]  # 3 / 2, (20 + 9) / 2
    codes = params.quantize.embedding.weight.flatten()
    assert codes.tolist() == pytest.approx([1.0, 14.5 / 1.5])


def test_a_code_that_was_never_used_stays_where_it_is(make):
    objective = make(
        EXACT | {"codebook_decay": 0.5, "revive_below": 0}, {"codebook_size": 2}
    ).autoencoder.objective
    params, f = filled([[0.0], [10.0]], [[[1.0], [2.0]]], [0.0, 0.0])
    update_codebook(params, f, objective, np.random.default_rng(0))
    assert params.quantize.embedding.weight.flatten().tolist() == [1.5, 10.0]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_dead_codes_become_encoder_outputs(make, decay):
    objective = make(
        EXACT | {"codebook_decay": decay, "revive_below": 0.2}, {"codebook_size": 2}
    ).autoencoder.objective
    params, f = filled([[0.0], [99.0]], [[[0.0], [0.0], [0.0], [7.0]]], [2.0, 0.01])
    update_codebook(params, f, objective, np.random.default_rng(0))
    alive, revived = params.quantize.embedding.weight.flatten().tolist()
    assert revived == 7.0  # the output that is far from its code
    assert (alive == 0.0) == (decay == 0.0)  # without a moving average, its gradient moves it
    assert params.use.counts[1] == 2.0 and params.use.sums[1] == 14.0  # the mean use: 4 / 2


def test_revival_brings_codes_into_use(make):
    """28 of the 32 codes begin far from every latent."""
    perplexities = []
    for revive_below in (0.0, 0.05):
        recipe = make(EXACT | {"revive_below": revive_below}, {"codebook_size": 32}, steps=20)
        trainer = trainer_of(recipe)
        with torch.no_grad():
            trainer.parameters["quantize.embedding.weight"][4:] = 1e3
        *_, last = trainer.run()
        perplexities.append(last.metrics["perplexity"])
    assert perplexities[0] <= 4 and perplexities[1] > 8


def test_a_codebook_that_is_an_average_has_no_gradient(make):
    trainer = trainer_of(make(EXACT | {"codebook_decay": 0.9}, {"codebook_size": 8}))
    assert gradients(trainer, 0)["quantize.embedding.weight"] is None
    trainer = trainer_of(make(EXACT, {"codebook_size": 8}))
    assert gradients(trainer, 0)["quantize.embedding.weight"] is not None


# -- what comes out -------------------------------------------------------------------------------


def test_exact_latents_have_no_noise(make, tmp_path):
    recipe = make(EXACT, steps=3)
    trainer = trainer_of(recipe)
    list(trainer.run())
    data = FolderDataset(recipe.data.source, recipe.data.size)
    params = tree_map(OPS.asarray, trainer.ema_params())
    vae = recipe.model.vae
    latents = stored_latents(tmp_path, data, summarize(data), params, vae, OPS)
    assert np.ptp(latents.mean) > 0 and (latents.logvar == -30).all()


@pytest.mark.parametrize("kind", ["kl", "codebook", "sigmoid"])
def test_the_exported_autoencoder_is_the_trained_one(make, out, kind):
    objective, vae = {
        "kl": ({}, {"attention_levels": [False, True]}),
        "codebook": (EXACT, {"codebook_size": 8}),
        "sigmoid": (EXACT | {"sparsity_weight": 1}, {"latent_activation": "sigmoid"}),
    }[kind]
    recipe = make(objective, vae, steps=2)
    exported = read_vae(train(recipe, out))
    config = replace(exported.config, norm_eps=recipe.model.vae.norm_eps)
    assert config == replace(recipe.model.vae, scaling_factor=config.scaling_factor)
    checkpoint = read_checkpoint(out / "autoencoder.safetensors")[1]
    for name, tensor in exported.tensors.items():
        assert np.array_equal(np.ravel(tensor), np.ravel(checkpoint[f"ema.{name}"])), name
    params = tree_map(OPS.asarray, unflatten(exported.tensors))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    z = encode(OPS, params, config, x)[0]
    assert decode(OPS, params, config, z).shape == x.shape
    assert bool(((z > 0) & (z < 1)).all()) == (kind == "sigmoid")


@pytest.mark.parametrize("kind", ["kl", "codebook"])
def test_diffusers_reads_the_exported_autoencoder(make, out, kind):
    diffusers = pytest.importorskip("diffusers")
    recipe = make(*{"kl": ({}, {}), "codebook": (EXACT, {"codebook_size": 8})}[kind], steps=2)
    folder = train(recipe, out)
    exported = read_vae(folder)
    theirs = (diffusers.VQModel if kind == "codebook" else diffusers.AutoencoderKL).from_pretrained(
        folder
    )
    params = tree_map(OPS.asarray, unflatten(exported.tensors))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        encoded = theirs.encode(x)
        z = encoded.latents if kind == "codebook" else encoded.latent_dist.mean
        y = theirs.decode(z).sample
        mean, _ = encode(OPS, params, exported.config, x)
        torch.testing.assert_close(mean, z, rtol=1e-4, atol=1e-5)
        ours = decode(OPS, params, exported.config, mean)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-5)


# -- failures -------------------------------------------------------------------------------------


def test_a_layer_that_is_not_finite_is_named(make, out):
    trainer = trainer_of(make(EXACT))
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    before["decoder.conv_in.bias"][0] = np.inf
    with torch.no_grad():
        trainer.parameters["decoder.conv_in.bias"][0] = np.inf
    with pytest.raises(NumericError) as caught:
        list(trainer.run())
    message = str(caught.value)
    assert caught.value.code == "E-NAN" and "step 1" in message and "decoder.conv_in" in message
    batch = image_batch(
        FolderDataset(make().data.source, 16), step_generator(0, 0, "autoencoder"), 4, OPS
    )[0]
    assert ", ".join(map(str, batch)) in message
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_a_gradient_that_is_not_finite_is_named(make, monkeypatch):
    """The loss is finite, but not its derivative: sqrt at 0."""
    recipe = make(EXACT)
    forward_pass = stage_module.forward

    def poisoned(ops, params, *args):
        f = forward_pass(ops, params, *args)
        zero = (params.encoder.conv_in.bias * 0).sum()
        return replace(f, y=f.y + zero.sqrt())

    monkeypatch.setattr(stage_module, "forward", poisoned)
    with pytest.raises(NumericError) as caught:
        list(trainer_of(recipe).run())
    assert "gradient of encoder.conv_in.bias" in str(caught.value)


MISTAKES = {
    "nothing compares": (EXACT | {"square_weight": 0}, {}),
    "divergence twice": ({"elbo_weight": 1}, {}),
    "divergence of codes": ({}, {"codebook_size": 8}),
    "penalty on codes": (EXACT | {"l1_weight": 1}, {"codebook_size": 8}),
    "no activation": (EXACT | {"sparsity_weight": 1}, {}),
    "no sparsity": (EXACT, {"latent_activation": "sigmoid"}),
    "noise on sparse latents": ({"l1_weight": 1}, {}),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_objectives_that_do_not_fit(make, kind):
    with pytest.raises(LdmrefError) as caught:
        make(*MISTAKES[kind])
    assert caught.value.code == "E-RECIPE" and "\n" not in str(caught.value)


@pytest.mark.parametrize("stages", [[], ["diffusion"], ["autoencoder"] * 2, "autoencoder", [1]])
def test_stages_are_trained_in_order(make, stages):
    with pytest.raises(LdmrefError) as caught:
        make(stages=stages)
    assert caught.value.code == "E-RECIPE"


def test_the_features_learn_the_words(make):
    recipe = make(steps=3)
    data = FolderDataset(recipe.data.source, 16)
    stage = replace(recipe.features, budget=replace(recipe.features.budget, steps=60))
    losses = [step.loss for step in feature_trainer(data, stage, 0, OPS).run()]
    assert losses[-1] < 0.7 * losses[0]


def test_the_perceptual_term_is_zero_for_equal_images(make):
    from ldmref.training.autoencoder.features import features
    from ldmref.training.autoencoder.terms import perceptual

    recipe = make(EXACT | {"perceptual_weight": 1})
    data = FolderDataset(recipe.data.source, 16)
    network = feature_trainer(data, recipe.features, 0, OPS).params
    distance = perceptual(lambda x: features(OPS, network, x))
    x = torch.rand(2, 3, 16, 16)
    empty = torch.empty(0)
    objective = recipe.autoencoder.objective
    same, other = (
        distance(objective, Forward(x, x, y, empty, empty, network)) for y in (x, x.flip(0))
    )
    assert float(same.detach()) == 0.0 and float(other.detach()) > 0.0
    assert set(flatten(network)) >= {"convs.0.weight", "words.weight"}
