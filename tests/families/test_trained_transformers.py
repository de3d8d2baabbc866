"""Transformers that a recipe trained: gradients of the step, and images, of diffusers' pipelines.

The pipelines tokenize, encode and condition on their own; only weights and words are ours.
"""

from __future__ import annotations

import numpy as np
import pytest
from noisy_batches import scaled_latents

import ldmref
from ldmref import modes

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from diffusers import FluxPipeline  # noqa: E402

from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.io.tensors.safetensors import TensorFile  # noqa: E402
from ldmref.models.params import Params, flatten, unflatten  # noqa: E402
from ldmref.passport.pipelines import make_pipeline  # noqa: E402
from ldmref.training.diffusion.latents import Latents  # noqa: E402
from ldmref.training.diffusion.stage import Condition, DenoiserTraining, diffusion_trainer  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402
from ldmref.training.training_run import train  # noqa: E402

WORDS = ["red heart", "yellow moon", "peanuts", ""]
STEPS = 30
TOLERANCE = 1e-9  # of a network's largest gradient, in float64


def recipe_of(preset):
    optimizer = {"batch_size": 4, "warmup": 1, "learning_rate": 0.01}
    return recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": {"preset": preset},
            "autoencoder": {"optimizer": optimizer, "budget": {"steps": 1}},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": STEPS}},
            "progress": {"seconds": 0},
        }
    )


@pytest.fixture(scope="module", params=["sd3-tiny", "flux-tiny"])
def trained(request, tmp_path_factory):
    """(the trained model, the file of its words)."""
    folder = train(recipe_of(request.param), tmp_path_factory.mktemp(request.param))
    return ldmref.load(folder), folder / "tokenizer.json"


def rename(module, name):
    """Return a name in transformers, some versions of which leave out `text_model.`"""
    bare = name.removeprefix("text_model.")
    return bare if bare in module.state_dict() else name


def pipeline(model, words):
    """Return diffusers' pipeline with the weights of a model, as it splits the words of a file."""
    made = make_pipeline(model, {"sampler": "euler"})
    for i, text in enumerate(model.config.text_encoders):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(words),
            model_max_length=text.max_position_embeddings,
            pad_token="<pad>",
            unk_token="<unknown>",
        )
        setattr(made, f"tokenizer_{i + 1}" if i else "tokenizer", tokenizer)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(True)
    return made


def test_images_are_those_of_diffusers(trained):
    model, words = trained
    config = model.config
    pipe = pipeline(model, words)
    length = config.text_encoders[-1].max_position_embeddings
    options = {"width": 16, "height": 16, "num_inference_steps": 4, "output_type": "np"}
    for prompt in WORDS[:2]:
        want = pipe(
            prompt,
            guidance_scale=config.defaults.cfg_scale,
            generator=torch.Generator().manual_seed(3),
            max_sequence_length=length,
            **options,
        ).images[0]
        found = modes.txt2img(model, prompt, seed=3, rng="torch", steps=4)
        difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
        assert difference.max() <= 1


class Gradients:
    """Keeps the batch and the gradients of a step."""

    def begin(self, step, ops):
        return ops

    def batch(self, batch):
        self.seen = batch

    def end(self, gradients, norm, loss, rate):
        self.gradients = {name: x.clone() for name, x in gradients.items()}
        self.loss = loss


def test_gradients_of_the_step_are_those_of_diffusers(trained, monkeypatch):
    """Of the squared error of the velocity eps - x0, through transformer and text encoders."""
    model, words = trained
    config = model.config
    ops = TorchBackend("cpu", "float64")
    recipe = recipe_of("sd3-tiny")  # for its optimizer
    moments = np.random.default_rng(0).standard_normal((2, 4, *model.latent_shape(16, 16)))
    noisy = scaled_latents(Latents(*moments), np.ones(4), 1.0, ops)
    networks = {n: model.params[n] for n in model.params if n != "vae"}
    params = Params(unflatten({n: np.asarray(x) for n, x in flatten(networks).items()}))
    watch = Gradients()
    condition = Condition(lambda i, rng: WORDS[i], model.tokenizers)
    training = DenoiserTraining(config, recipe.diffusion, 0, ops)
    trainer = diffusion_trainer(noisy, condition, training, params, observer=watch)
    next(trainer.run())

    pipe = pipeline(model, words)
    exact_norms(monkeypatch)
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.double()
    x0, eps, xt = (torch.as_tensor(z) for z in (watch.seen.x0, watch.seen.noise, watch.seen.x_t))
    times = torch.as_tensor(watch.seen.timesteps)
    length = config.text_encoders[-1].max_position_embeddings
    texts = dict(prompt=list(watch.seen.prompts), max_sequence_length=length)
    if config.denoiser.family == "sd3":
        network = sd3_networks.in_float64(pipe.transformer)
        states, _, pooled, _ = pipe.encode_prompt(
            prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, **texts
        )
        velocity = network(xt, states, pooled, times).sample
    else:
        network = flux_networks.in_float64(pipe.transformer, monkeypatch)
        states, pooled, ids = pipe.encode_prompt(prompt_2=None, **texts)
        n, c, h, w = xt.shape
        packed = FluxPipeline._pack_latents(xt, n, c, h, w)
        places = FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, "cpu", xt.dtype)
        scale = torch.full((n,), config.defaults.cfg_scale, dtype=torch.float64)
        tokens = network(packed, states, pooled, times / 1000, places, ids, scale).sample
        velocity = FluxPipeline._unpack_latents(tokens, 4 * h, 4 * w, 4)
    loss = (velocity - (eps - x0)).square().mean()
    loss.backward()
    assert abs(loss.item() - watch.loss) < TOLERANCE * watch.loss
    compared = 0
    for part in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        ours = {n: g for n, g in watch.gradients.items() if n.startswith(f"{part}.")}
        if not ours:
            continue
        module = getattr(pipe, part)
        parameters = dict(module.named_parameters())
        theirs = {n: parameters[rename(module, n.partition(".")[2])].grad for n in ours}
        largest = max(g.abs().max().item() for g in theirs.values())
        for name, gradient in theirs.items():
            error = (ours[name].view(gradient.shape) - gradient).abs().max().item()
            assert error < TOLERANCE * largest, name
        compared += len(theirs)
    assert compared == len(watch.gradients) > 100


def exact_norms(monkeypatch):
    """T5's norms in the type of their input, without a step in float32."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    def forward(self, x):
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight

    monkeypatch.setattr(T5LayerNorm, "forward", forward)


def test_the_file_holds_every_network(trained):
    model, words = trained
    names = {n.partition(".")[0] for n in TensorFile(words.parent / "model.safetensors")}
    encoders = {"text_encoder", "text_encoder_2", "text_encoder_3"}
    assert names == {"transformer", "vae", *sorted(encoders)[: len(model.config.text_encoders)]}
