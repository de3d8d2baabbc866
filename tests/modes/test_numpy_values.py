"""NumPy's numbers and path-like objects work like Python's own numbers and paths."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image
from small_models import config_for
from test_junk import INPUTS

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.io.images.pil import read_image, read_mask
from ldmref.io.native import save_folder
from ldmref.models.memory import check_seconds, parse_bytes
from ldmref.models.presets import preset
from ldmref.modes.registry import MODES

TINY = preset("tiny")
WHOLE = (0, 1, 2, 4, 8, 16, 32, 64)
TYPES = (np.int64, np.int32, np.uint8, np.uint64)


def params(mode, **values):
    """Return the resolved request, or None if it is refused."""
    inputs = INPUTS[mode] | ({"seed": 1} if "seed" in MODES[mode].parameters else {})
    try:
        return modes.plan(mode, config_for(mode, TINY), **inputs | values).params
    except LdmrefError:
        return None


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"superres", "seg2img"}))
def test_every_parameter_that_takes_a_number_takes_numpys(mode):
    taken = set()
    for name in MODES[mode].parameters:
        for value in WHOLE:
            want = params(mode, **{name: value})
            if want is None:
                continue
            taken.add(name)
            for kind in TYPES:
                got = params(mode, **{name: kind(value)})
                assert got == want and json.dumps(got) == json.dumps(want), (name, kind)
    assert {"steps", "width", "cfg_scale", "clip_skip"} <= taken
    assert {"seed", "count", "batch_size"} & set(MODES[mode].parameters) <= taken


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"superres", "seg2img"}))
def test_every_flag_takes_numpys_truth_values(mode):
    flags = [name for name, p in MODES[mode].parameters.items() if p.kind is bool]
    assert flags
    for name in flags:
        for value in (True, False):
            want = params(mode, **{name: value})
            assert params(mode, **{name: np.bool_(value)}) == want is not None
        assert params(mode, **{name: 1}) is None


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        ("txt2img", "cfg_scale", 1.5),
        ("txt2img", "eta", 0.5),
        ("img2img", "strength", 0.5),
        ("inpaint", "mask_blur", 1.5),
    ],
)
def test_floats_of_numpy(mode, name, value):
    sampler = {"sampler": "ddim"} if name == "eta" else {}
    want = params(mode, **{name: value}, **sampler)
    for kind in (np.float64, np.float32, np.float16):
        assert params(mode, **{name: kind(value)}, **sampler) == want is not None


@pytest.mark.parametrize(
    ("mode", "name", "value", "more"),
    [
        ("txt2img", "seed", [3, 4], {"count": 2}),
        ("inpaint", "resample", [2, 3], {}),
        ("interpolate", "positions", [0.0, 0.5], {}),
        ("txt2img", "sigmas", [5.0, 1.0, 0.0], {}),
        ("interpolate", "seed", [1, 2], {}),
    ],
)
def test_lists_may_be_arrays_or_hold_numpys_numbers(mode, name, value, more):
    want = params(mode, **{name: value} | more)
    for other in (tuple(value), np.array(value), list(np.array(value))):
        got = params(mode, **{name: other} | more)
        assert got == want is not None and json.dumps(got) == json.dumps(want), other
    assert params(mode, **{name: np.array([value])} | more) is None  # of two dimensions


def test_models_take_numpys_numbers():
    want = ldmref.random_model("tiny", seed=3, backend="numpy")
    got = ldmref.random_model("tiny", seed=np.int64(3), backend="numpy")
    bias = [m.params["unet"]["conv_in"]["weight"] for m in (want, got)]
    np.testing.assert_array_equal(*bias)
    for wrong in (True, 1.0, "3", np.float64(3), np.bool_(True)):
        with pytest.raises(LdmrefError):
            ldmref.random_model("tiny", seed=wrong)
    assert parse_bytes(np.int64(10**9)) == 10**9
    assert check_seconds(np.int64(3)) == 3 and check_seconds(np.float32(1.5)) == 1.5
    assert got.encode_text(["a"], clip_skip=np.int64(1)).shape == (1, 16, 32)


# -- paths ----------------------------------------------------------------------------------------


class Located(os.PathLike):
    """A path that is neither text nor of pathlib."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    tiny = ldmref.random_model("tiny", backend="numpy")
    trees = {name: tiny.params[name] for name in tiny.params}
    save_folder(folder / "m", tiny.config, trees, [tiny.tokenizer], np.float32)
    Image.new("RGB", (16, 16), "teal").save(folder / "a.png")
    Image.new("L", (16, 16), 255).save(folder / "mask.png")
    return folder


def test_images_and_masks_and_files_are_path_like(folder):
    image = folder / "a.png"
    mask = folder / "mask.png"
    assert read_image(Located(image)).tobytes() == read_image(image).tobytes()
    assert read_mask(Located(mask)).tobytes() == read_mask(mask).tobytes()
    values = {"prompt": "a", "image": Located(image), "mask": Located(mask), "seed": 1, "steps": 1}
    model = ldmref.load(Located(folder / "m"), backend="numpy")
    result = modes.inpaint(model, **values)
    want = modes.inpaint(model, **values | {"image": image, "mask": str(mask)})
    np.testing.assert_array_equal(result.latents, want.latents)
    assert result.save(Located(folder / "out.png")) == [folder / "out.png"]


@pytest.mark.parametrize("argument", ["name", "vae", "lora", "embeddings", "config", "tokenizer"])
@pytest.mark.parametrize("listed", [False, True])
def test_an_argument_of_load_reads_a_path_like_object_as_its_path(folder, argument, listed):
    """The same error, of a file that does not exist."""
    if listed and argument not in ("lora", "embeddings"):
        pytest.skip("takes no list")

    def error_of(path):
        values = {"name": folder / "m", argument: [path] if listed else path}
        with pytest.raises(LdmrefError) as caught:
            ldmref.load(**values, backend="numpy")
        return caught.value.code, str(caught.value)

    missing = folder / "nothing.safetensors"
    assert error_of(Located(missing)) == error_of(missing) == error_of(str(missing))


def test_controls_and_taesd_read_path_like_objects_as_their_paths(folder):
    def error_of(function, path):
        with pytest.raises(LdmrefError) as caught:
            function(path)
        return caught.value.code, str(caught.value)

    ops = ldmref.backends.get_backend("numpy")
    control = lambda path: modes.plan(  # noqa: E731
        "txt2img", TINY, prompt="a", control=[modes.Control(path, folder / "a.png")]
    )
    for function in (control, ldmref.load_controlnet, lambda path: ldmref.load_taesd(path, ops)):
        missing = folder / "nothing.safetensors"
        assert error_of(function, Located(missing)) == error_of(function, missing)
