"""NaN never becomes an image: the error names the step, and the layer in which it began."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.finite import NonFinite, find_origin
from ldmref.errors import NumericError
from ldmref.models.params import flatten, unflatten
from ldmref.modes.generate import decode_images
from ldmref.modes.nonfinite import OriginObserver
from ldmref.samplers import ClassifierFree

STEPS = 5


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend="numpy")


def with_value(model, network, name, value):
    """Return the model with one number of a parameter replaced."""
    changed = copy.copy(model)
    flat = {key: np.array(leaf, order="C") for key, leaf in flatten(model.params[network]).items()}
    flat[name].reshape(-1)[0] = value
    changed.params = model.params.replaced({network: unflatten(flat)})
    return changed


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("mode", ["txt2img", "img2img", "inpaint", "invert", "interpolate"])
def test_the_layer_with_nan_is_named(mode, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    model = ldmref.random_model("tiny", backend="numpy")
    name = "mid_block.resnets.0.conv1.weight"
    broken = with_value(model, "unet", name, np.nan)
    flat = {key: np.array(leaf) for key, leaf in flatten(broken.params["unet"]).items()}
    other = ldmref.random_model("tiny", backend=get_backend(backend))
    other.params = other.params.replaced(
        {"unet": unflatten({k: other.backend.weight(v) for k, v in flat.items()})}
    )
    image = Image.new("RGB", (16, 16), "teal")
    inputs = {
        "txt2img": {},
        "img2img": {"image": image},
        "invert": {"image": image},
        "inpaint": {"image": image, "mask": Image.new("L", (16, 16), "white")},
        "interpolate": {"prompt_b": "b"},
    }[mode]
    seen = []
    with pytest.raises(NumericError) as caught:
        getattr(modes, mode)(other, "a", **inputs, steps=STEPS, callback=seen.append)
    assert caught.value.code == "E-NAN" and not seen
    assert "unet.mid_block.resnets.0.conv1" in str(caught.value)
    assert "step 1 of" in str(caught.value)


@pytest.mark.parametrize(
    ("sampler", "before"),
    [
        ("ddim", 2),
        ("ddim", 4),
        ("heun", 2),
        ("dpmpp_2m", 2),
        ("pndm", 2),
        ("rk4", 2),
        ("dpmpp_2m_sde", 2),
    ],
)
def test_the_step_that_made_nan_is_named(model, sampler, before, monkeypatch):
    """A backend whose silu overflows from some call of the U-Net on."""
    ops = model.backend
    inner = type(ops).silu
    calls = []
    plain_unet = type(model).predict

    def predict(self, *args, **kwargs):
        calls.append(1)
        return plain_unet(self, *args, **kwargs)

    steps_taken = []

    def silu(self, x):
        y = inner(self, x)
        return y + np.inf if len(steps_taken) >= before else y

    monkeypatch.setattr(type(model), "predict", predict)
    monkeypatch.setattr(type(ops), "silu", silu)
    with pytest.raises(NumericError) as caught:
        modes.txt2img(
            model,
            "a",
            seed=1,
            steps=STEPS,
            sampler=sampler,
            callback=lambda p: steps_taken.append(p.step),
        )
    assert f"step {before + 1} of" in str(caught.value)
    assert re.search(r"silu of unet\.\w", str(caught.value)) and len(steps_taken) == before


def test_nan_in_the_decoder_is_named(model):
    broken = with_value(model, "vae", "decoder.conv_out.bias", np.inf)
    with pytest.raises(NumericError) as caught:
        modes.txt2img(broken, "a", seed=1, steps=1)
    assert "vae.decoder.conv_out" in str(caught.value)


def test_an_image_encoded_to_nan_is_named(model):
    broken = with_value(model, "vae", "encoder.conv_in.weight", np.nan)
    with pytest.raises(NumericError, match="encoded"):
        modes.img2img(broken, "a", Image.new("RGB", (16, 16)), seed=1, steps=4)


def test_the_model_is_as_before_and_draws_on(model):
    want = modes.txt2img(model, "a", seed=1, steps=2).latents
    broken = with_value(model, "unet", "conv_in.weight", np.nan)
    with pytest.raises(NumericError, match=r"unet\.conv_in"):
        modes.txt2img(broken, "a", seed=1, steps=2)
    assert (modes.txt2img(model, "a", seed=1, steps=2).latents == want).all()


def test_parameters_are_told_from_inputs(model):
    x = np.zeros((1, 4, 8, 8), np.float32)
    t = np.zeros(1, np.float32)
    states = model.encode_text(["a"])

    def first(network):
        return find_origin(lambda: OriginObserver().watch(network).predict(x, t, states))

    for layer, name in (
        ("conv2d", "down_blocks.0.resnets.0.conv1"),
        ("linear", "time_embedding.linear_1"),
    ):
        broken = with_value(model, "unet", f"{name}.weight", np.nan)
        assert first(broken) == f"the parameters of {layer} of unet.{name}"
    assert first(model) == ""
    x[0, 0, 0, 0] = np.inf
    assert first(model) == "the input of conv2d of unet.conv_in"


# -- what is not a layer of the denoiser ----------------------------------------------------------


def refused(model, mode="txt2img", **parameters):
    """Return the message of a run that ends in NaN."""
    with pytest.raises(NumericError) as caught:
        modes.plan(mode, model, prompt="a", steps=STEPS, seed=1, **parameters).run(model)
    assert caught.value.code == "E-NAN" and "step 1 of" in str(caught.value)
    return str(caught.value)


def test_the_guides_network_is_named(model):
    name = "mid_block.resnets.0.conv1"
    other = ldmref.random_model("tiny", 1, backend="numpy")
    guide = with_value(other, "unet", f"{name}.weight", np.nan)
    guided = {"guidance": "autoguidance", "guide": guide}
    assert f"first in the parameters of conv2d of guide.unet.{name} (" in refused(model, **guided)
    broken = with_value(model, "unet", f"{name}.weight", np.nan)
    other = {"guidance": "autoguidance", "guide": model}
    assert f"first in the parameters of conv2d of unet.{name} (" in refused(broken, **other)


class Overflow(ClassifierFree):
    """A guidance whose own sum overflows."""

    name = "overflow"

    def __call__(self, predictions, sigma, scale, memory=()):
        guided, memory = super().__call__(predictions, sigma, scale, memory)
        return guided + np.inf, memory


def test_a_guidance_that_overflows_is_named(model):
    text = refused(model, guidance=Overflow(), cfg_scale=2.0)
    assert "first in guidance 'overflow': the predictions are finite" in text


def test_a_network_that_overflows_after_its_last_layer_is_told_from_its_layers(model, monkeypatch):
    predict = type(model).predict
    infinite = np.float32(np.inf)
    monkeypatch.setattr(type(model), "predict", lambda *args: predict(*args) + infinite)
    text = refused(model)
    assert "first in the prediction 'uncond': every layer of the network is finite" in text


def test_a_given_image_that_was_encoded_to_nan_is_told_from_the_step(model):
    """Inpainting begins with noise, and puts the image's latents back after the step."""
    broken = with_value(model, "vae", "encoder.conv_in.weight", np.nan)
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    inputs = {"image": Image.new("RGB", (16, 16)), "mask": mask}
    assert "what is put back after the step" in refused(broken, "inpaint", **inputs)


