"""The parameter `guidance`: from the request to the U-Net, into the record and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ldmref
from ldmref import modes, samplers
from ldmref.errors import UsageError
from ldmref.modes.guidance_parameter import parse_guidance
from ldmref.samplers import GUIDANCES, get_guidance

SEEDED = dict(seed=1, steps=3, cfg_scale=3.0)
# a U-Net has no blocks that can be left out; test_autoguidance.py has a second model
OF_UNETS = sorted(set(GUIDANCES) - {"slg", "autoguidance"})
OTHERS = sorted({*OF_UNETS} - {"cfg"})
ACTING = {  # each changes the image of a small random network
    "interval": {"name": "interval", "low": 1.0, "high": 3.0},
    "apg": {"name": "apg", "radius": 0.5},
    "pag": {"name": "pag", "scale": 20.0, "layers": "all"},
    "renorm": {"name": "renorm", "over": "token", "grow": True},
}


def acting(name):
    return ACTING.get(name, name)


@pytest.fixture
def calls(tiny, monkeypatch):
    """Return the batch sizes and perturbed parts of the U-Net's calls."""
    seen = []
    inner = tiny.predict

    def watched(x, t, conditioning, **more):
        seen.append((x.shape[0], sum((one.values for one in more.get("steering", ())), ())))
        return inner(x, t, conditioning, **more)

    monkeypatch.setattr(tiny, "predict", watched)
    return seen


@pytest.mark.parametrize(
    ("guidance", "scale", "each"),
    [
        (None, 3.0, [(2, ())]),
        (None, 1.0, [(1, ())]),
        ("perp_neg", 3.0, [(3, ())]),
        ("pag", 3.0, [(2, ()), (1, ("mid",))]),
        ({"name": "pag", "layers": "all"}, 1.0, [(1, ()), (1, ("down", "mid", "up"))]),
        ({"name": "interval", "low": 1e4, "high": 1e5}, 3.0, [(1, ())]),
    ],
)
def test_predictions_of_a_step_are_one_batch_and_perturbed_ones_another(
    tiny, calls, guidance, scale, each
):
    modes.txt2img(tiny, "a", guidance=guidance, seed=1, steps=2, cfg_scale=scale)
    assert calls == each * 2


def test_the_unconditional_prediction_of_cfgpp_is_in_the_same_batch(tiny, calls):
    modes.txt2img(tiny, "a", seed=1, steps=2, cfg_scale=1.0, sampler="ddim_cfgpp")
    assert calls == [(2, ())] * 2
    plan = modes.plan("txt2img", tiny, prompt="a", steps=2, cfg_scale=1.0, sampler="ddim_cfgpp")
    assert plan.estimate(tiny).evaluations == 4


@pytest.mark.parametrize("name", OTHERS)
def test_a_guidance_changes_the_image_and_is_recorded_and_replayed(tiny, name):
    plain = modes.txt2img(tiny, "a", negative_prompt="b c", **SEEDED)
    got = modes.txt2img(tiny, "a", negative_prompt="b c", guidance=acting(name), **SEEDED)
    assert not np.array_equal(got.latents, plain.latents)
    record = json.loads(json.dumps(got.params))["guidance"]
    assert record["name"] == name and set(record) == {"name", *vars(GUIDANCES[name]())}
    again = modes.txt2img(tiny, "a", negative_prompt="b c", guidance=record, **SEEDED)
    np.testing.assert_array_equal(again.latents, got.latents)
    assert got.params == plain.params | {"guidance": record}


@pytest.mark.parametrize("guidance", [None, "cfg", {"name": "cfg"}, samplers.ClassifierFree()])
def test_classifier_free_guidance_is_not_recorded(tiny, guidance):
    plain = modes.txt2img(tiny, "a", **SEEDED)
    got = modes.txt2img(tiny, "a", guidance=guidance, **SEEDED)
    np.testing.assert_array_equal(got.latents, plain.latents)
    assert got.params == plain.params and "guidance" not in got.params


