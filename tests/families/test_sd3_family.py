"""Stable Diffusion 3 as a family: whole images against diffusers, and every tool by its name."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import CorruptModelError, InputError, LdmrefError
from ldmref.families.sd3 import count_tokens
from ldmref.families.sd3.files import PIPELINES
from ldmref.io.diffusers.scheduler import convert_flow_config
from ldmref.io.native import save_folder
from ldmref.models import config_from_dict, init, model_spec, preset
from ldmref.modes.text import encode_conditioning
from ldmref.samplers import SAMPLERS, make_schedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from sd3_networks import KINDS, make_pipeline  # noqa: E402

PROMPT = "a red cat"


def run(*arguments):
    """Run a command of ldmref; its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module", params=[("3.5 medium", True)], ids=str)
def made(request, tmp_path_factory):
    """(diffusers' pipeline, the folder that it writes)."""
    pipe = make_pipeline(*request.param)
    folder = tmp_path_factory.mktemp("sd3") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


# -- images ---------------------------------------------------------------------------------------


ALL = [*((kind, True) for kind in KINDS), ("3.5 medium", False)]


@pytest.mark.parametrize("made", ALL[-2:], indirect=True, ids=str)
@pytest.mark.parametrize("length", [2, 77, 512])
def test_images_with_another_text_length_are_those_of_diffusers(made, length):
    """Of T5, and of the zeros in place of a T5 that is missing."""
    pipe, folder = made
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
    options = {"guidance_scale": 5.0, "num_inference_steps": 3, "output_type": "np"}
    sizes = {"width": 24, "height": 16, "max_sequence_length": length}
    want = pipe(
        PROMPT, negative_prompt="dog", latents=torch.tensor(latents), **sizes, **options
    ).images[0]
    model = ldmref.load(folder)
    options = {"negative_prompt": "dog", "latents": latents, "steps": 3, "cfg_scale": 5.0}
    found = modes.txt2img(model, PROMPT, **options, **sizes)
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1
    own = modes.txt2img(model, PROMPT, **options, width=24, height=16)
    assert not np.array_equal(own.latents, found.latents)


def test_a_text_length_is_replayed(made, tmp_path):
    """The record of an image has the length, and `ldmref run` generates it again."""
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    options = ["-m", made[1], "--steps", 2, "--seed", 3, "--width", 24, "--height", 16]
    run("txt2img", "-p", PROMPT, *options, "--max-sequence-length", 2, "-o", first)
    run("run", "--from", first, "-m", made[1], "-o", again)
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(again)))
    assert '"max_sequence_length": 2' in Image.open(first).info["ldmref"]
    run("txt2img", "-p", PROMPT, *options, "-o", tmp_path / "own.png")
    own = np.asarray(Image.open(tmp_path / "own.png"))
    assert not np.array_equal(own, np.asarray(Image.open(first)))


@pytest.mark.parametrize("length", [1, 513, "many"])
def test_a_text_length_out_of_range_is_refused(made, length):
    with pytest.raises(LdmrefError, match="max_sequence_length"):
        modes.plan("txt2img", ldmref.load(made[1]), prompt="cat", max_sequence_length=length)


