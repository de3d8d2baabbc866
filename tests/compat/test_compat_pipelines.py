"""Pipelines of ldmref.compat.diffusers open, move, share parts, refuse, and run without torch."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.compat import diffusers as compat
from ldmref.compat.diffusers.base import OFFLOADING, WITHOUT_EFFECT
from ldmref.errors import BackendUnavailable, ImageError, InputError, LdmrefError, UsageError
from ldmref.io import save_folder

SIZE = dict(height=16, width=32)
ASKED = dict(num_inference_steps=2, guidance_scale=4.0)
KINDS = [
    f"StableDiffusion{xl}{task}Pipeline" for xl in ("", "XL") for task in ("", "Img2Img", "Inpaint")
]


@pytest.fixture(scope="module")
def folder(open_folder):
    pytest.importorskip("diffusers")
    return open_folder("sd1")[1]


@pytest.fixture(scope="module")
def pipe(folder):
    return compat.StableDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_have_the_names_order_and_defaults_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    theirs = inspect.signature(getattr(diffusers, kind).__call__).parameters
    ours = inspect.signature(getattr(compat, kind).__call__).parameters
    want = [(n, p.default) for n, p in theirs.items() if n not in ("self", "kwargs")]
    assert [(n, p.default) for n, p in ours.items() if n != "self"] == want


def test_a_folder_opens_as_diffusers_opens_it(folder):
    pipe = compat.StableDiffusionPipeline.from_pretrained(
        str(folder), safety_checker=None, use_safetensors=True, requires_safety_checker=False
    )
    assert pipe.unet.config.in_channels == 4 and pipe.unet.config["sample_size"] == 8
    assert pipe.vae.config.scaling_factor == 0.18215 and pipe.vae_scale_factor == 2
    assert "StableDiffusionPipeline" in repr(pipe) and "PNDMScheduler" in repr(pipe)
    assert set(pipe.components) >= {"vae", "unet", "text_encoder", "tokenizer", "scheduler"}


def test_parts_are_shared_by_pipelines(pipe):
    for other in (
        compat.StableDiffusionImg2ImgPipeline(**pipe.components),
        compat.StableDiffusionImg2ImgPipeline.from_pipe(pipe),
        compat.AutoPipelineForImage2Image.from_pipe(pipe),
    ):
        assert type(other) is compat.StableDiffusionImg2ImgPipeline
        assert other.scheduler is pipe.scheduler
        assert other._weights.model is pipe._weights.model


def test_the_automatic_pipeline_chooses_by_the_model(folder, open_folder):
    auto = compat.AutoPipelineForText2Image.from_pretrained(folder)
    assert type(auto) is compat.StableDiffusionPipeline
    xl = compat.AutoPipelineForInpainting.from_pretrained(open_folder("sdxl")[1])
    assert type(xl) is compat.StableDiffusionXLInpaintPipeline
    with pytest.raises(UsageError, match="StableDiffusionPipeline cannot run") as refusal:
        compat.StableDiffusionPipeline.from_pretrained(open_folder("sdxl")[1])
    assert refusal.value.hint == "use StableDiffusionXLPipeline"
    with pytest.raises(UsageError, match="cannot run") as refusal:
        compat.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder)
    assert refusal.value.hint == "use StableDiffusionImg2ImgPipeline"


def test_seeds_and_generators_without_torch_give_the_numbers_of_torch(pipe):
    torch = pytest.importorskip("torch")
    want = pipe("red cat", generator=torch.Generator().manual_seed(3), **SIZE, **ASKED).images[0]
    for generator in (3, np.int64(3), compat.Generator("cpu").manual_seed(3), [3]):
        got = pipe("red cat", generator=generator, **SIZE, **ASKED).images[0]
        assert abs(np.asarray(got).astype(int) - np.asarray(want)).max() <= 1
    both = pipe("red cat", generator=[3, 4], num_images_per_prompt=2, **SIZE, **ASKED).images
    assert abs(np.asarray(both[0]).astype(int) - np.asarray(want)).max() <= 1


def test_memory_calls_change_nothing(pipe):
    before = pipe("red cat", generator=3, **SIZE, **ASKED).images[0]
    for name in (*WITHOUT_EFFECT, *OFFLOADING):
        getattr(pipe, name)()
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.eval().requires_grad_(False) is pipe.unet
    assert pipe("red cat", generator=3, **SIZE, **ASKED).images[0] == before


def test_the_output_is_also_a_tuple_and_a_dictionary(pipe):
    output = pipe("red cat", generator=3, **SIZE, **ASKED)
    assert output["images"] is output.images is output[0] is output.to_tuple()[0]
    assert list(output) == output.keys() == ["images"] and len(output) == 1
    assert output.nsfw_content_detected is None
    images, unsafe = pipe("red cat", generator=3, return_dict=False, **SIZE, **ASKED)
    assert images[0] == output.images[0] and unsafe is None


def test_latents_decode_by_the_vae(pipe):
    pytest.importorskip("torch")
    asked = dict(generator=3, **SIZE, **ASKED)
    latents = pipe("red cat", output_type="latent", **asked).images
    want = pipe("red cat", output_type="np", **asked).images
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    pixels = np.clip(np.asarray(decoded) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    assert abs(pixels - want).max() < 1e-5
    mean = pipe.vae.encode(decoded).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert tuple(mean.shape) == tuple(latents.shape)


REFUSED = [
    ({"num_inference_step": 3}, "no argument 'num_inference_step'"),
    ({"timesteps": [999, 500]}, "does not support timesteps"),
    ({"sigmas": [10.0, 1.0]}, "does not support sigmas"),
    ({"ip_adapter_image": Image.new("RGB", (8, 8))}, "does not support ip_adapter_image"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, "does not support cross_attention_kwargs"),
    ({"output_type": "jpeg"}, "output_type must be one of pil, np, pt, latent, not 'jpeg'"),
    ({"generator": "3"}, "generator must be a torch.Generator, a Generator or a seed"),
    ({"generator": [1, 2]}, "generator holds 2 generators for 1 images"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number of at least 1"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt must be a whole number"),
    ({"num_inference_steps": 0}, "steps must be"),
    ({"guidance_scale": "7"}, "guidance_scale must be a number, not '7'"),
    ({"clip_skip": 3}, "clip_skip must be from 0 to 2"),
    ({"height": 17, "width": 32}, "height must be a multiple of 2"),
    ({"latents": np.zeros((1, 4, 3, 3), np.float32)}, "latents have shape"),
    ({"latents": "noise"}, "latents must be an array of numbers"),
    ({"prompt_embeds": np.zeros((1, 77, 24), np.float32)}, "give either prompt or prompt_embeds"),
    ({"prompt": None}, "give either prompt or prompt_embeds, not neither"),
    ({"prompt": ["red", 3]}, "prompt must be a text or a list of texts"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt holds 2 texts for 1 prompts"),
    ({"callback_on_step_end": "print"}, "callback_on_step_end must be a function"),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_one_line_names_the_argument_that_cannot_be_used(pipe, changed, message):
    with pytest.raises(ValueError, match=message) as refusal:
        pipe(**{"prompt": "red cat", **SIZE, **ASKED, **changed})
    assert isinstance(refusal.value, LdmrefError) and "\n" not in str(refusal.value)


IMAGES = [
    ({"image": None}, "image is missing"),
    ({"image": "photo.png"}, "image must be an image, not a name"),
    ({"image": np.zeros((16, 16, 3), np.uint8)}, "image holds integers"),
    ({"image": np.zeros((16, 16), np.float32)}, "image has shape"),
    ({"image": np.zeros((1, 16, 16, 2), np.float32)}, "channels"),
    ({"image": [Image.new("RGB", (8, 8))] * 3}, "3 images in image for 1 results"),
    ({"strength": 1.5}, "strength must be from 0 to 1"),
    ({"strength": 0.01}, "strength 0.01 of 2 steps is less than one step"),
]


@pytest.mark.parametrize(("changed", "message"), IMAGES, ids=[str(i) for i in range(len(IMAGES))])
def test_images_that_cannot_be_used_are_named(pipe, changed, message):
    made = compat.StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    given = {"prompt": "red cat", "image": Image.new("RGB", (16, 16)), **ASKED}
    with pytest.raises(LdmrefError, match=message):
        made(**{**given, **changed})


def test_masks_that_cannot_be_used_are_named(pipe):
    made = compat.StableDiffusionInpaintPipeline.from_pipe(pipe)
    image = Image.new("RGB", (16, 16))
    with pytest.raises(ImageError, match="mask_image is missing"):
        made("red cat", image, **ASKED)
    with pytest.raises(ImageError, match="mask_image is black everywhere"):
        made("red cat", image, Image.new("L", (16, 16)), padding_mask_crop=4, **ASKED)
    with pytest.raises(ImageError, match="with padding_mask_crop, image must be a Pillow image"):
        made("red cat", np.zeros((16, 16, 3)), image, padding_mask_crop=4, **ASKED)
    with pytest.raises(UsageError, match=r"output_type must be 'pil'"):
        made("red cat", image, image, padding_mask_crop=4, output_type="np", **ASKED)
    with pytest.raises(UsageError, match=r"does not support masked_image_latents"):
        made("red cat", image, image, masked_image_latents=np.zeros(1), **ASKED)


def test_other_names_of_diffusers_are_refused(pipe, folder, tmp_path):
    with pytest.raises(AttributeError, match=r"no 'load_lora_weights'; docs/compat.md"):
        pipe.load_lora_weights("style.safetensors")
    with pytest.raises(UsageError, match=r"pipe.unet cannot be called"):
        pipe.unet(0, 0)
    with pytest.raises(
        AttributeError, match=r"unet of ldmref.compat.diffusers has no 'set_adapter'"
    ):
        pipe.unet.set_adapter("a")
    with pytest.raises(UsageError, match=r"pipe.vae cannot be replaced"):
        pipe.vae = None
    for name in ("image_processor", "mask_processor", "vae_scale_factor"):
        before = getattr(pipe, name)
        with pytest.raises(UsageError, match=rf"pipe.{name} cannot be replaced: the pipeline"):
            setattr(pipe, name, None)
        assert getattr(pipe, name) is before
    with pytest.raises(UsageError, match=r"a scheduler of ldmref.compat.diffusers is needed"):
        pipe.scheduler = "euler"
    with pytest.raises(AttributeError, match=r"has no FluxPipeline"):
        compat.FluxPipeline()
    with pytest.raises(UsageError, match="does not support device_map"):
        compat.StableDiffusionPipeline.from_pretrained(folder, device_map="auto")
    with pytest.raises(InputError):
        compat.StableDiffusionPipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UsageError, match="needs the components of one pipeline"):
        compat.StableDiffusionPipeline()
    with pytest.raises(TypeError, match="multiple values for argument 'prompt'"):
        pipe("red cat", prompt="cab")
    with pytest.raises(TypeError, match="at most"):
        pipe(*[None] * 40)


def test_devices(folder):
    torch = pytest.importorskip("torch")
    pipe = compat.StableDiffusionPipeline.from_pretrained(folder)
    assert pipe.to("cpu").device == "cpu" and pipe.dtype == "float32"
    pipe.to(torch.device("cpu"), torch.float64)
    assert pipe.device == torch.device("cpu") and pipe.dtype is torch.float64
    assert pipe.to(dtype=torch.float32).dtype is torch.float32
    with pytest.raises(UsageError, match="takes a device and a dtype"):
        pipe.to(1.5)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="torch cannot use device 'cuda'"):
            pipe.to("cuda")
        assert pipe.device == torch.device("cpu")  # still usable


def test_the_embedded_model_is_a_pipeline(caplog):
    pipe = compat.StableDiffusionPipeline.from_pretrained("emoji")
    assert pipe.scheduler.config.prediction_type in ("epsilon", "v_prediction", "sample")
    image = pipe("red heart", num_inference_steps=2, generator=1).images[0]
    assert image.size == (128, 128) and not caplog.messages
    pipe("red zyzzyva", num_inference_steps=1, height=256, width=256)
    assert "zyzzyva" in caplog.text and "256 x 256" in caplog.text
    pipe.scheduler = compat.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert pipe("red heart", num_inference_steps=2, generator=1).images[0].size == (128, 128)


def test_neither_torch_nor_diffusers_is_needed(folder):
    code = f"""
