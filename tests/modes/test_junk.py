"""Whatever is passed as a parameter, the answer is an error of ldmref, on one short line."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image
from small_models import config_for

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError, UsageError
from ldmref.modes.registry import MODES


class Hostile:
    """Nothing can be done with it."""

    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("compared")

    def __repr__(self):
        raise RuntimeError("shown")


JUNK = {
    "object": object(), "bytes": b"x", "bytearray": bytearray(b"x"), "complex": 1j,
    "nan": float("nan"), "infinity": float("inf"), "large": 10**400, "huge": 10**6000,
    "negative": -2, "bool": True, "text": "x", "long text": "0" * 5000, "surrogate": "\ud800",
    "nul": "a\0b", "empty list": [], "list of None": [None], "nested": [[1, 2], [3]],
    "dict": {"a": 1}, "set": {1}, "range": range(3), "iterator": iter([1]),
    "matrix": np.zeros((2, 2)), "0-d array": np.array(1.0), "texts": np.array(["x"]),
    "objects": np.array([1, None], object), "time": np.datetime64("2026-01-01"),
    "function": len, "type": int, "hostile": Hostile(), "module": np,
}  # fmt: skip
IMAGE = Image.new("RGB", (16, 16), "teal")
INPUTS = {
    "txt2img": {"prompt": "a"},
    "img2img": {"prompt": "a", "image": IMAGE},
    "inpaint": {"prompt": "a", "image": IMAGE, "mask": IMAGE},
    "interpolate": {"prompt": "a", "prompt_b": "b", "positions": 2},
    "invert": {"prompt": "a", "image": IMAGE},
    "edit": {"prompt": "a", "image": IMAGE},
    "superres": {"image": IMAGE},
    "seg2img": {"segmentation": np.zeros((16, 16), int)},
}


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.mark.parametrize("mode", MODES)
def test_no_value_of_any_parameter_raises_an_error_that_is_not_ours(model, mode):
    refused = 0
    config = config_for(mode, model.config)
    for name in MODES[mode].parameters:
        for kind, value in JUNK.items():
            try:
                modes.plan(mode, config, **INPUTS[mode] | {name: value})
            except LdmrefError as error:
                refused += 1
                text = str(error)
                assert error.code.startswith("E-") and error.exit_code, (name, kind)
                assert len(text) < 300 and "\n" not in text, (name, kind)
            except Exception as error:
                pytest.fail(f"{mode}({name}={kind}) raised {error!r}")
    assert refused > 20 * len(MODES[mode].parameters)


@pytest.mark.parametrize("mode", ["txt2img", "invert", "interpolate"])
@pytest.mark.parametrize("kind", set(JUNK) - {"function", "type"})
def test_a_callback_that_is_none_is_refused_before_anything_is_drawn(model, mode, kind):
    for name in ("callback", "cancel"):
        with pytest.raises(UsageError) as caught:
            getattr(modes, mode)(model, **INPUTS[mode], steps=2, **{name: JUNK[kind]})
        assert caught.value.code == f"E-{name.upper()}"


@pytest.mark.parametrize("mode", ["txt2img", "invert"])
@pytest.mark.parametrize("returned", [True, False, 0, "stop", {"latents": 1}])
def test_a_callback_that_returns_something_is_an_error(model, mode, returned):
    calls = []
    with pytest.raises(UsageError) as caught:
        getattr(modes, mode)(
            model, **INPUTS[mode], steps=3, callback=lambda progress: calls.append(1) or returned
        )
    assert caught.value.code == "E-CALLBACK" and len(calls) == 1


def test_what_a_callback_raises_is_its_own_and_the_model_draws_on(model):
    want = modes.txt2img(model, "a", seed=1, steps=3).latents

    def fails(progress):
        progress.latents[:] = np.nan
        progress.x0[:] = np.nan
        if progress.step == 1:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        modes.txt2img(model, "a", seed=1, steps=3, callback=fails)
    assert (modes.txt2img(model, "a", seed=1, steps=3).latents == want).all()


@pytest.mark.parametrize("wrong", [None, "emoji", 5, object()])
def test_what_is_no_model_is_refused(wrong):
    for draw in (modes.txt2img, modes.interpolate):
        with pytest.raises(UsageError) as caught:
            draw(wrong, "a", **({"prompt_b": "b"} if draw is modes.interpolate else {}))
        assert caught.value.code == "E-MODEL"


def test_threads_that_share_a_model_draw_what_it_draws_alone(model):
    want = [modes.txt2img(model, "red heart", seed=i, steps=2).latents for i in range(8)]
    drawn = {}

    def draw(i):
        drawn[i] = modes.txt2img(model, "red heart", seed=i, steps=2).latents

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((drawn[i] == want[i]).all() for i in range(8))
