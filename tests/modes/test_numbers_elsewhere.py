"""Numbers under the names of other programs mean what they mean there, or are refused.

`ROWS` has a row for each (interface, name): what 0, 1 and an absent value are in our parameters.
The names come from where they are declared, so one without a row fails.
"""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.a1111 import reading, second_pass
from ldmref.apps.a1111.replay import replay_request
from ldmref.apps.cli.main import cli
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.tasks import plan_tasks
from ldmref.apps.foreign import FOREIGN, MEANINGS, ForeignValue, read_foreign, strength_of_steps
from ldmref.apps.mcp.generation import check_names
from ldmref.apps.server.a1111.translate import translate
from ldmref.apps.server.openai.translate import translate_edit, translate_generation
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import BUILT_IN, family_of
from ldmref.models.presets import preset
from ldmref.modes.aliases import ALIASES, NOTES, OF_PYTHON, UNLIKE
from ldmref.modes.job import skip_steps
from ldmref.modes.registry import MODES
from ldmref.support.config import settings

SD15 = preset("sd15")
TEAL = Image.new("RGB", (512, 512), "teal")
REFUSED = "refused"
SMALL = {"width": 32, "height": 32}
SIZE = {"width": 512, "height": 512}


def encode(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@cache
def picture():
    """The image and the mask of requests, in base64 and as a file."""
    mask = Image.new("RGBA", TEAL.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (100, 100, 300, 300))
    white = Image.new("L", TEAL.size, 0)
    white.paste(255, (100, 100, 300, 300))
    return encode(TEAL), encode(white), mask


def is_number(name: str) -> bool:
    """Whether the parameter of an alias is a number or a flag, or its value is read as one."""
    fields = [mode.parameters.get(ALIASES[name]) for mode in MODES.values()]
    kinds = {field.kind for field in fields if field is not None}
    return name in FOREIGN or bool(kinds & {int, float, bool}) or ALIASES[name] == "seed"


NUMBERS = tuple(name for name in ALIASES if is_number(name))
SECOND = {"hr_scale", "hires_fix", "hr_second_pass_steps"}
OF_MASK = {
    "inpaint_full_res", "inpaint_full_res_padding", "inpainting_fill", "inpainting_mask_invert",
    "padding_mask_crop",
}  # fmt: skip


def mode_of(name: str) -> str:
    if name in OF_MASK:
        return "inpaint"
    if ALIASES.get(name) in ("strength", "resize"):
        return "img2img"
    return "txt2img"


def usual_of(name: str) -> dict:
    """The other parameters of a request."""
    usual = {"steps": 20, "seed": 1, "sampler": "euler_a"}
    usual |= {"upscale": 2.0} if name == "hr_second_pass_steps" else {}
    return {key: value for key, value in usual.items() if key != ALIASES[name]}


# -- how each interface reads a value -----------------------------------------------------------


def by_flag(name, value, tmp_path):
    """The parameters of a command line; None leaves the flag out."""
    mode = mode_of(name)
    image, mask, _ = picture()
    files = {"image": image, "mask": mask}
    for file, encoded in files.items():
        (tmp_path / f"{file}.png").write_bytes(base64.b64decode(encoded))
    argv = ["a cat", *(f"--{key}={usual}" for key, usual in usual_of(name).items())]
    argv += [] if mode == "txt2img" else ["-i", str(tmp_path / "image.png")]
    argv += ["--mask", str(tmp_path / "mask.png")] if mode == "inpaint" else []
    argv += ["--only-masked"] if name == "inpaint_full_res_padding" else []
    flag = f"--{name.replace('_', '-')}"
    if value is not None:
        kinds = {parameter.kind for parameter in [MODES[mode].parameters[ALIASES[name]]]}
        argv += [flag] * bool(value) if bool in kinds else [flag, f"{value:g}"]
    command = cli.commands[mode]
    context = command.make_context(mode, argv, parent=cli.context_class(cli), **NORMAL)
    flags = context.params | {"prompt": ["a cat"]}
    [task] = plan_tasks(mode, SD15, with_settings(mode, flags, settings(None)))
    return task.plan.params


NORMAL = {"token_normalize_func": cli.context_settings["token_normalize_func"]}


def by_openai(name, value, tmp_path):
    """The parameters of a body of OpenAI's interface with more fields."""
    mode = mode_of(name)
    body = {"prompt": "a cat", **usual_of(name)}
    body |= {"only_masked": True} if name == "inpaint_full_res_padding" else {}
    body |= {} if value is None else {name: value}
    if mode == "txt2img":
        asked = translate_generation(body, SD15)
    else:
        asked = translate_edit(body, SD15, TEAL, picture()[2] if mode == "inpaint" else None)
    return modes.plan(asked.mode, SD15, **asked.values).params


class Asked(dict):
    """A body that remembers which of its fields were asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


def decode(name, text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def a1111_body(name):
    body = Asked({"prompt": "a cat", "steps": 20, "seed": 1, "sampler_name": "Euler a"})
    if name in A1111_IMG2IMG:
        body |= {"init_images": [picture()[0]], **SIZE}
    if name in A1111_MASK:
        body |= {"mask": picture()[1]}
    if name.startswith(("hr_", "enable_hr")):
        body |= {"enable_hr": True}
    return body


def by_a1111(name, value, tmp_path):
    """The parameters of a body of A1111's interface."""
    body = a1111_body(name)
    if name == "CLIP_stop_at_last_layers":
        body["override_settings"] = {} if value is None else {name: value}
    elif value is None:
        body.pop(name, None)
    else:
        body[name] = value
    translated = translate(body, SD15, decode if name in A1111_IMG2IMG else None)
    planned = modes.plan(translated.mode, SD15, **translated.batches[0]).params
    return planned | {"batches": len(translated.batches), "clip_skip": planned["clip_skip"]}


A1111_MASK = (
    "mask_blur", "inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding",
    "inpainting_mask_invert",
)  # fmt: skip
A1111_IMG2IMG = ("denoising_strength", "resize_mode", *A1111_MASK)
A1111_TEXTS = {  # no numbers
    "alwayson_scripts", "hr_checkpoint_name", "hr_negative_prompt", "hr_prompt", "hr_sampler_name",
    "hr_scheduler", "hr_upscaler", "init_images", "mask", "negative_prompt", "override_settings",
    "prompt", "sampler_index", "sampler_name", "scheduler", "script_name", "send_images",
}  # fmt: skip


def by_text(name, value, tmp_path):
    """The parameters of A1111's text."""
    pairs = {"Steps": "20", "Sampler": "Euler a", "Seed": "1", "Size": "512x512"}
    if name in ("Denoising strength", "Mask blur"):
        pairs |= {"Denoising strength": "0.75"}
    if name in second_pass.VALUES and name != "Denoising strength":
        pairs |= {"Hires upscale": "2", "Hires upscaler": "Latent"}
    pairs |= {} if value is None else {name: f"{value:g}"}
    line = ", ".join(f"{key}: {text}" for key, text in pairs.items())
    record, _ = reading.replay_parameters(f"a cat\n{line}")
    values, _ = replay_request(record["mode"], SD15, record, record["a1111"])
    takes = MODES[record["mode"]].parameters
    values = {key: values[key] for key in takes if values.get(key) is not None}
    given = {"image": TEAL, "mask": picture()[2]}
    values |= {key: given[key] for key in given if key in takes}
    params = modes.plan(record["mode"], SD15, **values).params
    return params | {"second": len(params.get("upscale_sigmas", ())) - 1}


READ = {"flag": by_flag, "openai": by_openai, "a1111": by_a1111, "text": by_text}

# -- the rows -----------------------------------------------------------------------------------

CFG = ({"cfg_scale": 0.0}, {"cfg_scale": 1.0}, {"cfg_scale": 7.5})
OFF = ({"cfg_scale": 1.0}, {"cfg_scale": 1.0}, {"cfg_scale": 7.5})
COUNT = (REFUSED, {"count": 1}, {"count": 1})
STEPS = (REFUSED, {"steps": 1}, {"steps": 50})
SEED = ({"seed": 0}, {"seed": 1}, {})
ETA = ({"eta": 0.0}, {"eta": 1.0}, {})
ALL_STEPS = (  # ComfyUI's: at 0 the latents stay as they are
    {"strength": 0.0},
    {"strength": 1.0, "steps": 20},
    {"strength": 0.75, "steps": 20},
)
ONE_MORE = ({"strength": 0.05}, {"strength": 1.0}, {"strength": 0.75})
SECOND_STEPS = ({"upscale_steps": 20}, {"upscale_steps": 1}, {"upscale_steps": 20})
FACTOR = (REFUSED, {"upscale": 1.0}, {"upscale": None})
FLAG_OF_MASK = ({"only_masked": False}, {"only_masked": True}, {"only_masked": False})
INVERTED = ({"mask_invert": False}, {"mask_invert": True}, {"mask_invert": False})
FILLED = ({"fill": "fill"}, {"fill": "original"}, {"fill": "original"})
RESIZE = ({"resize": "stretch"}, {"resize": "crop"}, {"resize": "crop"})
CROPPED = (
    {"only_masked": True, "padding": 0},
    {"only_masked": True, "padding": 1},
    {"only_masked": False},
)
PADDING = ({"padding": 0}, {"padding": 1}, {})
BY_ALIAS = {
    "batch_count": COUNT,
    "cfg": CFG,  # ComfyUI's, whose formula is ours
    "ddim_eta": ETA,
    "ddim_steps": STEPS,
    "denoise": ALL_STEPS,
    "denoising_strength": ONE_MORE,
    "generator": SEED,
    "guidance_scale": OFF,
    "hires_fix": FACTOR,
    "hr_scale": FACTOR,
    "hr_second_pass_steps": SECOND_STEPS,
    "inpaint_full_res": FLAG_OF_MASK,
    "inpaint_full_res_padding": PADDING,
    "inpainting_fill": FILLED,
    "inpainting_mask_invert": INVERTED,
    "n_iter": COUNT,
    "n_samples": COUNT,
    "num_images": COUNT,
    "num_images_per_prompt": COUNT,
    "num_inference_steps": STEPS,
    "num_samples": COUNT,
    "num_steps": STEPS,
    "padding_mask_crop": CROPPED,
    "resize_mode": RESIZE,
    "sampling_steps": STEPS,
}
BY_A1111 = {
    "CLIP_stop_at_last_layers": ({"clip_skip": 0}, {"clip_skip": 0}, {"clip_skip": 0}),
    "batch_size": (REFUSED, {"count": 1}, {"count": 1}),
    "cfg_scale": CFG,  # u + s (c - u), as here
    "clip_skip": ({"clip_skip": 0}, {"clip_skip": 0}, {"clip_skip": 0}),
    "denoising_strength": ({"strength": 0.05}, {"strength": 1.0}, {"strength": 0.8}),
    "enable_hr": ({"upscale": None}, {"upscale": 2.0}, {"upscale": None}),
    "eta": ETA,
    "height": (REFUSED, {"height": 8}, {"height": 512}),  # rounded, with a note
    "hr_cfg": ({"cfg_scale": 7.5}, {"cfg_scale": 7.5}, {"cfg_scale": 7.5}),  # 0: the first's
    "hr_resize_x": ({"upscale": 2.0}, REFUSED, {"upscale": 2.0}),
    "hr_resize_y": ({"upscale": 2.0}, REFUSED, {"upscale": 2.0}),
    "hr_scale": (REFUSED, {"upscale": 1.0}, {"upscale": 2.0}),
    "hr_second_pass_steps": SECOND_STEPS,
    "inpaint_full_res": ({"only_masked": False}, {"only_masked": True}, {"only_masked": True}),
    "inpaint_full_res_padding": ({"padding": 0}, {"padding": 1}, {"padding": 0}),
    "inpainting_fill": ({"fill": "fill"}, {"fill": "original"}, {"fill": "fill"}),
    "inpainting_mask_invert": INVERTED,
    "mask_blur": ({"mask_blur": 0.0}, {"mask_blur": 1.0}, {"mask_blur": 4.0}),
    "n_iter": (REFUSED, {"batches": 1}, {"batches": 1}),
    "resize_mode": ({"resize": "stretch"}, {"resize": "crop"}, {"resize": "stretch"}),
    "seed": SEED,
    "steps": (REFUSED, {"steps": 1}, {"steps": 50}),
    "width": (REFUSED, {"width": 8}, {"width": 512}),
}
BY_TEXT = {
    "CFG scale": CFG,
    "Clip skip": ({"clip_skip": 0}, {"clip_skip": 0}, {"clip_skip": 0}),
    "Denoising strength": ({"strength": 0.05}, {"strength": 1.0}, {}),
    "Eta": ETA,
    "Eta DDIM": ETA,
    "Hires steps": ({"second": 20}, {"second": 1}, {"second": 20}),
    "Hires upscale": (REFUSED, {"upscale": 1.0}, {"upscale": 2.0}),
    "Mask blur": ({"mask_blur": 0.0}, {"mask_blur": 1.0}, {}),
    "Seed": SEED,
    "Steps": (REFUSED, {"steps": 1}, {"steps": 20}),
}
ROWS = {
    **{(way, name): row for way in ("flag", "openai") for name, row in BY_ALIAS.items()},
    **{("a1111", name): row for name, row in BY_A1111.items()},
    **{("text", name): row for name, row in BY_TEXT.items()},
}
VALUES = (0, 1, None)


@pytest.mark.parametrize(("way", "name"), ROWS)
@pytest.mark.parametrize("value", VALUES)
def test_what_0_and_1_and_an_absent_value_mean(way, name, value, tmp_path):
    expected = ROWS[way, name][VALUES.index(value)]
    if expected == REFUSED:
        with pytest.raises(UsageError) as refused:
            READ[way](name, value, tmp_path)
        assert str(refused.value)
        return
    params = READ[way](name, value, tmp_path)
    assert {key: params.get(key) for key in expected} == expected


def test_every_declared_name_has_a_row():
    assert set(BY_ALIAS) == set(NUMBERS)
    asked = Asked({"prompt": "a", "enable_hr": True})
    translate(asked, SD15, None)
    given = Asked({"prompt": "a", "init_images": [picture()[0]], "mask": picture()[1]})
    translate(given, SD15, decode)
    assert (asked.names | given.names) - A1111_TEXTS == set(BY_A1111) - {"CLIP_stop_at_last_layers"}
    assert set(BY_TEXT) == set(reading.VALUES) | set(second_pass.VALUES)


# -- our own names, and names that are none here -------------------------------------------------


@pytest.mark.parametrize("name", [*FOREIGN, *OF_PYTHON, *UNLIKE])
def test_names_with_another_meaning_are_refused_with_both_in_python_and_mcp(name):
    line = UNLIKE.get(name) or NOTES[name]
    mode = mode_of(name) if name in ALIASES else "txt2img"
    with pytest.raises(UsageError) as refused:
        modes.plan(mode, SD15, **{name: 0})
    assert line in refused.value.hint
    if mode == "txt2img":
        with pytest.raises(UsageError) as refused:
            check_names({"prompt": "a", name: 0})
        assert line in refused.value.hint or "control" in line or name in SECOND


def test_all_names_whose_values_are_read_are_aliases_with_a_note():
    assert set(MEANINGS) == set(FOREIGN) <= set(ALIASES) and set(FOREIGN) <= set(NOTES)


# -- the guidance scale of diffusers, by family ----------------------------------------------------

SCALES = {  # the preset of a family: our scales of 0, 1 and 4, as diffusers' pipelines guide
    "sd15": (1.0, 1.0, 4.0),
    "sdxl": (1.0, 1.0, 4.0),
    "sd35-medium": (1.0, 1.0, 4.0),
    "flux-dev": (0.0, 1.0, 4.0),  # an input of the network
    "flux-schnell": (1.0, 1.0, REFUSED),  # which ignores it
    "z-image": (1.0, 2.0, 5.0),  # c + g (c - u)
    "z-image-turbo": (1.0, 2.0, 5.0),
    "krea-2": (1.0, 2.0, 5.0),
    "krea-2-turbo": (1.0, 2.0, 5.0),
    "flux2-klein-4b": (1.0, 1.0, REFUSED),  # distilled: it ignores what asks for guidance
    "flux2-klein-base-4b": (1.0, 1.0, 4.0),
    "flux3-klein": (1.0, 1.0, REFUSED),  # a flow map, which has no guider
    "flux3-klein-base": (0.0, 1.0, 4.0),  # its guider is off at 1 alone
    "qwen-image-2.1": (1.0, 1.0, 4.0),
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("asked", [0, 1, 4])
def test_the_guidance_scale_of_diffusers(name, asked):
    config = preset(name)
    ours = SCALES[name][(0, 1, 4).index(asked)]
    body = {"prompt": "a cat", "guidance_scale": asked}
    if ours == REFUSED:
        with pytest.raises(UsageError, match="no effect") as refused:
            translate_generation(body, config)
        guides = not config.denoiser.is_flow_map
        assert (f"cfg_scale {asked}" in refused.value.hint) == guides
        return
    assert translate_generation(body, config).values["cfg_scale"] == ours


def test_every_family_has_a_guidance_scale_here():
    assert {family_of(preset(name)).name for name in SCALES} >= set(BUILT_IN)
    assert all(isinstance(preset(name), ModelConfig) for name in SCALES)


@pytest.mark.parametrize("name", ["tiny", "sd3-tiny", "z-image-tiny", "krea-2-tiny", "flux3-tiny"])
def test_diffusers_0_gives_no_guidance_and_not_the_empty_prompt(name):
    model = ldmref.random_model(name)
    asked = {"prompt": "a red cat", "steps": 1, "seed": 1}
    values = translate_generation(asked | {"guidance_scale": 0}, model.config).values
    found = modes.txt2img(model, **values | SMALL)
    without = modes.txt2img(model, **asked | SMALL, cfg_scale=1)
    off = name != "flux3-tiny"  # whose guider is off at 1 alone, and says that nothing is read
    assert np.array_equal(found.latents, without.latents) == off
    assert any("draws the empty (negative) prompt" in line for line in found.warnings) != off


@pytest.mark.parametrize("denoise", [0.3, 0.5, 0.75, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("name", ["sd15", "sd3-tiny"])
def test_comfyui_takes_all_steps_of_a_longer_schedule(name, steps, denoise):
    config = preset(name)
    asked = {"steps": steps, "strength": ForeignValue("denoise", denoise)}
    values = read_foreign(config, asked)
    assert values["steps"] == int(steps / denoise)
    assert values["steps"] - skip_steps(config, values["steps"], values["strength"]) == steps


@pytest.mark.parametrize("name", ["sd15", "sd3-tiny"])
def test_every_number_of_steps_has_a_strength(name):
    config = preset(name)
    for steps in range(1, 101):
        for taken in range(steps + 1):
            strength = strength_of_steps(config, steps, taken)
            assert steps - skip_steps(config, steps, strength) == taken


@pytest.mark.parametrize(("scale", "ours"), [("0", 1.0), ("1", 1.0), ("4", 4.0)])
def test_sd_next_hands_its_scale_to_diffusers(scale, ours):
    text = f"a cat\nSteps: 20, Sampler: Euler a, CFG scale: {scale}, Seed: 1, App: SD.Next"
    record, _ = reading.replay_parameters(text)
    values, _ = replay_request("txt2img", SD15, record, record["a1111"])
    assert values["cfg_scale"] == ours


def test_two_names_of_a_parameter_are_refused(capsys):
    flags = ["a cat", "--cfg", "2", "--guidance-scale", "0"]
    with pytest.raises(UsageError, match="cfg_scale is given twice, also as --guidance-scale"):
        cli.commands["txt2img"].make_context("txt2img", flags, **NORMAL)
    with pytest.raises(UsageError, match="cfg_scale is given twice"):
        translate_generation({"prompt": "a", "guidance_scale": 0, "cfg_scale": 2}, SD15)


def test_values_that_the_other_program_does_not_know_are_refused_under_our_name():
    for name in FOREIGN:
        for value in ("x", [1], {}, True, -5, 1e9, float("nan")):
            asked = read_foreign(SD15, {ALIASES[name]: ForeignValue(name, value)})
            known = name == "padding_mask_crop" or ALIASES[name] in asked
            assert known, (name, value)
