"""Lengths of prompts at and above the usual limit: the images are those of diffusers' pipelines."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.models.family import family_of, list_families, with_text_length
from ldmref.models.presets import preset

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import flux2_pipelines
import flux3_pipelines
import krea2_pipelines
import qwen_image_21_pipelines
import torch
import z_image_pipelines
from qwen3_networks import write_vocabulary

SIZE = {"width": 32, "height": 32}
# A word is more than one token of the small vocabularies.
WORDS = " ".join(["a red cat", "the blue house", "a dog on a table"] * 400).split()


class Subject:
    """A pipeline of diffusers, with the arguments of its calls and ours."""

    def __init__(self, pipe, theirs, ours, scale):
        self.pipe = pipe
        self.theirs = theirs
        self.ours = ours
        self.scale = scale

    def save(self, folder):
        self.pipe.save_pretrained(folder)

    def image(self, prompt, more):
        generator = torch.Generator().manual_seed(5)
        options = {"num_inference_steps": 2, "output_type": "np", **SIZE, **self.theirs, **more}
        return self.pipe(prompt=prompt, generator=generator, **options).images[0]


class Modular(Subject):
    """FLUX.3, whose pipeline is modular."""

    def save(self, folder):
        flux3_pipelines.save_pipeline(self.pipe, folder)

    def image(self, prompt, more):
        options = {"num_inference_steps": 2, **SIZE, **more}
        return flux3_pipelines.run(self.pipe, prompt, 5, 1.0, **options)


def make(name, folder):
    if name == "qwen-image-2.1":
        size = {"width": 64, "height": 64}
        return Subject(qwen_image_21_pipelines.make_pipeline(), size, size, 1.0)
    if name == "krea-2":
        (folder / "words").mkdir()
        pipe = krea2_pipelines.make_pipeline(folder / "words")
        return Subject(pipe, {"guidance_scale": 0.0}, {}, 1.0)
    words = write_vocabulary(folder / "words")
    if name == "z-image":
        return Subject(z_image_pipelines.make_pipeline(words), {"guidance_scale": 0.0}, {}, 1.0)
    if name == "flux2":
        layers = {"text_encoder_out_layers": flux2_pipelines.LAYERS}
        options = {"guidance_scale": 1.0} | layers
        return Subject(flux2_pipelines.make_pipeline(words), options, {}, 1.0)
    return Modular(flux3_pipelines.make_pipeline(words), {}, {}, 1.0)


FAMILIES = ("z-image", "flux2", "krea-2", "flux3", "qwen-image-2.1")


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    subject = make(request.param, folder)
    subject.save(folder / "model")
    return request.param, subject, ldmref.load(folder / "model", backend="torch")


@pytest.mark.parametrize("length", [512, 600])
def test_images_of_long_prompts_are_those_of_diffusers(made, length):
    """At the limit that models are published with, and above it; the prompt is cut by both."""
    name, subject, model = made
    more = {} if name == "qwen-image-2.1" else {"max_sequence_length": length}
    prompt = " ".join(WORDS[:length])  # of more tokens than words
    want = subject.image(prompt, more)
    if want.shape[-1] == 4:
        want = want[..., :3] * want[..., 3:] + 1.0 - want[..., 3:]
    options = {"seed": 5, "rng": "torch", "steps": 2, "cfg_scale": subject.scale} | SIZE
    found = modes.txt2img(model, prompt, **options | subject.ours | more)
    apart = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert apart.max() <= 1
    cut = any("left out" in line for line in found.warnings)
    assert cut == (name != "qwen-image-2.1")


def test_qwen_image_reads_prompts_whole_unless_it_is_told_a_length(tmp_path):
    model = ldmref.random_model("qwen-image-2.1-tiny")
    prompt = "red cat " * 200
    options = {"seed": 1, "steps": 1} | SIZE
    whole = modes.txt2img(model, prompt, **options)
    assert not whole.warnings and model.tokenize([prompt]).truncated == [0]
    cut = modes.txt2img(model, prompt, max_sequence_length=160, **options)
    assert any("left out" in line for line in cut.warnings)
    assert np.abs(whole.latents - cut.latents).max() > 1e-3
    short = model.tokenize(["red cat"])
    assert short.ids.shape == (1, 1, 160)  # as before


@pytest.mark.parametrize("family", [x.name for x in list_families() if x.text.with_length])
def test_the_largest_number_of_tokens_is_declared(family):
    """512 for T5, as in diffusers' pipelines; the context of the language model for others."""
    names = [n for f in list_families() if f.name == family for n in f.presets]
    config = preset(names[0])
    most = family_of(config).text.longest
    assert most == (512 if family in ("sd3", "flux") else 40960)
    with_text_length(config, most)
    with pytest.raises(UsageError, match=f"reads at most {most} tokens.*not {most + 1}"):
        with_text_length(config, most + 1)
