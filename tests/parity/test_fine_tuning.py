"""Fine-tuned checkpoints of Stable Diffusion generate the same image in diffusers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.models.params import flatten
from ldmref.training.recipes.file import recipe_from_dict

torch = pytest.importorskip("torch")
from ldmref.training.finetune.finetuning_run import fine_tune  # noqa: E402

PROMPT = "a red <toy>"
RUNS = ["sd1", "sd2", "sdxl"]


@pytest.fixture
def tuned(folder, tmp_path):
    """method -> the file, or the folder, that six steps on two images leave."""
    images = tmp_path / "images"
    images.mkdir()
    for name, colour in (("red", "red"), ("cat", "grey")):
        Image.new("RGB", (16, 16), colour).save(images / f"{name}.png")

    def tuned(method):
        optimizer = {"batch_size": 2, "warmup": 1, "learning_rate": 0.02}
        tables = {
            "base": str(folder),
            "method": method,
            "data": {"source": str(images), "size": 16},
            "lora": {"rank": 2, "targets": ["attention", "convolutions", "text"]},
            "textual_inversion": {"word": "<toy>", "initial": "red", "vectors": 2},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": 6}},
        }
        return fine_tune(recipe_from_dict(tables), tmp_path / method)

    return tuned


def latents_of(pipe):
    """diffusers' latents."""
    seed = torch.Generator("cpu").manual_seed(1)
    drawn = pipe(
        PROMPT,
        width=16,
        height=16,
        generator=seed,
        num_inference_steps=4,
        guidance_scale=4.0,
        output_type="latent",
    )
    return drawn.images.numpy()


def ours(source, **adapters):
    """Our image's latents, unscaled as diffusers' are."""
    model = ldmref.load(source, backend="torch", speed="exact", **adapters)
    made = modes.txt2img(
        model, PROMPT, width=16, height=16, seed=1, steps=4, cfg_scale=4.0, rng="torch"
    )
    return np.asarray(made.latents)


def assert_drawn_alike(got, want, before):
    """Within 2 % of what the fine-tuning has changed: files hold float16."""
    moved = np.abs(want - before).max()
    assert moved > 0.05 * np.abs(before).max()
    assert np.abs(got - want).max() < 0.02 * moved


@pytest.mark.parametrize("family", RUNS, indirect=True)
def test_a_lora_draws_in_diffusers_as_here(folder, theirs, tuned):
    pytest.importorskip("peft")
    file = tuned("lora")
    pipe = copy.deepcopy(theirs)
    before = latents_of(pipe)
    pipe.load_lora_weights(file.parent, weight_name=file.name)
    assert_drawn_alike(ours(folder, lora=[file]), latents_of(pipe), before)


@pytest.mark.parametrize("family", RUNS[:2], indirect=True)
def test_a_word_draws_in_diffusers_as_here(folder, theirs, tuned):
    file = tuned("textual_inversion")
    pipe = copy.deepcopy(theirs)
    before = latents_of(pipe)
    pipe.load_textual_inversion(str(file))
    assert_drawn_alike(ours(folder, embeddings=[file]), latents_of(pipe), before)


@pytest.mark.parametrize("family", RUNS, indirect=True)
def test_a_fully_fine_tuned_model_is_complete(folder, tuned):
    model = ldmref.load(tuned("full"))
    base = ldmref.load(folder)
    before = flatten(dict(base.params))
    changed = {
        name.partition(".")[0]
        for name, x in flatten(dict(model.params)).items()
        if not np.array_equal(x, before[name].astype(np.float16))
    }
    assert changed == {*base.params} - {"vae"}
    assert model.config.scheduler == base.config.scheduler
    assert not np.allclose(ours(folder), ours(tuned("full")), atol=0.01)
