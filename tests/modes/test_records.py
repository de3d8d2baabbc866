"""Information about a run: progress, parameters, warnings, files and signatures."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError, NumericError
from ldmref.io.images.metadata import read_parameters
from ldmref.modes import generate, nonfinite
from ldmref.modes.registry import MODES
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.text import encode_texts
from ldmref.prompts.tokenizer import PromptOptions

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
SMALL = {"seed": 5, "steps": 2}


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend="numpy")


# -- progress -------------------------------------------------------------------------------------


def test_progress_says_where_the_run_is(tiny):
    seen = []
    r = modes.txt2img(
        tiny, "a", count=3, batch_size=2, callback=seen.append, sampler="ddim", **SMALL
    )
    assert [(p.first, p.step, p.steps, p.count) for p in seen] == [
        (0, 0, 2, 3),
        (0, 1, 2, 3),
        (2, 0, 2, 3),
        (2, 1, 2, 3),
    ]
    assert [p.latents.shape[0] for p in seen] == [2, 2, 1, 1]
    assert seen[0].sigma > seen[1].sigma >= 0 and seen[0].sigma == seen[0].state.sigma
    assert len(repr(seen[0])) < 80  # no arrays
    assert [p.size for p in seen[0].preview()] == [(16, 16)] * 2
    scale = np.hypot(1.0, seen[3].sigma)
    np.testing.assert_allclose(seen[3].latents / scale, r.latents[2:], rtol=1e-6)


def test_one_image_counts_as_one_when_it_is_inverted(tiny):
    seen = []
    modes.invert(tiny, "a", IMAGE, steps=2, callback=seen.append)
    assert [(p.first, p.step, p.steps, p.count) for p in seen] == [(0, 0, 2, 1), (0, 1, 2, 1)]


def test_a_preview_may_have_its_own_decoder(tiny):
    seen = []
    given = []
    modes.txt2img(tiny, "a", callback=seen.append, **SMALL)

    def decode(latents, /, tile=None):
        given.append(latents)
        return np.zeros((1, 3, 4, 6))

    (rough,) = seen[0].preview(SimpleNamespace(backend=tiny.backend, decode=decode))
    assert rough.size == (6, 4) and (given[0] == seen[0].x0).all()


def test_a_finished_image_has_its_index_and_its_latents(tiny):
    prepared = modes.plan("txt2img", tiny.config, prompt="a", count=3, batch_size=2, **SMALL)
    images = [
        e for e in prepared.prepare(tiny).generate() if isinstance(e, generate.GeneratedImage)
    ]
    want = prepared.run(tiny)
    assert [p.index for p in images] == [0, 1, 2]
    for image in images:
        assert (image.latents == want.latents[image.index]).all()
        assert image.image.tobytes() == want[image.index].tobytes()


def test_tiles_reach_the_decoder_and_only_if_asked(model, monkeypatch):
    sizes = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda x, **more: sizes.append(more) or decode(x, **more))
    for tile in (None, 8):
        modes.txt2img(model, "a", tile=tile, **SMALL)
    assert sizes == [{}, {"tile": 8}]


# -- parameters -----------------------------------------------------------------------------------


def test_the_record_of_a_run(tiny):
    noise = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    states = np.repeat(tiny.encode_text(["hat"]), 2, axis=0)
    r = modes.txt2img(tiny, ["a", "b"], negative_prompt_embeds=states, latents=noise, **SMALL)
    digests = [hashlib.sha256(x.tobytes()).hexdigest() for x in noise]
    assert r.params["latents"] == digests and r.params["seed"] == [5, 6]
    assert r.params["mode"] == "txt2img" and r.params["ldmref"] == ldmref.__version__
    assert r.params["model"] == {"name": "tiny", "sha256": tiny.sha256}
    assert r.params["backend"] == tiny.backend.describe()
    assert (r.params["prompt"], r.params["negative_prompt"]) == (["a", "b"], "")
    assert not {"control", "strength", "prompt_embeds", "callback", "sigmas"} & set(r.params)
    one = r.params_of(1)
    assert (one["latents"], one["prompt"], one["seed"]) == (digests[1:], "b", 6)
    assert (one["count"], one["index"]) == (1, 1)
    assert len(one["negative_prompt_embeds"]) == 1
    prepared = modes.plan("txt2img", tiny.config, prompt=["a", "b"], latents=noise, **SMALL)
    alone = prepared.prepare(tiny).params_of(1)
    assert (alone["seed"], alone["prompt"], alone["latents"]) == (6, "b", digests[1:])


@pytest.mark.parametrize(
    ("prompts", "negatives", "prompt", "negative", "count"),
    [
        (["a"], "n", "a", "n", 2),
        (["a", "b"], "n", ["a", "a", "b", "b"], "n", 1),
        (["a", "a"], ["n", "m"], ["a"] * 4, ["n", "n", "m", "m"], 1),
        (["a", "a"], ["n", "n"], "a", "n", 4),
    ],
)
def test_what_is_alike_is_recorded_once(tiny, prompts, negatives, prompt, negative, count):
    planned = modes.plan(
        "txt2img", tiny.config, prompt=prompts, negative_prompt=negatives, count=2, seed=1
    )
    p = planned.params
    assert (p["prompt"], p["negative_prompt"], p["count"]) == (prompt, negative, count)
    assert p["seed"] == [1 + i for i in range(2 * len(prompts))]


def test_what_changes_the_model_is_recorded_and_its_warnings_are_repeated(model):
    model.modifications = {"ema": True}
    model._warnings = ("odd file",)
    r = modes.txt2img(model, "a zebra zebra", cfg_scale=60.0, **SMALL)
    assert r.params["model"]["ema"] is True
    assert r.warnings[0] == "odd file" and "cfg_scale" in r.warnings[1]
    assert "zebra" in r.warnings[2] and len(r.warnings) == len({*r.warnings})


def test_a_cancelled_run_has_the_images_so_far(tiny):
    flag = SimpleNamespace(set=False, is_set=lambda: flag.set)
    shown = []

    def stop(progress):
        shown.append(progress)
        flag.set = progress.first == 2 and progress.step == 0

    with pytest.raises(ldmref.errors.Cancelled) as caught:
        modes.txt2img(tiny, "a", count=3, callback=stop, cancel=flag, **SMALL)
    partial = caught.value.partial
    assert len(shown) == 5 and partial.seeds == [5, 6]
    assert (partial.params["seed"], partial.params["count"]) == ([5, 6], 2)
    assert partial.latents.shape[0] == len(partial.images) == 2
    want = modes.txt2img(tiny, "a", count=2, **SMALL)
    assert (partial.latents == want.latents).all()


def test_a_run_cancelled_in_its_last_step_is_complete(tiny):
    flag = SimpleNamespace(set=False, is_set=lambda: flag.set)

    def stop(progress):
        flag.set = progress.step == progress.steps - 1

    got = modes.txt2img(tiny, ["a", "b"], callback=stop, cancel=flag, batch_size=2, **SMALL)
    assert got.params["prompt"] == ["a", "b"] and len(got) == 2


@pytest.mark.parametrize(
    ("values", "named"),
    [({}, "prompt and image"), ({"image": IMAGE}, "prompt"), ({"prompt": "a"}, "image")],
)
def test_what_is_missing_is_named(tiny, values, named):
    with pytest.raises(LdmrefError) as caught:
        modes.plan("img2img", tiny.config, **values)
    assert caught.value.code == "E-USAGE" and f"needs {named}" in str(caught.value)


@pytest.mark.parametrize("mode", ["txt2imgg", None, 3, ["txt2img"]])
def test_no_such_mode(tiny, mode):
    with pytest.raises(LdmrefError) as caught:
        modes.plan(mode, tiny.config, prompt="a")
    assert caught.value.code == "E-MODE" and "txt2img" in caught.value.hint


def test_a_plan_may_be_made_with_the_model_itself(tiny):
    by_model = modes.plan("txt2img", tiny, prompt="a", seed=1)
    assert by_model.params == modes.plan("txt2img", tiny.config, prompt="a", seed=1).params
    assert Plan(by_model.request, by_model.job).params == by_model.params  # nothing more to record


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tiny):
    return modes.txt2img(tiny, ["a", "b", "c"], **SMALL)


@pytest.fixture(scope="module")
def one(tiny):
    return modes.txt2img(tiny, "a", **SMALL)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.jpeg", "a.PNG", "a.b.png"])
def test_names_of_files(one, three, tmp_path, name):
    assert one.save(tmp_path / name) == [tmp_path / name]
    stem, _, ending = name.rpartition(".")
    want = [tmp_path / f"{stem}-{i}.{ending}" for i in range(3)]
    assert three.save(str(tmp_path / name)) == want and all(path.is_file() for path in want)
    for path, seed in zip(want, three.seeds, strict=True):
        assert read_parameters(path)["ldmref"]["seed"] == seed


def test_a_folder_gets_names_of_mode_and_seed(one, three, tmp_path):
    assert [p.name for p in one.save(tmp_path)] == ["txt2img-5-0.png"]
    with pytest.raises(LdmrefError) as caught:
        three.save(tmp_path)  # the first is there
    assert caught.value.exit_code == 8
    names = [f"txt2img-{5 + i}-{i}.png" for i in range(3)]
    assert [p.name for p in three.save(tmp_path, overwrite=True)] == names


def test_files_without_metadata(one, tmp_path):
    (bare,) = one.save(tmp_path / "a.png", metadata=False)
    assert not Image.open(bare).info and Image.open(bare).tobytes() == one[0].tobytes()


def test_infotext_of_each_image(three):
    texts = [three.infotext(i) for i in range(3)]
    assert three.infotext() == texts[0] and [t[0] for t in texts] == ["a", "b", "c"]
    assert all(f"Seed: {5 + i}" in text for i, text in enumerate(texts))


def test_images_of_unequal_height_stand_side_by_side():
    images = [Image.new("RGB", size, "red") for size in ((3, 5), (2, 7))]
    result = Result(images, np.zeros((2, 1)), [1, 2], {})
    sheet = Image.open(io.BytesIO(result._repr_png_()))
    want = Image.new("RGB", (5, 7))
    want.paste(images[0], (0, 0))
    want.paste(images[1], (3, 0))
    assert sheet.mode == "RGB" and sheet.tobytes() == want.tobytes() and result.warnings == []


# -- NaN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "hinted"), [("float16", True), ("bfloat16", True), ("float32", False)]
)
def test_another_precision_is_proposed_where_one_is_left(dtype, hinted):
    model = SimpleNamespace(backend=SimpleNamespace(dtype=dtype))
    error = nonfinite.decoder_error(model, lambda d: None)
    assert isinstance(error, NumericError) and error.code == "E-NAN"
    assert ("float32" in error.hint) is hinted


# -- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_signatures_as_an_editor_shows_them(mode):
    signature = inspect.signature(getattr(modes, mode))
    names = list(signature.parameters)
    assert names[0] == "model" and len(names) == len({*names})
    assert set(names) - {"model", "callback", "cancel"} == set(MODES[mode].parameters)
    for name, parameter in MODES[mode].parameters.items():
        argument = signature.parameters[name]
        assert "Doc(" not in str(argument.annotation), name
        assert not isinstance(argument.annotation, str), name
        if argument.kind is inspect.Parameter.KEYWORD_ONLY:
            assert argument.default == parameter.default, name
    text = inspect.getdoc(getattr(modes, mode))
    assert text.startswith(MODES[mode].summary) and "\n" not in MODES[mode].summary
    body = text.partition("\nArgs:\n")[2].partition("\n\n")[0].splitlines()
    assert [x.split(":")[0].strip() for x in body if x[:4] == "    " and x[4] != " "] == [
        "model",
        *MODES[mode].parameters,
        "callback",
        "cancel",
    ]
    assert max(len(line) for line in body) <= 88
    assert {len(line) - len(line.lstrip()) for line in body} == {4, 8}


def test_types_of_the_schema():
    properties = modes.schema("inpaint")["properties"]
    properties = {name: p | p.get("anyOf", [{}])[0] for name, p in properties.items()}
    types = {name: p.get("type") for name, p in properties.items()}
    assert types["prompt"] == ["string", "array"] and types["strength"] == "number"
    assert types["image"] == types["mask"] == types["fill"] == "string"
    assert types["steps"] == "integer"
    assert types["only_masked"] == "boolean" and types["latents"] == types["sigmas"] == "array"
    assert properties["prompt"]["items"] == {"type": "string"}
    assert properties["image"]["contentEncoding"] == "base64"
    assert properties["prompt_embeds"]["type"] == "array"
    assert properties["steps"]["minimum"] == 1 and properties["steps"]["maximum"] == 1000
    assert "default" not in properties["steps"] and properties["count"]["default"] == 1
    assert modes.schema("txt2img")["$schema"].startswith("https://json-schema.org/")
    assert modes.schema("inpaint")["required"] == ["prompt", "image", "mask"]


# -- two text encoders ----------------------------------------------------------------------------


def rows_seen(model, **values):
    """Return the conditioning of every call of the U-Net."""
    seen = []
    unet = type(model).predict
    watched = copy.copy(model)
    watched.predict = lambda x, t, c, **more: seen.append((x, c)) or unet(model, x, t, c, **more)
    modes.txt2img(watched, **{"prompt": "red heart", "seed": 1, "steps": 1} | values)
    return seen


def test_the_network_is_told_height_before_width(two_encoders):
    (_, c), *_ = rows_seen(two_encoders, width=20, height=12, count=2, batch_size=2, cfg_scale=1.0)
    np.testing.assert_array_equal(c.sizes, [[12, 20, 0, 0, 12, 20]] * 2)
    assert c.pooled.shape == (2, 24)


@pytest.mark.parametrize("zeros", [False, True])
def test_an_empty_negative_prompt_may_be_zeros(two_encoders, zeros):
    model = copy.copy(two_encoders)
    model.config = dataclasses.replace(two_encoders.config, zero_empty_negative=zeros)
    text = encode_texts(model, ["red", "", "cat"], ["", "blue", "blue"], (16, 16))
    parts = text.conditionings(slice(0, 3))
    cond, uncond = parts["cond"], parts["uncond"]
    assert [bool(np.any(row)) for row in cond.context] == [True] * 3
    assert [bool(np.any(row)) for row in uncond.context] == [not zeros, True, True]
    assert [bool(np.any(row)) for row in uncond.pooled] == [not zeros, True, True]
    blue = model.encode_prompts(["blue"], 0, PromptOptions())
    np.testing.assert_array_equal(uncond.pooled[1:2], blue.pooled)


def test_pooled_outputs_are_interpolated_with_the_rest(two_encoders):
    r = modes.interpolate(
        two_encoders, "red", "cat", [0.0, 0.5, 1.0], seed=1, steps=1, sampler="ddim"
    )
    for i, prompt in ((0, "red"), (2, "cat")):
        want = modes.txt2img(two_encoders, prompt, seed=1, steps=1, sampler="ddim")
        np.testing.assert_allclose(r.latents[i], want.latents[0], rtol=1e-4, atol=1e-5)


def test_the_denoiser_of_another_shape_knows_its_size(two_encoders):
    seen = []
    watched = copy.copy(two_encoders)
    unet = type(two_encoders).predict
    watched.predict = lambda x, t, c, **more: seen.append(c) or unet(two_encoders, x, t, c, **more)
    denoise = ldmref.denoiser(watched, "red", cfg_scale=1.0)
    denoise(two_encoders.backend.asarray(np.ones((2, 4, 6, 10))), 1.0)
    np.testing.assert_array_equal(seen[0].sizes, [[12, 20, 0, 0, 12, 20]] * 2)
    default = ldmref.denoiser(two_encoders, "red")
    x = two_encoders.backend.asarray(np.ones((1, 4, 8, 8)))
    explicit = ldmref.denoiser(two_encoders, "red", "", two_encoders.config.defaults.cfg_scale)
    np.testing.assert_array_equal(default(x, 1.0), explicit(x, 1.0))
