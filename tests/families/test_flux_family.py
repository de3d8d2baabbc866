"""Flux.1 as a family: whole images against diffusers, its guidance, and the tools by its name."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import LdmrefError
from ldmref.models import config_from_dict, preset

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_pipeline  # noqa: E402

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
PACKED = diffusers.FluxPipeline._pack_latents(torch.tensor(LATENTS), 1, 4, 8, 12)


def run(*arguments):
    """Run a command of ldmref; its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module", params=[True], ids=["dev"])
def made(request, tmp_path_factory):
    """(diffusers' pipeline, the folder that it writes)."""
    pipe = make_pipeline(request.param)
    folder = tmp_path_factory.mktemp("flux") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


BOTH = pytest.mark.parametrize("made", [True, False], indirect=True, ids=["dev", "schnell"])
SCHNELL = pytest.mark.parametrize("made", [False], indirect=True, ids=["schnell"])


def compare(found, want):
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1


# -- images ---------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("length", [2, 77, 256])
def test_images_with_another_text_length_are_those_of_diffusers(made, backend, length):
    """T5 is attended to as far as it is filled up, so each length has an image of its own."""
    pipe, folder = made
    options = {"num_inference_steps": 3, "max_sequence_length": length, "output_type": "np"}
    want = pipe(PROMPT, latents=PACKED, guidance_scale=3.5, **options, **SIZE).images[0]
    model = ldmref.load(folder, backend=backend)
    options = {"latents": LATENTS, "steps": 3, **SIZE}
    found = modes.txt2img(model, PROMPT, max_sequence_length=length, **options)
    compare(found, want)
    assert found.params["max_sequence_length"] == length
    own = modes.txt2img(model, PROMPT, **options)
    assert "max_sequence_length" not in own.params or own.params["max_sequence_length"] is None
    assert np.abs(own.latents - found.latents).max() > 1e-3
    again = modes.txt2img(model, PROMPT, max_sequence_length=512, **options)
    assert np.array_equal(again.latents, own.latents)


@BOTH
def test_embeddings_may_have_any_length_where_nothing_is_negative(made):
    """[dev] has no second prediction, [schnell] none at scale 1: 7 tokens are as good as 512."""
    pipe, folder = made
    with torch.no_grad():
        states, pooled, _ = pipe.encode_prompt(PROMPT, None, max_sequence_length=7)
    given = {"prompt_embeds": states, "pooled_prompt_embeds": pooled}
    options = {"num_inference_steps": 3, "output_type": "np"}
    want = pipe(latents=PACKED, guidance_scale=3.5, **given, **options, **SIZE).images[0]
    model = ldmref.load(folder)
    given = {name: array.numpy() for name, array in given.items()}
    compare(modes.txt2img(model, None, latents=LATENTS, steps=3, **given, **SIZE), want)


@SCHNELL
def test_embeddings_of_another_length_than_the_negative_prompt_are_refused(made):
    given = {
        "prompt_embeds": np.zeros((1, 7, 20), np.float32),
        "pooled_prompt_embeds": np.zeros((1, 16), np.float32),
    }
    with pytest.raises(LdmrefError, match="7 and 512 tokens"):
        modes.plan("txt2img", ldmref.load(made[1]), prompt=None, cfg_scale=4.0, **given, **SIZE)
    shorter = {"prompt": None, "cfg_scale": 4.0, "max_sequence_length": 7, "negative_prompt": "dog"}
    modes.plan("txt2img", ldmref.load(made[1]), **shorter, **given, **SIZE)


@SCHNELL
def test_true_guidance_is_that_of_diffusers(made):
    pipe, folder = made
    options = {"num_inference_steps": 3, "output_type": "np", "true_cfg_scale": 4.0}
    want = pipe(PROMPT, negative_prompt="dog", latents=PACKED, **options, **SIZE).images[0]
    model = ldmref.load(folder)
    options = {"negative_prompt": "dog", "cfg_scale": 4.0, "steps": 3}
    compare(modes.txt2img(model, PROMPT, latents=LATENTS, **options, **SIZE), want)


def test_the_network_that_reads_the_scale_takes_no_second_prediction(made):
    """CFG++ would take the difference of two predictions that both have the scale."""
    model = ldmref.load(made[1])
    for asked in ({"sampler": "euler_cfgpp"}, {"guidance": "cfg_zero"}, {"guidance": "slg"}):
        with pytest.raises(LdmrefError, match="reads the guidance scale itself") as caught:
            modes.plan("txt2img", model, prompt="cat", **asked)
        assert caught.value.code == "E-GUIDANCE" and "\n" not in str(caught.value)
    denoise = ldmref.denoiser(model, "cat")
    with pytest.raises(LdmrefError, match="reads the guidance scale itself"):
        denoise.guided(LATENTS, 0.5, unconditional=True)


