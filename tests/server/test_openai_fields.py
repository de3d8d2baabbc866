"""From OpenAI's fields to parameters, without a server."""

import io

import numpy as np
import pytest
from PIL import Image
from replaying import ODD_VALUES, encode, model_of_one_size, recorded

from ldmref import modes
from ldmref.apps.server.openai.fields import (
    OWN,
    FieldError,
    read_extra,
    read_form,
    read_output,
    read_prompt,
    read_size,
)
from ldmref.apps.server.openai.tasks import choose_steps
from ldmref.apps.server.openai.translate import find_model, translate_edit, translate_generation
from ldmref.errors import LdmrefError
from ldmref.models.presets import preset
from ldmref.modes.registry import MODES

SD15 = preset("sd15")
TEAL = Image.new("RGB", (64, 64), "teal")


def generation(config=SD15, **body):
    return translate_generation({"prompt": "a cat", **body}, config)


def edit(image=TEAL, mask=None, config=SD15, **body):
    return translate_edit({"prompt": "a cat", **body}, config, image, mask)


def alpha_mask(size=(64, 64), hole=(16, 16, 48, 48)):
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), hole)
    return mask


def test_the_recorded_generation(emoji):
    asked = translate_generation(recorded("openai", "generate_everything")["json"], emoji.config)
    assert asked.values == {
        "prompt": "a red heart",
        "seed": 1,
        "steps": 2,
        "cfg_scale": 3.0,
        "count": 2,
        "width": 128,
        "height": 128,
    }
    assert (asked.output.format, asked.output.compression, asked.output.quality) == (
        "webp",
        80,
        "high",
    )
    assert asked.notes == ["'emoji-128' generates 128x128 instead of 1024x1024: its only size"]


@pytest.mark.parametrize("size", [None, "auto", ""])
def test_sizes_default_to_the_model(size):
    values = generation(**({} if size is None else {"size": size})).values
    assert (values["width"], values["height"]) == (512, 512)


def test_sizes():
    assert read_size({"size": "640x384"}) == (640, 384)
    for size in ("640", "640x", "0x8", "8x8 ", "８x8", 640, "640X384"):
        with pytest.raises(FieldError) as refused:
            read_size({"size": size})
        assert refused.value.parameter == "size"


def test_both_spellings_of_parameters():
    ours = read_extra({"steps": 3, "cfg_scale": 2.0, "sampler": "euler"}, "txt2img")
    theirs = {"num_inference_steps": 3, "guidance_scale": 2.0, "sampler_name": "euler"}
    assert generation(**theirs).values == generation(**ours).values


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"stpes": 3}, "stpes"),
        ({"steps": 3, "num_inference_steps": 3}, "num_inference_steps"),
        ({"n": 2, "num_images": 2}, "num_images"),
        ({"image": "/etc/passwd"}, "image"),
        ({"control": [{"net": "/etc/passwd"}]}, "control"),
        ({"latents": "x"}, "latents"),
        ({"strength": 0.5}, "strength"),
    ],
)
def test_unknown_and_repeated_parameters(extra, field):
    with pytest.raises(FieldError) as refused:
        read_extra(extra, "txt2img")
    assert refused.value.parameter == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"partial_images": 1}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"response_format": "file"}, "response_format"),
        ({"response_format": "url", "output_format": "webp"}, "response_format"),
        ({"quality": "best"}, "quality"),
        ({"quality": ["high"]}, "quality"),
    ],
)
def test_outputs_that_are_refused(body, field):
    with pytest.raises(FieldError) as refused:
        read_output(body)
    assert refused.value.parameter == field


@pytest.mark.parametrize("prompt", [None, 7, ["a cat"], "a" * 32_001])
def test_prompts_that_are_refused(prompt):
    with pytest.raises(FieldError):
        read_prompt({"prompt": prompt})


def test_fields_without_effect_are_accepted():
    body = {"user": "me", "moderation": "low", "style": "vivid", "safety_identifier": "x"}
    assert read_extra(body | {"seed": None}, "txt2img") == {}


