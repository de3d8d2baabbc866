"""From A1111's fields to parameters, without a server."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from replaying import ODD_VALUES, load_recorded, model_of_one_size, recorded, to_base64

import ldmref
from ldmref import modes
from ldmref.apps.a1111.levels import a1111_levels
from ldmref.apps.server.a1111.fields import is_neutral
from ldmref.apps.server.a1111.names import find_model, list_samplers, list_schedulers, read_method
from ldmref.apps.server.a1111.translate import translate
from ldmref.apps.server.inputs import read_base64_image
from ldmref.errors import LdmrefError, UsageError
from ldmref.models.presets import preset
from ldmref.samplers.schedule import sampling_sigmas

SD15 = preset("sd15")
WHITE = Image.new("RGB", (64, 64), "white")
MASK = Image.new("L", (64, 64), 0)
MASK.paste(255, (16, 16, 48, 48))


def decode(name, text):
    return Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))


def txt2img(config=SD15, **body):
    return translate({"prompt": "a cat", **body}, config)


def img2img(config=SD15, **body):
    given = {"prompt": "a cat", "init_images": [to_base64(WHITE)]}
    return translate(given | body, config, decode)


@pytest.fixture(scope="module")
def emoji_config(emoji):
    return emoji.config


REQUESTS = [
    (client, name)
    for client in ("webuiapi", "sillytavern", "open_webui")
    for name, request in load_recorded(client).items()
    if request["path"].endswith("2img")
]


@pytest.mark.parametrize(("client", "name"), REQUESTS)
def test_every_recorded_request_can_be_planned(client, name, emoji_config):
    request = recorded(client, name)
    reader = decode if request["path"].endswith("img2img") else None
    translated = translate(request["json"], emoji_config, reader)
    for values in translated.batches:
        job = modes.plan(translated.mode, emoji_config, **values).job
        assert (job.width, job.height) == (128, 128)
    (note,) = translated.notes
    assert "128x128" in note


def test_defaults_are_those_of_the_model():
    (values,) = txt2img(width=512, height=512, batch_size=1, seed=5).batches
    own = modes.plan("txt2img", SD15, prompt="a cat", seed=5).params
    planned = modes.plan("txt2img", SD15, **values).params
    read = {"prompt_weights": "a1111", "long_prompts": "chunk"}
    assert planned == own | read


def test_images_are_numbered_by_seeds():
    batches = txt2img(seed=7, batch_size=2, n_iter=3).batches
    assert [(values["seed"], values["count"]) for values in batches] == [(7, 2), (9, 2), (11, 2)]


def test_seed_minus_one_is_random_and_known():
    seeds = {txt2img(seed=-1).batches[0]["seed"] for _ in range(3)}
    assert len(seeds) == 3 and all(seed >= 0 for seed in seeds)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        ("Euler a", "automatic", ("euler_a", None, "")),
        ("DPM++ 2M Karras", "automatic", ("dpmpp_2m", None, "karras")),
        ("DPM++ 2M", "Karras", ("dpmpp_2m", None, "karras")),
        ("DPM++ 2M", "KL Optimal", ("dpmpp_2m", None, "kl optimal")),
        ("Euler", "SGM Uniform", ("euler", None, "sgm uniform")),
        ("DDIM", "normal", ("ddim", None, "")),
        ("k_euler", None, None),
        ("Euler", "nope", None),
        ("dpmpp_2m_heun", "trailing", ("dpmpp_2m_heun", "trailing", "")),
        (None, None, (None, None, "")),
    ],
)
def test_samplers_and_schedulers(sampler, scheduler, expected):
    if expected is None:
        with pytest.raises(UsageError, match="not found"):
            read_method(sampler, scheduler)
    else:
        assert tuple(read_method(sampler, scheduler)) == expected


def test_everything_that_is_listed_is_accepted():
    for entry in list_samplers():
        assert read_method(entry["name"], "automatic").sampler
    for entry in list_schedulers():
        for name in (entry["name"], entry["label"]):
            values = txt2img(sampler_name="Euler", scheduler=name, steps=6).batches[0]
            modes.plan("txt2img", SD15, **values)


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell", "sd3-medium"])
@pytest.mark.parametrize("negative", ["bad hands", ""])
def test_every_model_takes_a_negative_prompt(name, negative):
    """Clients send the same one to every model; the run says so where nothing reads it."""
    translated = txt2img(preset(name), negative_prompt=negative)
    (values,) = translated.batches
    assert values["negative_prompt"] == negative and not translated.notes
    modes.plan("txt2img", preset(name), **values)


@pytest.mark.parametrize("model", ["sd3-medium", "flux-dev"])
def test_a_second_pass_of_a_flow_is_on_its_own_levels(model):
    body = {"scheduler": "trailing", "enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5}
    translated = txt2img(preset(model), **body)
    (values,) = translated.batches
    assert "upscale_sigmas" not in values and "schedule" not in values
    assert any("'trailing' is not one of flow matching" in note for note in translated.notes)
    modes.plan("txt2img", preset(model), **values)


def test_a_scheduler_of_a1111_alone_gives_its_levels():
    (values,) = txt2img(sampler_name="Euler", scheduler="Normal", steps=6).batches
    expected = a1111_levels(sampling_sigmas(SD15.scheduler), "euler", "normal", 6)
    assert values["sigmas"] == tuple(expected.sigmas) and "steps" not in values
    (values,) = img2img(
        sampler_name="Euler", scheduler="Normal", steps=6, denoising_strength=0.5
    ).batches
    job = modes.plan("img2img", SD15, **values).job
    expected = a1111_levels(sampling_sigmas(SD15.scheduler), "euler", "normal", 6, 0.5)
    assert job.first_step == expected.first


def test_eta_reaches_samplers_that_have_one():
    assert txt2img(sampler_name="Euler a", eta=0.5).batches[0]["eta"] == 0.5
    assert "eta" not in txt2img(sampler_name="DPM++ 2M", eta=0.5).batches[0]


def test_the_noise_of_a1111_can_be_selected():
    for source, rng in (("NV", "a1111-gpu"), ("GPU", "a1111-gpu"), ("CPU", "torch")):
        assert txt2img(override_settings={"randn_source": source}).batches[0]["rng"] == rng
    assert "rng" not in txt2img().batches[0]


def test_clip_skip_counts_from_one():
    assert txt2img(clip_skip=2).batches[0]["clip_skip"] == 1
    settings = {"CLIP_stop_at_last_layers": 3}
    assert txt2img(clip_skip=1, override_settings=settings).batches[0]["clip_skip"] == 2
    translated = txt2img(clip_skip=20)
    assert translated.batches[0]["clip_skip"] == SD15.max_clip_skip and translated.notes


def test_sizes_are_rounded_down_with_a_note():
    translated = txt2img(width=500, height=300)
    values = translated.batches[0]
    assert (values["width"], values["height"]) == (496, 296)
    assert translated.notes == [
        "'sd15' generates 496x296 instead of 500x300: both sides are multiples of 8"
    ]


def test_networks_leave_the_prompt():
    translated = txt2img(prompt="a cat <lora:fur:0.5>")
    assert translated.batches[0]["prompt"] == "a cat"
    assert translated.notes == ["left out of the prompt: <lora:fur:0.5>"]


def test_ignored_fields_are_listed_and_passwords_not_echoed():
    translated = txt2img(
        auth="user:secret",
        url="http://localhost",
        restore_faces=True,
        subseed_strength=0.3,
        tiling=False,
        s_noise=1,
        override_settings={"sd_vae": "other", "eta_noise_seed_delta": 31337, "sd_hypernetwork": ""},
    )
    assert translated.ignored == [
        "auth",
        "url",
        "restore_faces",
        "subseed_strength",
        "override_settings.sd_vae",
        "override_settings.eta_noise_seed_delta",
    ]
    assert translated.notes == []
    assert "secret" not in str(translated.echo) and translated.echo["restore_faces"] is True


SECOND = {"width": 512, "height": 384, "enable_hr": True, "denoising_strength": 0.5}


def test_enable_hr_is_a_second_pass():
    (values,) = txt2img(**SECOND, hr_scale=1.5, hr_upscaler="Lanczos", steps=20).batches
    second = {name: value for name, value in values.items() if name.startswith("upscale")}
    assert second == {
        "upscale": 1.5,
        "upscaler": "lanczos",
        "upscale_strength": 0.5,
        "upscale_steps": None,
    }
    plan = modes.plan("txt2img", SD15, **values)
    _, job = plan.passes
    assert (job.size, job.steps, job.first_step) == ((768, 576), 40, 20)
    defaults = modes.plan("txt2img", SD15, **txt2img(enable_hr=True).batches[0]).params
    assert (defaults["upscale"], defaults["upscale_strength"]) == (2.0, 0.75)
    assert defaults["upscaler"] == "latent"
    assert "upscale" not in txt2img(enable_hr=False, hr_scale=2).batches[0]


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ({"hr_resize_x": 1000}, (1000, 744)),
        ({"hr_resize_y": 576}, (768, 576)),
        ({"hr_resize_x": 1024, "hr_resize_y": 768}, (1024, 768)),
    ],
)
def test_a_second_pass_to_a_size(sides, size):
    (values,) = txt2img(**SECOND, **sides).batches
    _, job = modes.plan("txt2img", SD15, **values).passes
    assert job.size == size


def test_a_second_pass_on_a1111s_levels_has_them_as_well():
    asked = {"sampler_name": "Euler", "scheduler": "SGM Uniform", "steps": 10}
    (values,) = txt2img(**SECOND, **asked, hr_second_pass_steps=6).batches
    table = sampling_sigmas(SD15.scheduler)
    levels = a1111_levels(table, "euler", "sgm uniform", 12).sigmas[6:]
    assert values["upscale_sigmas"] == tuple(levels.tolist())
    assert "upscale_steps" not in values and "upscale_strength" not in values


def test_what_a_second_pass_does_not_have_is_said(emoji_config):
    translated = txt2img(**SECOND, hr_prompt="a dog", hr_sampler_name="Use same sampler")
    assert translated.notes == ["hr_prompt: the second pass has that of the first"]
    translated = txt2img(emoji_config, enable_hr=True, width=128, height=128)
    assert translated.notes == ["enable_hr: the model generates one size, so the image keeps it"]
    assert "upscale" not in translated.batches[0]
    with pytest.raises(UsageError, match="could not find upscaler named 'ESRGAN_4x'"):
        txt2img(**SECOND, hr_upscaler="ESRGAN_4x")
    with pytest.raises(UsageError, match="another shape"):
        txt2img(**SECOND, hr_resize_x=1024, hr_resize_y=1024)


def test_neutral_values():
    assert is_neutral("styles", []) and is_neutral("s_tmax", float("inf"))
    assert not is_neutral("s_noise", 1.1) and not is_neutral("anything", "x")


@pytest.mark.parametrize(("mode", "how"), list(enumerate(["stretch", "crop", "fill", "stretch"])))
def test_resize_modes(mode, how):
    translated = img2img(resize_mode=mode, width=512, height=256, denoising_strength=0.5)
    (values,) = translated.batches
    assert translated.mode == "img2img" and values["strength"] == 0.52  # 26 of 50 steps
    assert (values["resize"], values["width"], values["height"]) == (how, 512, 256)


def test_strength_defaults_to_that_of_a1111():
    (values,) = img2img(steps=20).batches
    job = modes.plan("img2img", SD15, **values).job
    assert job.steps - job.first_step == 16  # int(0.75 * 20) + 1


def test_mask_of_the_whole_image():
    translated = img2img(
        mask=to_base64(MASK),
        inpaint_full_res=False,
        mask_blur=2,
        inpainting_fill=1,
        inpainting_mask_invert=1,
        width=128,
        height=128,
    )
    (values,) = translated.batches
    assert translated.mode == "inpaint"
    assert (values["fill"], values["mask_blur"], values["mask_invert"]) == ("original", 2.0, True)
    assert values["only_masked"] is False and "width" not in values
    assert values["image"].size == values["mask"].size == (128, 128)
    assert (np.asarray(values["mask"]) > 127).mean() == 0.25
    modes.plan("inpaint", SD15, **values)


def test_mask_of_a_region():
    (values,) = img2img(mask=to_base64(MASK), inpaint_full_res_padding=8).batches
    assert (values["only_masked"], values["padding"]) == (True, 8)
    assert (values["fill"], values["mask_blur"]) == ("fill", 4.0)
    assert values["image"].size == (64, 64) and (values["width"], values["height"]) == (64, 64)
    modes.plan("inpaint", SD15, **values)


def test_strokes_on_transparency_are_repainted_as_in_a1111():
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (0, 0, 32, 64))
    (values,) = img2img(mask=to_base64(mask)).batches
    assert (np.asarray(values["mask"]) > 127).mean() == 0.5


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"steps": 0}, "steps must be from 1"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"cfg_scale": [7]}, "cfg_scale must be a number"),
        ({"seed": -2}, "seed must be from 0"),
        ({"width": -8}, "width"),
        ({"prompt": 7}, "prompt must be a text"),
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"n_iter": 10**9}, "n_iter must be from 1"),
        ({"batch_size": 1000, "n_iter": 1000}, "batch_size x n_iter"),
        ({"script_name": "X/Y/Z plot"}, "Script 'X/Y/Z plot' not found"),
        ({"alwayson_scripts": {"ADetailer": {}}}, "always on script 'ADetailer' not found"),
        ({"override_settings": []}, "override_settings must be an object"),
        ({"override_settings": {"randn_source": "TPU"}}, "randn_source"),
        ({"override_settings": {"randn_source": []}}, "randn_source"),
        ({"override_settings": {"CLIP_stop_at_last_layers": "x"}}, "clip_skip"),
        ({"send_images": "perhaps"}, "send_images must be true or false"),
    ],
)
def test_wrong_values_are_refused(body, match):
    with pytest.raises(LdmrefError, match=match):
        (values, *_) = txt2img(**body).batches
        modes.plan("txt2img", SD15, **values)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"init_images": []}, "needs one init image, not 0"),
        ({"init_images": [1, 2]}, "needs one init image, not 2"),
        ({"init_images": "x"}, "init_images must be a list"),
        ({"resize_mode": 4}, "resize_mode must be from 0 to 3"),
        ({"inpainting_fill": 4}, "inpainting_fill must be from 0 to 3"),
        ({"denoising_strength": 1.5}, "strength must be"),
    ],
)
def test_wrong_images_are_refused(body, match):
    with pytest.raises(LdmrefError, match=match):
        (values,) = img2img(**body).batches
        modes.plan("img2img", SD15, **values)


@pytest.mark.parametrize(("mode", "white"), [(0, (0, 32)), (1, (0, 32)), (2, (0, 64))])
@pytest.mark.parametrize("whole", [False, True])
def test_a_mask_of_another_size_is_resized_by_the_method_of_the_image(mode, white, whole):
    mask = Image.new("L", (16, 8), 0)
    mask.paste(255, (0, 0, 8, 8))
    asked = img2img(
        mask=to_base64(mask), resize_mode=mode, inpaint_full_res=whole, width=64, height=64
    )
    (values,) = asked.batches
    pixels = np.asarray(values["mask"]) > 127
    assert values["mask"].size == values["image"].size == (64, 64)
    assert pixels[0].nonzero()[0][[0, -1]].tolist() == [white[0], white[1] - 1]
    assert any("the mask is 16 x 8, the image 64 x 64" in note for note in asked.notes)


def test_models_are_named_by_title_name_or_hash_only(tmp_path):
    sha256 = "abcdef0123456789"
    models = {"tiny": None, "emoji": sha256}
    for label in ("emoji", "emoji [abcdef0123]", "abcdef0123", sha256, "emoji.safetensors"):
        assert find_model(label, models) == "emoji"
    assert find_model("tiny", models) == "tiny"
    for label in ("", "None", None, 7, "/etc/passwd", str(tmp_path), "../emoji", "sd15"):
        with pytest.raises(UsageError, match="not found"):
            find_model(label, models)


def test_random_models_have_a_title():
    model = ldmref.random_model("tiny")
    assert find_model("tiny", {"tiny": model.sha256}) == "tiny"


@pytest.mark.parametrize("name", ["txt2img", "inpaint"])
def test_odd_values_of_every_field_are_accepted_or_refused(name):
    """Whatever a field holds, nothing else than an error of ldmref is raised."""
    config = model_of_one_size().config
    body = recorded("webuiapi", name)["json"]
    reader = decode_or_refuse if name == "inpaint" else None
    for field in (*body, "clip_skip", "unknown"):
        for value in ODD_VALUES:
            try:
                translated = translate(body | {field: value}, config, reader)
                modes.plan(translated.mode, config, **translated.batches[0])
            except LdmrefError as refused:
                assert str(refused)
            else:
                assert isinstance(translated.echo | {"": translated.ignored}, dict)


def decode_or_refuse(name, text):
    return read_base64_image(name, text, 10**6)