@pytest.mark.parametrize("observer", [None, modes.RunObserver(), modes.PreviewObserver()])
def test_the_text_is_the_same_for_every_observer(model, observer):
    broken = with_value(model, "unet", "conv_in.weight", np.nan)
    plan = modes.plan("txt2img", broken, prompt="a", steps=2, seed=1, sigmas=[1.0, 0.5, 0.0])
    with pytest.raises(NumericError) as caught:
        plan.run(broken, observer=observer)
    assert str(caught.value) == (
        "the latents became NaN or infinite in step 1 of 2, to sigma 0.5, first in the parameters "
        "of conv2d of unet.conv_in (<numpy backend, cpu, float32>)"
    )


def test_a_run_may_be_checked_from_its_first_step_on(model):
    """The observer stops any run, and a healthy one is the same with it."""
    plan = modes.plan("txt2img", model, prompt="a", steps=2, seed=1)
    checked = plan.run(model, observer=OriginObserver())
    assert (checked.latents == plan.run(model).latents).all()
    broken = with_value(model, "unet", "conv_out.bias", np.nan)
    with pytest.raises(NonFinite, match=r"the parameters of conv2d of unet\.conv_out"):
        plan.run(broken, observer=OriginObserver())


def test_images_of_latents_are_finite(tiny):
    assert len(decode_images(tiny, np.zeros((1, *tiny.latent_shape(16, 16)), np.float32))) == 1
