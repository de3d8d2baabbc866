"""Noise levels and hidden states as arguments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.io.images.metadata import read_parameters
from ldmref.models.model import LatentDiffusion
from ldmref.modes.text import encode_conditioning
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers import get_sampler, make_schedule

IMAGE = Image.new("RGB", (16, 16), "teal")


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "euler_a", "unipc"])
def test_the_schedules_own_sigmas_draw_its_image(tiny, sampler):
    """A list is also recorded, and the record generates the same image again."""
    by_name = modes.txt2img(tiny, "a", seed=1, steps=4, sampler=sampler, schedule="karras")
    sigmas = make_schedule(tiny.config.scheduler, get_sampler(sampler), "karras", 4).sigmas
    given = modes.txt2img(tiny, "a", seed=1, sampler=sampler, sigmas=sigmas)
    np.testing.assert_array_equal(given.latents, by_name.latents)
    assert given.params["sigmas"] == sigmas.tolist() and given.params["steps"] == 4
    assert "schedule" not in given.params and "Schedule type" not in given.infotext()
    again = modes.txt2img(
        tiny,
        "a",
        seed=1,
        sampler=sampler,
        sigmas=given.params["sigmas"],
        steps=given.params["steps"],
    )
    np.testing.assert_array_equal(again.latents, by_name.latents)


def test_sigmas_serve_img2img_and_invert(tiny):
    sigmas = [3.0, 2.0, 1.0, 0.5, 0.0]
    r = modes.img2img(tiny, "a", IMAGE, strength=0.5, seed=1, sigmas=sigmas)
    assert r.params["steps"] == 4 and np.isfinite(r.latents).all()
    inversion = modes.invert(tiny, "a", IMAGE, sigmas=sigmas)
    again = modes.txt2img(tiny, "a", latents=inversion.latents, seed=0, **inversion.settings)
    assert again.params["sigmas"] == sigmas


def test_sigmas_that_end_above_zero_leave_noise(tiny):
    whole = modes.txt2img(tiny, "a", seed=1, sampler="ddim", eta=0.0, sigmas=[5.0, 1.0, 0.0])
    seen = []
    modes.txt2img(
        tiny,
        "a",
        seed=1,
        sampler="ddim",
        eta=0.0,
        sigmas=[5.0, 1.0, 0.0],
        callback=lambda p: seen.append(p.latents),
    )
    stopped = modes.txt2img(tiny, "a", seed=1, sampler="ddim", eta=0.0, sigmas=[5.0, 1.0])
    scaled = np.float32(1.0 / np.hypot(1.0, 1.0))
    np.testing.assert_allclose(stopped.latents, seen[0] * scaled, rtol=1e-6)
    assert (stopped.latents != whole.latents).any()


@pytest.mark.parametrize(
    "wrong",
    [
        [1.0, 2.0],
        [1.0, 1.0],
        [1.0],
        [],
        [1.0, float("nan")],
        [float("inf"), 1.0],
        [1.0, -0.5],
        [999, 500, 0],
        [2.0, 0.0, 0.0],
        [1e5, 0.0],
        5,
        "5.0,1.0",
        [2.0, None],
        np.ones((2, 2)),
        np.linspace(10.0, 0.0, 2000),
    ],
)
def test_wrong_sigmas_are_refused(tiny, wrong):
    with pytest.raises(UsageError) as caught:
        modes.plan("txt2img", tiny.config, prompt="a", sigmas=wrong)
    assert caught.value.code == "E-SIGMAS"


@pytest.mark.parametrize("other", [{"steps": 3}, {"schedule": "karras"}])
def test_sigmas_exclude_steps_and_schedule(tiny, other):
    with pytest.raises(UsageError) as caught:
        modes.plan("txt2img", tiny.config, prompt="a", sigmas=[2.0, 1.0, 0.0], **other)
    assert caught.value.code == "E-SIGMAS"


def encoded(model, *prompts):
    """Hidden states, of each prompt alone, as the modes encode them."""
    return np.concatenate([model.backend.to_numpy(model.encode_text([p])) for p in prompts])


def test_the_prompts_own_hidden_states_draw_its_image(tiny):
    arguments = {"seed": 1, "steps": 3, "count": 2}
    want = modes.txt2img(tiny, ["red heart", "cat"], negative_prompt="blue", **arguments)
    states = encoded(tiny, "red heart", "cat")
    negative = encoded(tiny, "blue")
    for embeds in (
        {"prompt": None, "prompt_embeds": states, "negative_prompt": "blue"},
        {"prompt": None, "prompt_embeds": states, "negative_prompt_embeds": negative},
        {"prompt": None, "prompt_embeds": states, "negative_prompt_embeds": negative.repeat(2, 0)},
        {"prompt": ["red heart", "cat"], "negative_prompt_embeds": negative},
    ):
        got = modes.txt2img(tiny, **embeds, **arguments)
        np.testing.assert_array_equal(got.latents, want.latents)
    assert len(got.params["negative_prompt_embeds"]) == 4  # digests, one per image


def test_pooled_outputs_and_tensors_of_torch(two_encoders):
    torch = pytest.importorskip("torch")
    text = two_encoders.encode_prompts(["red heart"], 0, PromptOptions())
    states = torch.from_numpy(text.states)
    pooled = torch.from_numpy(text.pooled)
    want = modes.txt2img(two_encoders, "red heart", seed=1, steps=2)
    embeds = {"prompt_embeds": states, "pooled_prompt_embeds": pooled}
    got = modes.txt2img(two_encoders, None, **embeds, seed=1, steps=2)
    np.testing.assert_array_equal(got.latents, want.latents)
    for wrong in ({"prompt_embeds": states}, embeds | {"pooled_prompt_embeds": pooled[:, :3]}):
        with pytest.raises(UsageError) as caught:
            modes.plan("txt2img", two_encoders.config, prompt=None, **wrong)
        assert caught.value.code == "E-PROMPT-EMBEDS"


def test_embeddings_are_never_written_and_may_be_read_only_or_strided(tiny):
    states = encoded(tiny, "red heart")
    want = modes.txt2img(tiny, None, prompt_embeds=states, seed=1, steps=2).latents
    strided = np.repeat(states, 2, axis=2)[:, :, ::2]
    frozen = states.copy()
    frozen.flags.writeable = False
    noise = np.ones((1, *tiny.latent_shape(16, 16)), np.float32)
    noise.flags.writeable = False
    for array in (strided, frozen, states.astype(np.float64)):
        got = modes.txt2img(tiny, None, prompt_embeds=array, seed=1, steps=2).latents
        np.testing.assert_array_equal(got, want)
    modes.txt2img(tiny, "a", latents=noise, seed=1, steps=2)
    assert (noise == 1.0).all() and (frozen == states).all()


def test_wrong_embeddings_are_refused(tiny):
    e = encoded(tiny, "a")
    wrong = [
        {"prompt": "a", "prompt_embeds": e},
        {"prompt": None},
        {"prompt": None, "prompt_embeds": e[0]},
        {"prompt": None, "prompt_embeds": e[:, :3]},
        {"prompt": None, "prompt_embeds": e[:, :, :3]},
        {"prompt": None, "prompt_embeds": e[:0]},
        {"prompt": None, "prompt_embeds": e * np.nan},
        {"prompt": None, "prompt_embeds": e.astype(np.int64)},
        {"prompt": None, "prompt_embeds": "e.npy"},
        {"prompt": None, "prompt_embeds": e, "pooled_prompt_embeds": e[:, 0]},
        {"prompt": None, "prompt_embeds": e, "negative_prompt_embeds": e[:, :5]},
        {"prompt": None, "prompt_embeds": e.repeat(3, 0), "negative_prompt_embeds": e.repeat(2, 0)},
        {"prompt": None, "prompt_embeds": e, "negative_prompt": "a", "negative_prompt_embeds": e},
        {"prompt": "a", "pooled_prompt_embeds": e[:, 0]},
    ]
    for arguments in wrong:
        with pytest.raises(UsageError) as caught:
            modes.plan("txt2img", tiny.config, **arguments)
        assert caught.value.code in ("E-PROMPT", "E-PROMPT-EMBEDS"), arguments
    both_short = {"prompt_embeds": e[:, :5], "negative_prompt_embeds": e[:, :5]}
    assert len(modes.txt2img(tiny, None, **both_short, seed=1, steps=1)) == 1


def test_a_prompt_that_would_be_truncated_is_refused_if_asked(tiny):
    long = "red " * 100
    assert modes.txt2img(tiny, long, seed=1, steps=1).warnings
    with pytest.raises(UsageError) as caught:
        modes.txt2img(tiny, long, seed=1, steps=1, strict_prompt=True)
    assert caught.value.code == "E-PROMPT-TRUNCATED"
    for fits in ({"prompt": "red"}, {"prompt": long, "long_prompts": "chunk"}):
        modes.txt2img(tiny, **fits, seed=1, steps=1, strict_prompt=True)


def test_images_record_how_many_tokens_were_left_out(tiny, tmp_path):
    reads = tiny.config.text_encoder.max_position_embeddings - 2
    long = "red " * (reads + 3)
    longer = "red " * (reads + 5)
    common = {"seed": 1, "steps": 1}
    assert "truncated" not in modes.txt2img(tiny, "red", **common).params
    assert "truncated" not in modes.txt2img(tiny, long, long_prompts="chunk", **common).params
    run = modes.txt2img(tiny, long, negative_prompt=longer, count=2, **common)
    assert run.params["truncated"] == 3 + 5 == run.params_of(1)["truncated"]
    run = modes.txt2img(tiny, [long, "red", longer], **common)
    assert run.params["truncated"] == [3, 0, 5]
    assert [run.params_of(i)["truncated"] for i in range(3)] == [3, 0, 5]
    [path] = modes.txt2img(tiny, long, **common).save(tmp_path / "a.png")
    assert read_parameters(path)["ldmref"]["truncated"] == 3
    ends = modes.interpolate(tiny, "red", long, 2, **common)
    assert ends.params["truncated"] == 3


def test_sigmas_may_be_whole_numbers(tiny):
    """[3, 1, 0] are the levels 3.0, 1.0 and 0.0; timesteps are refused by their size."""
    whole = modes.txt2img(tiny, "a", seed=1, sigmas=[3, 1, 0])
    same = modes.txt2img(tiny, "a", seed=1, sigmas=[3.0, 1.0, 0.0])
    np.testing.assert_array_equal(whole.latents, same.latents)
    assert whole.params["sigmas"] == [3.0, 1.0, 0.0]
    with pytest.raises(UsageError, match="begin at 999") as caught:
        modes.txt2img(tiny, "a", seed=1, sigmas=[999, 666, 333, 0])
    assert caught.value.code == "E-SIGMAS" and "not timesteps" in caught.value.hint


@pytest.mark.parametrize("name", ["sd3-tiny", "sd3-tiny without T5", "flux-tiny"])
def test_hidden_states_of_transformers(name):
    """They are what the transformer reads: widened to T5's width, with zeros for a missing T5."""
    name, _, without = name.partition(" ")
    model = ldmref.random_model(name, backend="numpy")
    if without:
        config = replace(model.config, text_encoder_3=None)
        params = {part: tree for part, tree in model.params.items() if part != "text_encoder_3"}
        model = LatentDiffusion(model.backend, config, params, model.tokenizer)
    asked = {"seed": 1, "steps": 2}
    part = encode_conditioning(model, ["a cat"], (16, 16))
    embeds = {"prompt_embeds": part.context, "pooled_prompt_embeds": part.pooled}
    got = modes.txt2img(model, None, **embeds, **asked)
    assert np.array_equal(got.latents, modes.txt2img(model, "a cat", **asked).latents)
    width = model.config.denoiser.joint_attention_dim
    with pytest.raises(UsageError, match=rf"reads \(1, l, {width}\)"):
        modes.txt2img(model, None, **{**embeds, "prompt_embeds": part.context[..., 1:]}, **asked)
    with pytest.raises(UsageError, match="needs pooled_prompt_embeds"):
        modes.txt2img(model, None, prompt_embeds=part.context, **asked)
