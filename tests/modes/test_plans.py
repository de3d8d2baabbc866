"""A plan is run at once, event by event, or by the function of its mode: one result, one record."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled, LdmrefError, ResourceError
from ldmref.models.config import Defaults, TextConfig
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.modes.registry import MODES


def noisy_image(seed, size=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return Image.fromarray(pixels)


HALF = Image.new("L", (16, 16))
HALF.paste(255, (0, 0, 8, 16))
FIRST = noisy_image(1)
SECOND = noisy_image(2)
CONCAT = {"superres": "low_resolution", "seg2img": "segmentation"}


def labels(seed):
    return np.random.default_rng(seed).integers(0, 3, (16, 16))


# For every mode: its arguments, and the argument with another image (txt2img and interpolate have
# none: their latents or prompt).
ARGUMENTS = {
    "txt2img": ({"prompt": "a cat", "seed": 1, "count": 2}, {"seed": 2}),
    "img2img": ({"prompt": "a cat", "image": FIRST, "seed": 1}, {"image": SECOND}),
    "inpaint": ({"prompt": "a", "image": FIRST, "mask": HALF, "seed": 1}, {"image": SECOND}),
    "interpolate": (
        {"prompt": "a", "prompt_b": "a dog", "positions": 3, "seed": 1},
        {"prompt_b": "hat"},
    ),
    "invert": ({"prompt": "a cat", "image": FIRST}, {"image": SECOND}),
    "edit": (
        {"prompt": "a dog", "image": FIRST, "source_prompt": "a cat", "seed": 1},
        {"image": SECOND},
    ),
    "superres": ({"image": noisy_image(1, 8), "seed": 1}, {"image": noisy_image(2, 8)}),
    "seg2img": ({"segmentation": labels(1), "seed": 1}, {"segmentation": labels(2)}),
}


def model_for(mode):
    """Preset tiny; without words, with channels for an image, for the modes that need it."""
    if mode == "edit":
        return ldmref.random_model("sd3-tiny", backend="numpy")
    if mode not in CONCAT:
        return ldmref.random_model("tiny", backend="numpy")
    tiny = preset("tiny")
    text = TextConfig(model_type="none", num_hidden_layers=1)
    unet = replace(
        tiny.unet, in_channels=7, out_channels=4, attention="self", cross_attention_dim=0
    )
    config = replace(
        tiny,
        concat=CONCAT[mode],
        denoiser=unet,
        text_encoder=text,
        defaults=Defaults(2, 1.0, 16, 16),
        segmentation_classes=3 if mode == "seg2img" else 0,
    )
    small = ldmref.random_model("tiny", backend="numpy")
    return LatentDiffusion(small.backend, config, init(model_spec(config)), small.tokenizer)


@pytest.fixture(scope="module", params=sorted(MODES))
def planned(request):
    """(mode, model, arguments, plan)."""
    mode = request.param
    model = model_for(mode)
    (arguments, _) = ARGUMENTS[mode]
    arguments = arguments | {"steps": 3}
    return mode, model, arguments, modes.plan(mode, model, **arguments)


def stepped(plan, model):
    """Return the events of a plan and the result of its images, as docs/modes.md shows."""
    run = plan.prepare(model)
    events = list(run.generate())
    images = [event for event in events if isinstance(event, modes.GeneratedImage)]
    return run, events, images, run.result(images)


def assert_same(a, b):
    assert type(a) is type(b)
    np.testing.assert_array_equal(a.latents, b.latents)
    assert a.params == b.params and a.warnings == b.warnings
    assert a.seeds == b.seeds
    assert [x.tobytes() for x in a.images] == [x.tobytes() for x in b.images]
    if isinstance(a, modes.Inversion):
        assert a.settings == b.settings and a.prompt == b.prompt


def test_every_way_to_run_a_plan_gives_the_same_result(planned):
    mode, model, arguments, plan = planned
    _, _, _, by_events = stepped(plan, model)
    at_once = plan.run(model)
    assert_same(by_events, at_once)
    assert_same(getattr(modes, mode)(model, **arguments), at_once)
    assert at_once.params["mode"] == mode
    assert len(at_once.latents) == len(plan.job.seeds) and np.isfinite(at_once.latents).all()


def test_the_events_hold_what_the_result_holds(planned):
    _, model, _, plan = planned
    run, events, images, result = stepped(plan, model)
    assert [image.index for image in images] == list(range(len(result.latents)))
    assert len(events) > len(images) and isinstance(events[-1], modes.GeneratedImage)
    for image in images:
        np.testing.assert_array_equal(image.latents, result.latents[image.index])
        assert image.image.tobytes() == result[image.index].tobytes()
        assert run.params_of(image.index) == result.params_of(image.index)
    assert run.params(len(images)) == result.params and run.warnings == result.warnings


def test_every_result_depends_on_what_it_starts_from(planned):
    mode, model, arguments, plan = planned
    other = modes.plan(mode, model, **arguments | ARGUMENTS[mode][1])
    for a, b in zip(stepped(plan, model)[2], stepped(other, model)[2], strict=True):
        if mode == "interpolate" and a.index == 0:
            continue  # the first prompt's end is the same
        assert np.abs(a.latents - b.latents).max() > 1e-3, a.index
    assert np.abs(plan.run(model).latents - other.run(model).latents).max() > 1e-3


def test_the_params_of_a_plan_are_those_of_its_result(planned):
    _, model, _, plan = planned
    result = plan.run(model)
    assert {name: result.params[name] for name in plan.params} == plan.params
    assert json.loads(json.dumps(result.params)) == result.params


def test_a_stopped_run_holds_what_is_finished(planned):
    mode, model, arguments, plan = planned
    stop = threading.Event()
    with pytest.raises(Cancelled) as caught:
        plan.run(model, callback=lambda progress: stop.set(), cancel=stop)
    assert type(caught.value.partial) is type(plan.run(model))
    assert caught.value.partial.latents.shape[0] == 0
    with pytest.raises(Cancelled) as caught:
        getattr(modes, mode)(model, **arguments, cancel=stop)
    assert caught.value.partial.latents.shape[0] == 0


def test_every_mode_names_its_memory_when_there_is_none(planned, monkeypatch):
    _, model, _, plan = planned
    run = plan.prepare(model)

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(model, "predict", full)
    with pytest.raises(ResourceError):
        list(run.generate())


# -- what is shared -------------------------------------------------------------------------------


def mutable_parts(value):
    """Return the ids of all lists and dictionaries within a value."""
    if isinstance(value, dict):
        return {id(value)}.union(*(mutable_parts(part) for part in value.values()))
    if isinstance(value, list | tuple):
        inner = set().union(*(mutable_parts(part) for part in value))
        return inner | ({id(value)} if isinstance(value, list) else set())
    return set()


def test_no_record_shares_what_can_be_changed(planned):
    mode, model, _, plan = planned
    model = copy.copy(model)
    model.modifications = {"loras": [{"name": "x", "weight": 1.0}], "vae": {"name": "y"}}
    result = plan.run(model)
    run = plan.prepare(model)
    holders = {
        "request": vars(plan.request) | vars(plan.job),
        "model": model.modifications,
        "recorded": dict(plan.recorded),
        "plan": plan.params,
        "plan again": plan.params,
        "run": run.params(1),
        "run of one": run.params_of(0),
        "result": result.params,
        "settings": getattr(result, "settings", {}),
        "one": result.params_of(0),
        "one again": result.params_of(0),
    }
    parts = {name: mutable_parts(value) for name, value in holders.items()}
    assert any(parts.values())
    for a in parts:
        for b in parts:
            assert a == b or not parts[a] & parts[b], (mode, a, b)


# -- how they are shown ---------------------------------------------------------------------------


def test_everything_that_a_plan_gives_is_shown_on_one_short_line(planned):
    mode, model, arguments, plan = planned
    run, events, _, result = stepped(plan, model)
    for shown in (plan, run, result, model, plan.request, *events):
        text = repr(shown)
        assert len(text) < 240 and "\n" not in text, text
    for shown in (plan, run, result, plan.request):
        assert mode in repr(shown).lower() or mode == "invert", repr(shown)
    long = modes.plan(
        mode, model, **arguments | ({"prompt": "a cat " * 200} if "prompt" in arguments else {})
    )
    assert len(repr(long)) < 240


def test_a_result_of_thousands_is_shown_on_one_short_line():
    result = modes.Result(
        [FIRST] * 5000, np.zeros((5000, 4, 8, 8)), list(range(5000)), {"mode": "x"}
    )
    assert len(repr(result)) < 240 and "5000 images" in repr(result)


# -- what is refused ------------------------------------------------------------------------------


def code_of(function, *args, **kwargs):
    with pytest.raises(LdmrefError) as caught:
        function(*args, **kwargs)
    return caught.value.code


@pytest.mark.parametrize("mode", ["nosuch", None, 3, ["txt2img"]])
def test_a_schema_of_no_mode_is_refused_as_a_plan_is(mode):
    assert code_of(modes.schema, mode) == code_of(modes.plan, mode, preset("tiny")) == "E-MODE"


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": ["red"] * 10_001},
        {"prompt": ["a"] * 101, "count": 100},
        {"prompt": "a", "count": 10_001},
    ],
)
def test_a_request_has_at_most_10000_images_however_they_are_counted(prompts):
    assert code_of(modes.plan, "txt2img", preset("tiny"), **prompts) == "E-COUNT"
    plan = modes.plan("txt2img", preset("tiny"), prompt=["a"] * 100, count=100)
    assert len(plan.job.seeds) == 10_000


def test_embeddings_count_as_prompts_do():
    config = preset("tiny")
    width = config.text_encoders[0].hidden_size
    states = np.zeros((101, config.text_encoder.max_position_embeddings, width), np.float32)
    assert (
        code_of(modes.plan, "txt2img", config, prompt=None, prompt_embeds=states, count=100)
        == "E-COUNT"
    )
