"""One table of A1111's settings, sent through the command line's and the server's doors."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref import modes
from ldmref.apps.a1111.names import LABELS, SCHEDULERS
from ldmref.apps.a1111.reading import replay_parameters
from ldmref.apps.a1111.replay import replay_request
from ldmref.apps.server.a1111.translate import translate
from ldmref.apps.server.inspect_image import inspect_image
from ldmref.apps.server.served import Served
from ldmref.models.presets import preset
from ldmref.samplers import make_schedule

ANY_SCHEDULE = ("DDIM", "PLMS", "UniPC", "LCM")  # which ignore the scheduler
SETTINGS = {
    "plain": {},
    "clip skip 1": {"clip_skip": 1},
    "clip skip 2": {"clip_skip": 2},
    "more layers than there are": {"clip_skip": 40},
    "a long prompt": {"prompt": "a cat, " * 60 + "a dog"},
    "BREAK, weights and a network": {"prompt": "a (cat:1.2) BREAK dog <lora:fur:0.5>"},
    "a negative prompt": {"negative_prompt": "a [dog]"},
    "guidance and size": {"cfg_scale": 2.5, "width": 256, "height": 320, "seed": 2**40},
    "noise of the CPU": {"randn_source": "CPU"},
    "noise of a GPU": {"randn_source": "GPU"},
}


def through_the_command_line(config, **settings):
    """The text of an image with these settings, as `ldmref run --from` reads it."""
    record, notes = replay_parameters(infotext_of(settings))
    made = record.pop("a1111")
    mode = record.pop("mode")
    record.pop("model")
    values, more = replay_request(mode, config, record, made)
    values = {name: value for name, value in values.items() if value is not None}
    return modes.plan(mode, config, **values), notes + more


def through_the_server(config, **settings):
    """The same settings in the body of a request to /sdapi/v1/txt2img."""
    settings = dict(settings)
    override = {"randn_source": settings.pop("randn_source")}
    translated = translate(settings | {"override_settings": override}, config)
    return modes.plan(translated.mode, config, **translated.batches[0]), translated.notes


def infotext_of(settings):
    pairs = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler_name"],
        "Schedule type": SCHEDULERS[settings["scheduler"]],
        "CFG scale": settings["cfg_scale"],
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "RNG": settings["randn_source"],
    }
    if "clip_skip" in settings:
        pairs["Clip skip"] = settings["clip_skip"]
    line = ", ".join(f"{name}: {value}" for name, value in pairs.items())
    return f"{settings['prompt']}\nNegative prompt: {settings['negative_prompt']}\n{line}"


def complete(**settings):
    return {
        "prompt": "a cat", "negative_prompt": "", "steps": 12, "sampler_name": "Euler",
        "scheduler": "normal", "cfg_scale": 7, "seed": 12, "width": 512, "height": 512,
        "randn_source": "NV",
    } | settings  # fmt: skip


@pytest.mark.parametrize("name", ["sd15", "sd2-base", "sdxl", "ldm-text2img256"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_doors_plan_the_same(name, settings):
    config = preset(name)
    settings = complete(**settings)
    if name == "ldm-text2img256":
        settings |= {"width": 256, "height": 256}
    replayed, told = through_the_command_line(config, **settings)
    served, said = through_the_server(config, **settings)
    assert served.params == replayed.params
    assert served.job.clip_skip == replayed.job.clip_skip
    fewer = "fewer layers"
    assert any(fewer in note for note in said) == any(fewer in note for note in told)


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "automatic"])
@pytest.mark.parametrize("label", [label for label in LABELS.values() if label not in ANY_SCHEDULE])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_both_doors_have_the_levels_of_a_named_scheduler(name, label, scheduler):
    config = preset(name)
    settings = complete(sampler_name=label, scheduler=scheduler)
    levels = []
    for door in (through_the_command_line, through_the_server):
        job = door(config, **settings)[0].job
        assert LABELS[job.sampler.name] == label
        schedule = make_schedule(config.scheduler, job.sampler, job.schedule, job.steps, job.sigmas)
        levels.append(schedule.sigmas)
    np.testing.assert_allclose(levels[0], levels[1], rtol=1e-12)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["sd3-medium", "flux-dev"])
@pytest.mark.parametrize("door", [through_the_command_line, through_the_server])
def test_a_flow_has_its_own_levels_whatever_is_selected(door, name, scheduler):
    """Clients select a scheduler once, for every model."""
    config = preset(name)
    plan, notes = door(config, **complete(scheduler=scheduler))
    own = modes.plan("txt2img", config, prompt="a cat", steps=12, sampler="euler").job
    assert plan.job.schedule == own.schedule and plan.job.sigmas is None
    assert plan.job.steps == 12 and plan.job.long_prompts == "chunk"
    if scheduler != "automatic":
        assert any("of flow matching" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "skipped", "long_prompts"),
    [
        ("sd15", 1, "chunk"),  # FrozenCLIPEmbedderWithCustomWords
        ("sd2-base", 0, "chunk"),  # FrozenOpenCLIPEmbedderWithCustomWords
        ("sdxl", 0, "chunk"),  # FrozenCLIPEmbedderForSDXLWithCustomWords and its second encoder
        ("ldm-text2img256", 0, "truncate"),  # BERT, which sd_hijack.py leaves as it is
    ],
)
@pytest.mark.parametrize("door", [through_the_command_line, through_the_server])
def test_text_encoders_are_those_that_a1111_wraps(door, name, skipped, long_prompts):
    settings = complete(clip_skip=2, width=256, height=256)
    job = door(preset(name), **settings)[0].job
    assert (job.clip_skip, job.long_prompts) == (skipped, long_prompts)


# -- the server's own door ------------------------------------------------------------------------


class FakeModel:
    sha256 = "ab" * 32

    def __init__(self, config):
        self.config = config


def image_with(text):
    chunk = PngInfo()
    chunk.add_text("parameters", text)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG", pnginfo=chunk)
    return buffer.getvalue()


@pytest.mark.parametrize("scheduler", ["karras", "sgm_uniform"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_server_replays_what_the_command_line_replays(name, scheduler):
    config = preset(name)
    settings = complete(sampler_name="DPM2", scheduler=scheduler, clip_skip=2)
    replayed, notes = through_the_command_line(config, **settings)
    models = {"other": FakeModel(preset("tiny")), name: FakeModel(config)}
    found = inspect_image(image_with(infotext_of(settings)), 10**6, Served(models), name)
    parameters = json.loads(json.dumps(found["parameters"]))
    assert modes.plan(found["mode"], config, **parameters).params == replayed.params
    assert found["notes"] == notes and found["missing"] == [] and found["models"] == []


def test_the_model_that_made_an_image_replays_it():
    models = {"sd15": FakeModel(preset("sd15")), "sdxl": FakeModel(preset("sdxl"))}
    models["sdxl"].sha256 = "cd" * 32
    text = infotext_of(complete(scheduler="align_your_steps")) + ", Model hash: cdcdcdcdcd"
    found = inspect_image(image_with(text), 10**6, Served(models), "sd15")
    levels = through_the_command_line(preset("sdxl"), **complete(scheduler="align_your_steps"))[
        0
    ].job.sigmas
    assert found["models"] == ["sdxl"] and tuple(found["parameters"]["sigmas"]) == levels


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"sampler_name": "Restart"}, "the image's sampler 'Restart' is not available"),
        ({"steps": 5000}, "steps must be"),
    ],
)
def test_what_cannot_be_replayed_is_a_note(pairs, said):
    models = {"sd15": FakeModel(preset("sd15"))}
    found = inspect_image(image_with(infotext_of(complete(**pairs))), 10**6, Served(models), "sd15")
    assert said in found["notes"][-1] and "noise levels of A1111 are left out" in found["notes"][-1]
    assert found["parameters"]["prompt"] == "a cat" and "sigmas" not in found["parameters"]