@SCHNELL
def test_cfgpp_guides_a_network_without_the_scale(made):
    model = ldmref.load(made[1])
    options = {"seed": 1, "steps": 2, "cfg_scale": 0.6, "sampler": "euler_cfgpp"}
    assert np.isfinite(modes.txt2img(model, "cat", **options, **SIZE).latents).all()


def test_conditioning_is_that_of_diffusers(made):
    """T5's hidden states, and CLIP's last state at the end token."""
    pipe, folder = made
    with torch.no_grad():
        states, pooled, _ = pipe.encode_prompt(PROMPT, None)
    model = ldmref.load(folder)
    encoded = model.encode_prompts([PROMPT], 0, ldmref.prompts.PromptOptions())
    got, vector = encoded.states, encoded.pooled
    assert np.abs(got - states.numpy()).max() < 1e-4 * np.abs(states.numpy()).max()
    assert np.abs(vector - pooled.numpy()).max() < 1e-5
    assert got.shape == (1, 512, 20) and vector.shape == (1, 16)


def test_long_prompts_are_read_in_chunks(made):
    model = ldmref.load(made[1])
    options = {"steps": 1, "seed": 1, "long_prompts": "chunk", "prompt_weights": "a1111"}
    assert modes.txt2img(model, "(red:1.2) cat " * 30, **options, **SIZE).images


# -- embedded guidance ----------------------------------------------------------------------------


def test_the_scale_is_read_by_the_network_alone(made):
    """One prediction for each step, whose scale changes the image."""
    model = ldmref.load(made[1])
    options = {"seed": 1, "steps": 2, **SIZE}
    plan = modes.plan("txt2img", model, prompt=PROMPT, cfg_scale=5.0, steps=2, **SIZE)
    assert plan.estimate(model).evaluations == 2
    one, two = (modes.txt2img(model, PROMPT, cfg_scale=s, **options) for s in (1.0, 5.0))
    assert one.images[0] != two.images[0]
    assert one.params["cfg_scale"] == 1.0 and "guidance" not in one.params
    assert model.config.defaults.cfg_scale == 3.5


def test_a_second_prediction_is_refused(made):
    with pytest.raises(LdmrefError, match="takes no guidance 'rescale'"):
        modes.txt2img(ldmref.load(made[1]), PROMPT, steps=1, **SIZE, guidance="rescale")


def test_a_negative_prompt_changes_nothing_and_is_answered(made):
    model = ldmref.load(made[1])
    plain = modes.txt2img(model, PROMPT, steps=1, seed=1, **SIZE)
    told = modes.txt2img(model, PROMPT, steps=1, seed=1, negative_prompt="dog", **SIZE)
    assert np.array_equal(plain.latents, told.latents)
    [line] = [line for line in told.warnings if line not in plain.warnings]
    assert line.startswith("nothing reads the negative prompt") and "guidance nag" in line


@SCHNELL
def test_a_model_without_it_has_guidance_as_usual(made):
    model = ldmref.load(made[1])
    assert model.config.defaults.cfg_scale == 1.0 and model.config.defaults.steps == 4
    options = {"negative_prompt": "dog", "guidance": "rescale", "cfg_scale": 3.0, "steps": 1}
    assert modes.txt2img(model, PROMPT, seed=1, **options, **SIZE).images


# -- the declaration ------------------------------------------------------------------------------


def test_a_configuration_is_checked():
    data = preset("flux-tiny").to_dict()
    assert config_from_dict(data) == preset("flux-tiny")
    network = data["transformer"]
    for change, rule in (
        ({"transformer": network | {"axes_dims_rope": [2, 4, 8]}}, "add up to"),
        ({"transformer": network | {"pooled_projection_dim": 25}}, "CLIP's hidden_size"),
        ({"transformer": network | {"joint_attention_dim": 41}}, "T5's hidden_size"),
        ({"text_encoder_2": data["text_encoder"]}, "CLIP's and T5's"),
    ):
        with pytest.raises(LdmrefError, match=rule):
            config_from_dict(data | change)


def test_a_folder_that_asks_for_something_else_is_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "other")
    file = tmp_path / "other" / "transformer" / "config.json"
    for change, message in (({"patch_size": 2}, "patch_size"), ({"in_channels": 18}, "multiple")):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(LdmrefError, match=message):
            ldmref.load(tmp_path / "other")
        shutil.copy(made[1] / "transformer" / "config.json", file)


def test_commands_know_the_family(made):
    assert "flux-dev" in run("models")
    assert "family: flux" in run("info", made[1])