def test_a_model_without_t5_has_no_text_length():
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", ldmref.random_model("tiny"), prompt="cat", max_sequence_length=64)
    assert caught.value.code == "E-SEQUENCE-LENGTH" and caught.value.hint


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_images_with_skipped_layers_are_those_of_diffusers(made, backend):
    """Steps 1 and 2 of 5: diffusers counts steps, here the noise levels of the schedule."""
    pipe, folder = made
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
    sizes = {"width": 24, "height": 16}
    options = {"guidance_scale": 4.0, "num_inference_steps": 5, "output_type": "np"}
    skipping = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 3.0}
    window = {"skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.6}
    noise = torch.tensor(latents)
    want, plain = (
        pipe(PROMPT, latents=noise, **sizes, **options, **more).images[0]
        for more in (skipping | window, {})
    )
    ratios = [s / max(1.0 - s, 1e-12) for s in pipe.scheduler.sigmas.tolist()]
    low = 0.5 * (ratios[2] + ratios[3])
    guidance = {"name": "slg", "layers": [1], "scale": 3.0, "low": low, "high": 1e4}
    model = ldmref.load(folder, backend=backend)
    found = modes.txt2img(
        model, PROMPT, latents=latents, steps=5, cfg_scale=4.0, guidance=guidance, **sizes
    )
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1
    assert np.abs(want - plain).max() > 4 / 255
    assert found.params["guidance"]["layers"] == [1]


@pytest.mark.parametrize(
    ("guidance", "problem"),
    [
        ({"name": "slg", "layers": [1, 3]}, "has the layers 0 to 2"),
        ("pag", "takes no identity_attention"),
    ],
)
def test_a_guidance_that_the_transformer_cannot_serve_is_refused_at_once(made, guidance, problem):
    with pytest.raises(LdmrefError, match=problem) as caught:
        modes.plan("txt2img", ldmref.load(made[1]), prompt="cat", guidance=guidance)
    assert caught.value.code == "E-GUIDANCE" and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cfg_zero", "renorm", "tcfg", "mambo_g"])
def test_guidance_of_flow_models(made, name):
    model = ldmref.load(made[1])
    options = {"seed": 1, "steps": 2, "cfg_scale": 5.0}
    plain = modes.txt2img(model, "cat", **options).latents
    found = modes.txt2img(model, "cat", guidance=name, **options).latents
    assert np.isfinite(found).all() and not np.array_equal(found, plain)


def test_conditioning_is_that_of_diffusers(made):
    """CLIP's hidden states are joined and filled up, T5's follow; pooled outputs are joined."""
    pipe, folder = made
    with torch.no_grad():
        states, _, pooled, _ = pipe.encode_prompt(PROMPT, None, None)
    model = ldmref.load(folder)
    found = model.encode_prompts([PROMPT], 0, ldmref.prompts.PromptOptions())
    got = model.family.text.condition_text(model.backend, model.config, found, (16, 16))
    assert np.abs(got.context - states.numpy()).max() < 1e-4 * np.abs(states.numpy()).max()
    assert np.abs(got.pooled - pooled.numpy()).max() < 1e-5
    assert got.context.shape == (1, 77 + 256, 40) and got.pooled.shape == (1, 24)


def test_long_prompts_are_read_in_chunks(made):
    """Each chunk has CLIP's tokens and T5's; a shorter negative prompt is filled up."""
    model = ldmref.load(made[1])
    options = {"steps": 1, "seed": 1, "long_prompts": "chunk", "prompt_weights": "a1111"}
    long = "(red:1.2) cat " * 30
    assert modes.txt2img(model, long, negative_prompt="dog", **options).images


# -- the declaration ------------------------------------------------------------------------------


def test_a_configuration_is_checked():
    data = preset("sd3-tiny").to_dict()
    assert config_from_dict(data) == preset("sd3-tiny")
    network = data["transformer"]
    for change, rule in (
        ({"transformer": network | {"dual_attention_layers": [3]}}, "numbers of its blocks"),
        ({"transformer": network | {"pos_embed_max_size": 3}}, "must hold the patches"),
        ({"transformer": network | {"pooled_projection_dim": 25}}, "projection_dim"),
        ({"transformer": network | {"joint_attention_dim": 20}}, "of CLIP's encoders"),
        ({"transformer": network | {"joint_attention_dim": 41}}, "T5's hidden_size"),
        ({"text_encoder": data["text_encoder"] | {"projection_dim": 0}}, "pooled output"),
        ({"text_encoder_3": data["text_encoder_2"]}, "only these"),
    ):
        with pytest.raises(LdmrefError, match=rule):
            config_from_dict(data | change)


def test_one_clip_encoder_is_enough(tmp_path):
    """Its states alone are the text, with the zeros of a missing T5 only if there are some."""
    data = preset("sd3-tiny").to_dict()
    text = data["text_encoder"]
    width = text["hidden_size"]
    network = {"joint_attention_dim": width, "pooled_projection_dim": width}
    alone = data | {"text_encoder_2": None, "text_encoder_3": None}
    for zeros in (0, 3):
        alone["transformer"] = data["transformer"] | network | {"empty_tokens": zeros}
        config = config_from_dict(alone)
        words = ldmref.random_model("sd3-tiny", backend="numpy").tokenizer
        folder = tmp_path / str(zeros)
        save_folder(folder, config, init(model_spec(config), 0), [words], np.float32)
        model = ldmref.load(folder, backend="numpy")
        condition = encode_conditioning(model, [PROMPT], (16, 16))
        length = text["max_position_embeddings"]
        assert condition.context.shape == (1, length + zeros, width)
        assert not condition.context[:, length:].any() and condition.context[:, :length].any()
        assert count_tokens(config, 16, 16)[1] == length + zeros
        assert modes.txt2img(model, PROMPT, steps=1).latents.any()
    with pytest.raises(LdmrefError, match="only these"):
        config_from_dict(alone | {"text_encoder_2": data["text_encoder_3"]})


def test_a_folder_that_asks_for_something_else_is_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "other")
    file = tmp_path / "other" / "transformer" / "config.json"
    for change, message in (
        ({"caption_projection_dim": 24}, "both streams must be as wide"),
        ({"qk_norm": "layer_norm"}, "qk_norm"),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(LdmrefError, match=message):
            ldmref.load(tmp_path / "other")
        shutil.copy(made[1] / "transformer" / "config.json", file)


def test_a_folder_without_a_text_encoder_says_what_to_do(made, tmp_path):
    """Many leave out T5, which is the largest part of the folder."""
    shutil.copytree(made[1], tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "text_encoder_3")
    with pytest.raises(InputError, match=r"'text_encoder_3' has no file config\.json") as caught:
        ldmref.load(tmp_path / "part")
    assert "for a model without T5, write [null, null]" in caught.value.hint
    index = tmp_path / "part" / "model_index.json"
    without = {key: [None, None] for key in ("text_encoder_3", "tokenizer_3")}
    index.write_text(json.dumps(json.loads(index.read_text()) | without))
    assert ldmref.load(tmp_path / "part").config.text_encoder_3 is None
    shutil.rmtree(tmp_path / "part" / "text_encoder")
    with pytest.raises(InputError, match=r"'text_encoder' has no file config\.json") as caught:
        ldmref.load(tmp_path / "part")
    assert caught.value.hint == "download the whole folder"


def test_another_network_is_no_autoencoder(made):
    with pytest.raises(CorruptModelError, match="'text_encoder' holds a CLIPTextModelWith"):
        ldmref.load(made[1], vae=made[1] / "text_encoder")


def test_commands_know_the_family(made):
    assert "sd35-large" in run("models")
    assert "family: sd3" in run("info", made[1])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_of_diffusers_lets_the_scheduler_space_the_levels(pipeline):
    """It is given no sigmas, so that the last one above 0 is the shifted 1/1000, and not 1/n."""
    config = convert_flow_config({"shift": 3.0}, pipeline)
    levels = make_schedule(config, SAMPLERS["euler"], None, 4).sigmas
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(4)
    np.testing.assert_allclose(levels, scheduler.sigmas, atol=1e-6)
