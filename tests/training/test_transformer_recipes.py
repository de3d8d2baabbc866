"""Transformers of image and text from nothing: the step, its times, resuming, and the model."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from scipy.integrate import quad

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

from noisy_batches import scaled_latents  # noqa: E402

import ldmref  # noqa: E402
from ldmref import modes  # noqa: E402
from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.errors import Cancelled  # noqa: E402
from ldmref.families.sd3.network import make_positions  # noqa: E402
from ldmref.io.tensors.safetensors import TensorFile  # noqa: E402
from ldmref.models.family import family_of  # noqa: E402
from ldmref.models.params import flatten  # noqa: E402
from ldmref.training.diffusion.stage import initial_params  # noqa: E402
from ldmref.training.family_rules import training_rules_of  # noqa: E402
from ldmref.training.finetune.recipe import FineTuneRecipe  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402

STEPS = 5
BATCH = 4
LOGIT = {"logit_mean": 0.3, "logit_std": 0.8}
SDXL = {
    "preset": "sdxl",
    "vae": {"block_out_channels": [8, 12], "norm_num_groups": 4, "layers_per_block": 1},
    "unet": {
        "block_out_channels": [16, 32],
        "attention_levels": [False, True],
        "num_heads": [2, 2],
        "transformer_layers_per_block": [1, 1],
        "cross_attention_dim": 24,
        "norm_num_groups": 8,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56,
    },
}
TEXT = {
    "vocab_size": 512,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
SDXL |= {
    "text_encoder": TEXT | {"hidden_size": 16},
    "text_encoder_2": TEXT | {"hidden_size": 8, "projection_dim": 8},
}
MODELS = {
    "sd3": {"preset": "sd3-tiny"},
    "sd3-without-t5": {"preset": "sd3-tiny", "text_encoder_3": {"model_type": "none"}},
    "flux": {"preset": "flux-tiny", "text_encoder_2": {"max_position_embeddings": 24}},
    "sdxl": SDXL,
}
FLOWS = ["sd3", "flux"]


def recipe_of(name, steps=STEPS):
    optimizer = {"batch_size": BATCH, "warmup": 1}
    return recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": MODELS[name],
            "autoencoder": {"optimizer": optimizer, "budget": {"steps": 1}},
            "diffusion": {
                "objective": LOGIT,
                "optimizer": optimizer,
                "budget": {"steps": steps},
            },
            "progress": {"seconds": 0},
        }
    )


class Steps:
    """Keeps the batches of a training, and the norm of each gradient."""

    def __init__(self):
        self.batches = []
        self.rates = []

    def begin(self, step, ops):
        return ops

    def batch(self, batch):
        self.batches.append(batch)

    def end(self, gradients, norm, loss, rate):
        self.rates.append((norm, loss))


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory):
    """(name, the observed steps, the folder of the run) of an uninterrupted training."""
    folder = tmp_path_factory.mktemp(request.param)
    steps = Steps()
    train(recipe_of(request.param), folder, observer=steps)
    return request.param, steps, folder


def share_below(time, shift):
    """Integrate eq. 19 of Esser et al. 2024 up to a shifted time (eq. 23) with quadrature."""
    m, s = LOGIT["logit_mean"], LOGIT["logit_std"]

    def density(t):
        logit = np.log(t / (1 - t))
        return np.exp(-((logit - m) ** 2) / (2 * s * s)) / (s * np.sqrt(2 * np.pi) * t * (1 - t))

    return quad(density, 0.0, time / (shift - (shift - 1) * time), epsabs=1e-10)[0]


def test_the_step_is_that_of_the_paper(trained):
    """x_s, target and loss; a time in each n-th of the density, which SciPy integrates.

    Flux.1 shifts by e^mu with mu linear in the tokens: 16 here, 0.5 at 256 and 1.15 at 4096.
    """
    name, steps, _ = trained
    if name == "sdxl":
        pytest.skip("no flow")
    shift = 3.0 if name != "flux" else np.exp(0.5 + (1.15 - 0.5) / (4096 - 256) * (16 - 256))
    assert len(steps.batches) == STEPS
    for batch, (_, loss) in zip(steps.batches, steps.rates, strict=True):
        x0, eps, xt, v = (
            np.asarray(z.detach(), np.float64)
            for z in (batch.x0, batch.noise, batch.x_t, batch.prediction)
        )
        s = np.asarray(batch.timesteps) / 1000
        want = (1 - s)[:, None, None, None] * x0 + s[:, None, None, None] * eps
        assert np.abs(xt - want).max() < 4 * np.finfo(np.float32).eps * np.abs(want).max()
        assert np.array_equal(np.asarray(batch.target), np.asarray(batch.noise - batch.x0))
        errors = ((v - (eps - x0)) ** 2).mean((1, 2, 3))
        np.testing.assert_allclose(np.asarray(batch.losses.detach()), errors, rtol=1e-5)
        assert abs(loss - errors.mean()) < 1e-5 * loss
        shares = np.asarray([share_below(time, shift) for time in s])
        assert (
            (np.arange(BATCH) <= shares * BATCH) & (shares * BATCH <= np.arange(1, BATCH + 1))
        ).all()


def test_every_network_of_the_family_is_trained_but_what_is_computed(trained):
    name, _, folder = trained
    recipe = recipe_of(name)
    start = flatten(initial_params(recipe.model, recipe.seed))
    found = TensorFile(folder / "diffusion.safetensors")
    ends = {n: np.asarray(found["params." + n]).reshape(x.shape) for n, x in start.items()}
    moved = {n for n, x in start.items() if not np.array_equal(ends[n], x)}
    encoders = {"text_encoder", "text_encoder_2", "text_encoder_3"}
    present = encoders & {n.partition(".")[0] for n in start}
    assert len(present) == len(recipe.model.text_encoders)
    assert {n.partition(".")[0] for n in moved} == {recipe.model.denoiser.network} | present
    fixed = training_rules_of(family_of(recipe.model)).fixed(recipe.model)
    assert not moved & fixed.keys()
    if name.startswith("sd3"):
        assert fixed.keys() == {"transformer.pos_embed.pos_embed"}
        table = make_positions(recipe.model.denoiser)
        assert np.array_equal(start["transformer.pos_embed.pos_embed"], table)


def test_stopped_and_resumed_it_is_the_same_model_bit_for_bit(trained, tmp_path):
    name, _, folder = trained
    stop = Event()

    class Stopping(Steps):
        def end(self, *arguments):
            super().end(*arguments)
            if len(self.rates) == 2:
                stop.set()

    with pytest.raises(Cancelled):
        train(recipe_of(name), tmp_path, observer=Stopping(), cancel=stop)
    train(recipe_of(name), tmp_path)
    for file in ("diffusion.safetensors", "model/model.safetensors"):
        one, other = TensorFile(folder / file), TensorFile(tmp_path / file)
        assert one.keys() == other.keys()
        for key in one:
            assert np.array_equal(np.asarray(one[key]), np.asarray(other[key])), key


def test_the_model_generates_with_the_words_of_the_captions(trained):
    name, _, folder = trained
    model = ldmref.load(folder / "model")
    lengths = [text.max_position_embeddings for text in model.config.text_encoders]
    assert [tokenizer.length for tokenizer in model.tokenizers] == lengths
    words = {tokenizer.tokenizer.to_str() for tokenizer in model.tokenizers}
    assert len(words) == 1 and model.tokenizer.end == 3
    result = modes.txt2img(model, "red heart", steps=2, seed=1)
    assert result.images[0].size == (16, 16)
    assert not [line for line in result.warnings if "never saw" in line]
    recipe = recipe_of(name)
    assert model.config.vae.scaling_factor != recipe.model.vae.scaling_factor
    centred = recipe.model.vae.shift_factor != 0
    assert centred == (model.config.vae.shift_factor != 0)


def test_latents_of_a_centred_autoencoder_have_mean_0_and_variance_1(trained):
    name, _, folder = trained
    vae = ldmref.load(folder / "model").config.vae
    moments = np.load(next(folder.glob("latents-*.npy"))).astype(np.float64)
    mean = moments[:, 0].mean()
    assert vae.shift_factor == pytest.approx(mean if name != "sdxl" else 0.0, rel=1e-9)
    variance = (moments[:, 0] ** 2 + np.exp(moments[:, 1])).mean() - mean**2
    assert vae.scaling_factor**2 * variance == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("name", ["sd3", "sdxl"])
def test_a_dropped_caption_is_what_guidance_reads_without_one(name, tmp_path):
    """Zeros where the family's negative prompts are zeros, otherwise the empty prompt."""
    from ldmref.models.model import LatentDiffusion
    from ldmref.modes.text import encode_texts
    from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, tokenize_for_encoders
    from ldmref.prompts.words import word_tokenizer
    from ldmref.training.diffusion.stage import condition_on_tokens

    config = recipe_of(name).model
    tokenizer = PromptTokenizer(word_tokenizer(["red heart"], 8, pooled=True), 16)
    ops = TorchBackend()
    params = initial_params(config, 0)
    model = LatentDiffusion(ops, config, params, tokenizer)
    compiled = lambda function, network: ops.compile(function, model.params[network])  # noqa: E731
    with torch.no_grad():
        prompts = ["red heart", ""]
        tokens = tokenize_for_encoders(model.tokenizers, prompts, PromptOptions())
        got = condition_on_tokens(ops, config, tokens, prompts, compiled, (16, 16))
        text = encode_texts(model, ["red heart"], [""], (16, 16)).conditionings(slice(0, 1))
    for i, kind in enumerate(("cond", "uncond")):
        want = text[kind]
        assert torch.allclose(got.context[i], want.context[0], atol=1e-6)
        assert torch.allclose(got.pooled[i], want.pooled[0], atol=1e-6)
    assert (got.context[1] == 0).all() == config.zero_empty_negative