def test_models():
    served = ["emoji", "sd15"]
    assert find_model(None, served) == ("emoji", [])
    assert find_model("sd15", served) == ("sd15", [])
    for name in ("dall-e-3", "gpt-image-2", "chatgpt-image-latest"):
        model, (note,) = find_model(name, served)
        assert model == "emoji" and name in note
    for name in ("sd51", "", "/etc/passwd", 7, ["emoji"]):
        with pytest.raises(FieldError, match="does not exist"):
            find_model(name, served)


def test_forms_become_json_values():
    form = {"prompt": "7", "n": "2", "stream": "true", "seed": "1", "strength": "0.5", "user": "3"}
    assert read_form(form) == {
        "prompt": "7",
        "n": 2,
        "stream": True,
        "seed": 1,
        "strength": 0.5,
        "user": "3",
    }


def test_an_edit_without_mask_is_img2img():
    asked = edit(strength=0.4, size="128x64")
    values = asked.values
    assert asked.mode == "img2img" and values["strength"] == 0.4
    assert (values["width"], values["height"]) == (128, 64)
    job = modes.plan("img2img", SD15, **values).job
    assert (job.width, job.height) == (128, 64)


def test_transparent_parts_of_the_mask_are_edited():
    asked = edit(mask=alpha_mask())
    mask = np.asarray(asked.values["mask"])
    assert asked.mode == "inpaint"
    assert (mask[16:48, 16:48] == 255).all() and (mask > 0).mean() == 0.25
    job = modes.plan("inpaint", SD15, **asked.values).job
    assert (job.width, job.height) == (64, 64)


def test_an_image_that_the_networks_cannot_take_is_edited_by_its_region():
    image = Image.new("RGB", (61, 67), "teal")
    asked = edit(image, alpha_mask(image.size), size="512x512")
    assert asked.values["only_masked"] is True
    assert asked.notes == ["size 512x512: an image that is edited with a mask keeps its own"]
    modes.plan("inpaint", SD15, **asked.values)


@pytest.mark.parametrize(
    "mask", [Image.new("RGB", (64, 64)), Image.new("L", (64, 64)), Image.new("P", (64, 64))]
)
def test_masks_that_are_refused(mask):
    with pytest.raises(FieldError) as refused:
        edit(mask=mask)
    assert refused.value.parameter == "mask"


def test_a_palette_with_transparency_is_a_mask():
    mask = alpha_mask().quantize(4)
    assert "transparency" in mask.info or mask.mode == "P"
    data = Image.open(io.BytesIO(encode(mask)))
    assert (np.asarray(edit(mask=data).values["mask"]) > 127).mean() == 0.25


def test_partial_images_are_spread_over_the_steps():
    assert choose_steps(20, 0) == []
    assert choose_steps(20, 3) == [5, 10, 15]
    assert choose_steps(1, 3) == [] and choose_steps(3, 3) == [1, 2]
    for steps in range(1, 30):
        for n in range(4):
            chosen = choose_steps(steps, n)
            assert len(chosen) <= n and all(0 < step < steps for step in chosen)
            assert len(chosen) == n or steps <= 2 * n


@pytest.mark.parametrize("mask", [None, alpha_mask()])
def test_odd_values_of_every_field_are_accepted_or_refused(mask):
    """Whatever a field holds, nothing else than an error of ldmref is raised."""
    config = model_of_one_size().config
    mode = "img2img" if mask is None else "inpaint"
    for field in (*OWN, *MODES[mode].parameters, "unknown", ""):
        for value in ODD_VALUES:
            body = {"prompt": "a cat", field: value}
            try:
                find_model(body.get("model"), ["tiny"])
                asked = translate_edit(body, config, TEAL, mask)
                modes.plan(asked.mode, config, **asked.values)
                if mask is None:
                    asked = translate_generation(body, config)
                    modes.plan(asked.mode, config, **asked.values)
            except LdmrefError as refused:
                assert str(refused)