def test_a_name_a_table_and_an_object_are_one(tiny):
    ways = ("rescale", {"name": "rescale", "phi": 0.7}, samplers.Rescale(phi=0.7))
    latents = [modes.txt2img(tiny, "a", guidance=way, **SEEDED).latents for way in ways]
    for other in latents[1:]:
        np.testing.assert_array_equal(other, latents[0])


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", ["perp_neg", "pag", "apg"])
def test_images_do_not_depend_on_their_batch(tiny64, name, batch_size):
    together = modes.txt2img(
        tiny64, ["a", "b"], guidance=acting(name), batch_size=batch_size, **SEEDED
    )
    alone = modes.txt2img(tiny64, "a", guidance=acting(name), **SEEDED)
    np.testing.assert_allclose(together.latents[:1], alone.latents, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OF_UNETS)
@pytest.mark.parametrize("long_prompts", ["truncate", "chunk"])
def test_every_guidance_with_two_text_encoders_and_long_prompts(two_encoders, name, long_prompts):
    got = modes.txt2img(
        two_encoders,
        "a b " * 60,
        negative_prompt="c",
        guidance=acting(name),
        long_prompts=long_prompts,
        **SEEDED,
    )
    assert np.isfinite(got.latents).all()


def test_a_u_net_has_no_layers_to_skip(tiny):
    with pytest.raises(UsageError, match="takes no skip_layers") as caught:
        modes.plan("txt2img", tiny, prompt="a", guidance={"name": "slg", "layers": [1]})
    assert caught.value.code == "E-GUIDANCE" and "\n" not in str(caught.value)
    plain = modes.plan("txt2img", tiny, prompt="a", guidance={"name": "slg", "scale": 0.0})
    assert plain.job.guidance.evaluations(3.0) == 2


def test_a_list_is_written_with_plus_signs():
    assert parse_guidance("slg:layers=7+8,scale=2")["layers"] == [7, 8]
    assert parse_guidance("own:name=a+b")["name"] == "a+b"


@pytest.mark.parametrize("layers", [1, [1], "1"])
def test_one_layer_is_a_list_of_one(layers):
    """As in `--guidance slg:layers=1`, which has no plus sign."""
    if isinstance(layers, str):
        asked = parse_guidance(f"slg:layers={layers}")
    else:
        asked = {"name": "slg", "layers": layers}
    assert get_guidance(asked).layers == (1,)
    with pytest.raises(UsageError, match=r"slg\.layers must be a list of whole numbers"):
        get_guidance({"name": "slg", "layers": True})


def test_other_modes_take_it(tiny):
    image = modes.txt2img(tiny, "a", **SEEDED).images[0]
    for name in ("rescale", "apg"):
        got = modes.img2img(tiny, "a", image, guidance=acting(name), **SEEDED)
        assert got.params["guidance"]["name"] == name
        got = modes.interpolate(tiny, "a", "b", 2, guidance=acting(name), **SEEDED)
        assert got.params["guidance"]["name"] == name
    found = modes.invert(tiny, "a", image, steps=2, cfg_scale=2.0, guidance="rescale")
    assert found.settings["guidance"] == found.params["guidance"] == samplers.Rescale().record
    modes.txt2img(tiny, "a", latents=found.latents, **found.settings)
    assert "guidance" not in modes.invert(tiny, "a", image, steps=2).settings


def test_embeddings_of_another_length_and_the_empty_prompt(tiny):
    width = tiny.config.unet.cross_attention_dim
    embeds = np.zeros((1, 5, width), np.float32)
    given = dict(prompt_embeds=embeds, negative_prompt_embeds=embeds)
    modes.txt2img(tiny, None, **given, **SEEDED)
    with pytest.raises(UsageError) as caught:
        modes.txt2img(tiny, None, guidance="perp_neg", **given, **SEEDED)
    assert caught.value.code == "E-GUIDANCE" and "5 tokens" in str(caught.value)


