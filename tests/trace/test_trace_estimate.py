"""The size of a trace is known before it is recorded."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.backends.base import Backend
from ldmref.errors import ResourceError, UsageError
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.trace import Selection, check_space, estimate_trace, read_trace, record_trace
from ldmref.trace.shapes import ShapeBackend, constant_array, without_weights

TEAL = Image.new("RGB", (16, 16), "teal")


@pytest.mark.parametrize(
    ("options", "mode", "given", "selection"),
    [
        ({"dtype": "float64"}, "txt2img", {}, None),
        ({"dtype": "float32", "speed": "fast"}, "txt2img", {"count": 2, "batch_size": 1}, None),
        ({"backend": "torch", "dtype": "bfloat16"}, "txt2img", {"sampler": "heun"}, None),
        ({"dtype": "float64"}, "img2img", {"image": TEAL}, None),
        ({"dtype": "float64"}, "txt2img", {}, Selection(("*attn*",), ("unet.*",), (2,))),
        ({"dtype": "float64"}, "txt2img", {"control": True}, None),
    ],
)
def test_the_estimate_is_near_the_size(options, mode, given, selection, tmp_path):
    if options.get("backend") == "torch":
        pytest.importorskip("torch")
    model = ldmref.random_model("tiny", **({"backend": "numpy"} | options))
    if given.get("control"):
        config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
        net = ControlNet(model.backend, config, init(controlnet_spec(config), 3))
        given = {"control": [modes.Control(net, TEAL)]}
    plan = modes.plan(mode, model, prompt="a cat", seed=3, steps=4, **given)
    estimate = estimate_trace(plan, model, selection)
    record_trace(plan, model, tmp_path / "t", selection=selection)
    size = sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    assert size <= estimate.bytes <= 1.02 * size
    assert list(estimate.calls) == read_trace(tmp_path / "t").calls


def test_nothing_is_computed(monkeypatch):
    """An estimate of 50 steps calls no operation of the backend."""
    model = ldmref.random_model("tiny", dtype="float64", backend="numpy")
    for name in ("linear", "conv2d", "attention"):
        monkeypatch.setattr(type(model.backend), name, None)
    plan = modes.plan("txt2img", model, prompt="a cat", steps=50)
    estimate = estimate_trace(plan, model)
    assert len([call for call in estimate.calls if call.startswith("unet")]) == 50


def test_a_selection_that_matches_nothing_is_refused():
    model = ldmref.random_model("tiny", backend="numpy")
    plan = modes.plan("txt2img", model, prompt="a cat", steps=2)
    for selection, word in (
        (Selection(layers=("nothing*",)), "layer"),
        (Selection(calls=("unett.*",)), "call"),
        (Selection(steps=(2,)), "steps 0 to 1"),
    ):
        with pytest.raises(UsageError, match=word) as caught:
            estimate_trace(plan, model, selection)
        assert caught.value.code == "E-TRACE-SELECTION"
    later = modes.plan("img2img", model, prompt="a cat", image=TEAL, steps=4, strength=0.5)
    with pytest.raises(UsageError, match="steps 2 to 3"):
        estimate_trace(later, model, Selection(steps=(1,)))


def test_too_large_traces_are_refused(tmp_path):
    model = ldmref.random_model("tiny", backend="numpy")
    estimate = estimate_trace(modes.plan("txt2img", model, prompt="", steps=2), model)
    check_space(estimate, tmp_path / "new" / "folder", estimate.bytes)
    with pytest.raises(ResourceError, match="more than") as caught:
        check_space(estimate, tmp_path, estimate.bytes - 1, "take less")
    assert caught.value.code == "E-TRACE-SIZE" and caught.value.hint == "take less"


def test_a_full_disk_is_noticed_before_the_run(tmp_path, monkeypatch):
    model = ldmref.random_model("tiny", backend="numpy")
    estimate = estimate_trace(modes.plan("txt2img", model, prompt="", steps=2), model)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**28 + estimate.bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="are free"):
        check_space(estimate, tmp_path / "new")


def test_constant_arrays_take_no_memory():
    x = constant_array(np.full((), 2.0, np.float32), (3, 1, 5))
    y = constant_array(np.full((), 4.0, np.float32), (3, 4, 5))
    for z, value in (
        (x + y, 6.0),
        (x * 2.5, 5.0),
        (np.exp(x) - np.exp(x), 0.0),
        (np.concatenate([x, y], axis=1), 2.0),
        ((x - y)[:, :, ::2], -2.0),
    ):
        assert z.dtype == np.float32 and not any(z.strides)
        assert float(z[(0,) * z.ndim]) == value
    assert (x + y).shape == (3, 4, 5) and np.concatenate([x, y], axis=1).shape == (3, 5, 5)
    assert np.isfinite(x).all() and float(np.sum(y)) == 240.0
    real = np.arange(5.0)
    assert np.array_equal(real + x, real + np.full((3, 1, 5), 2.0))
    assert type(real + x) is np.ndarray


def test_constant_arrays_change_by_assignment():
    """`x *= y` writes into no memory that others share, and keeps the type."""
    x = old = constant_array(np.full((), 2.0, np.float32), (3, 4))
    x *= x
    x += 1.0
    assert (x == 5.0).all() and (old == 2.0).all()
    assert x.strides == (0, 0) and x.dtype == np.float32
    x *= np.arange(4.0)
    assert x.dtype == np.float32 and np.array_equal(x[0], [0, 5, 10, 15])


def test_the_backend_of_shapes_has_every_operation():
    assert ShapeBackend().missing_operations() == []
    assert isinstance(ShapeBackend(), Backend)
    params = without_weights({"unet": {"conv": {"weight": (3, 2)}}}, ShapeBackend(dtype="float16"))
    assert params["unet"].conv.weight.shape == (3, 2) and preset("tiny")
