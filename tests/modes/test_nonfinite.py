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
from ldmref.errors import NumericError
from ldmref.models.params import flatten, unflatten
from ldmref.modes.nonfinite import find_layer

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
        return find_layer(network, "unet", lambda m: m.predict(x, t, states))

    for layer, name in (
        ("conv2d", "down_blocks.0.resnets.0.conv1"),
        ("linear", "time_embedding.linear_1"),
    ):
        broken = with_value(model, "unet", f"{name}.weight", np.nan)
        assert first(broken) == f"the parameters of {layer} of unet.{name}"
    assert first(model) == ""
    x[0, 0, 0, 0] = np.inf
    assert first(model) == "the input of conv2d of unet.conv_in"