def test_a_full_fine_tuning_leaves_the_positions_alone():
    from ldmref.training.diffusion.latents import Latents
    from ldmref.training.finetune.adapters import make_adapter
    from ldmref.training.finetune.stage import RecordingBackend, fine_tune_trainer
    from ldmref.training.recipes.schema import Budget

    model = ldmref.random_model("sd3-tiny", backend=RecordingBackend("cpu", "float32"))
    settings = FineTuneRecipe(base="sd3-tiny", method="full")
    settings = replace(
        settings,
        data=replace(settings.data, size=16),
        diffusion=replace(settings.diffusion, budget=Budget(2)),
    )
    adapter = make_adapter(settings, model, lambda i, rng: "red heart")
    mean = np.random.default_rng(0).standard_normal((3, *model.latent_shape(16, 16)))
    latents = Latents(mean.astype(np.float32), np.full(mean.shape, -20.0, np.float32))
    noisy = scaled_latents(latents, np.ones(3), 1.0, model.backend)
    trainer = fine_tune_trainer(settings, model.config, adapter, noisy, model.backend)
    list(trainer.run())
    before, after = flatten(adapter.initial), flatten(trainer.ema_params())
    moved = {n for n, x in before.items() if not np.array_equal(x, after[n])}
    assert "transformer.pos_embed.pos_embed" not in moved
    assert "transformer.pos_embed.proj.weight" in moved