import sys
for name in ("torch", "diffusers", "transformers"):
    sys.modules[name] = None
from ldmref.compat.diffusers import *
del sys.modules["torch"], sys.modules["diffusers"], sys.modules["transformers"]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
pipe = StableDiffusionPipeline.from_pretrained({str(folder)!r})
pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
seen = []
def look(pipe, i, t, values):
    seen.append((int(t), type(values["latents"])))
    return values
asked = dict(height=16, width=16, num_inference_steps=2, callback_on_step_end=look)
image = pipe("red cat", generator=Generator("cpu").manual_seed(3), **asked).images[0]
assert image.size == (16, 16) and len(seen) == 2 and seen[0][1] is np.ndarray
assert image == pipe("red cat", generator=3, **asked).images[0]
assert image != pipe("red cat", **asked).images[0]  # a random seed
assert isinstance(pipe("red cat", output_type="latent", **asked).images, np.ndarray)
StableDiffusionImg2ImgPipeline.from_pipe(pipe)("cab", image, num_inference_steps=3)
for call in (lambda: pipe("red cat", output_type="pt", **asked), lambda: pipe.to("cuda")):
    try:
        call()
    except ImportError as error:
        assert "torch" in str(error), error
    else:
        raise AssertionError
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_transformer_has_no_pipeline_here(tmp_path):
    """Of diffusers' pipelines, those of U-Nets are here; the message says what else is."""
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    params = {name: p for name, p in model.params.items() if name != "text_encoder_3"}
    config = dataclasses.replace(model.config, text_encoder_3=None)
    save_folder(tmp_path / "sd3", config, params, [model.tokenizer] * 2, np.float32)
    for kind in (
        compat.StableDiffusionPipeline,
        compat.DiffusionPipeline,
        compat.AutoPipelineForText2Image,
    ):
        with pytest.raises(UsageError, match="no model of a U-Net") as caught:
            kind.from_pretrained(tmp_path / "sd3")
        assert "ldmref.modes" in caught.value.hint