def test_a_denoiser_with_guidance(tiny64):
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    denoise = ldmref.denoiser(tiny64, ["a", "b"], "c", 3.0, guidance="perp_neg")
    plain = ldmref.denoiser(tiny64, ["a", "b"], "c", 3.0)
    assert denoise(x, 1.0).shape == x.shape
    assert not np.allclose(denoise(x, 1.0), plain(x, 1.0))
    found = plain.guided(x, 1.0, unconditional=True)
    only = ldmref.denoiser(tiny64, ["a", "b"], "c", 0.0)
    np.testing.assert_allclose(found.uncond, only(x, 1.0), rtol=0, atol=1e-9)
    with pytest.raises(UsageError):
        ldmref.denoiser(tiny64, "a", guidance="perpneg")


def test_samplers_pass_the_memory_of_a_public_denoiser_on(tiny64):
    """`modes` and `samplers.sample` on `ldmref.denoiser` give the same latents with momentum."""
    guidance = samplers.AdaptiveProjected(radius=0.5, momentum=-0.5)
    want = modes.txt2img(tiny64, "a", sampler="euler", guidance=guidance, **SEEDED)
    schedule = samplers.make_schedule(
        tiny64.config.scheduler, samplers.get_sampler("euler"), want.params["schedule"], 3
    )
    streams = samplers.noise.Streams([1], tiny64.latent_shape(16, 16), "philox")
    denoise = ldmref.denoiser(tiny64, "a", cfg_scale=3.0, guidance=guidance)
    x = streams() * schedule.init_noise_sigma
    step = samplers.SAMPLERS["euler"].make()
    states = list(samplers.sample(denoise, x, schedule.sigmas, step))
    last = want.latents * np.hypot(1.0, schedule.sigmas[-1])
    np.testing.assert_allclose(states[-1].x, last, rtol=0, atol=1e-5)
    assert states[-1].history[1]


def test_cfgpp_is_warned_about_at_usual_scales(tiny):
    got = modes.txt2img(tiny, "a", sampler="euler_cfgpp", seed=1, steps=2, cfg_scale=7.5)
    assert any("CFG++" in line and "0 to 1" in line for line in got.warnings)
    got = modes.txt2img(tiny, "a", sampler="euler_cfgpp", seed=1, steps=2, cfg_scale=0.6)
    assert not any("CFG++" in line for line in got.warnings)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("apg", {"name": "apg"}),
        (" rescale : phi = 0.5 ", {"name": "rescale", "phi": 0.5}),
        ("x:a=1,b=none,c=true,d=mid", {"name": "x", "a": 1, "b": None, "c": True, "d": "mid"}),
        ("x:a=-1.5e-3", {"name": "x", "a": -1.5e-3}),
    ],
)
def test_the_notation_of_the_command_line(text, read):
    assert parse_guidance(text) == read


@pytest.mark.parametrize("text", ["rescale:", "rescale:phi", "rescale:=1", "rescale:phi=1,"])
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        parse_guidance(text)
    assert caught.value.code == "E-GUIDANCE" and "rescale:phi=0.7" in caught.value.hint


@pytest.mark.parametrize("model", ["tiny64", "two_encoders"])
def test_the_empty_prompt_is_that_of_an_empty_negative_prompt(model, request):
    """Then the negative part is zero, and what is left is classifier-free guidance."""
    model = request.getfixturevalue(model)
    plain = modes.txt2img(model, "a b", **SEEDED)
    got = modes.txt2img(model, "a b", guidance="perp_neg", **SEEDED)
    np.testing.assert_allclose(got.latents, plain.latents, rtol=0, atol=2e-3)
    other = modes.txt2img(model, "a b", negative_prompt="c", guidance="perp_neg", **SEEDED)
    assert np.abs(other.latents - plain.latents).max() > 1e-2
