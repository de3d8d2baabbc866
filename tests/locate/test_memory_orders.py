"""Arrays in another order in memory are no fault, in any number format, and hide none."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.cases.golden_models import golden_model
from ldmref.locate import diff_traces
from ldmref.locate.law import NOISE, allowed_error
from ldmref.locate.recorded.layouts import find_order, recognise, relative_error
from ldmref.locate.recorded.precision import EPSILONS, round_to
from ldmref.models.model import LatentDiffusion
from ldmref.trace import build_trace

FORMATS = ("float64", "float32", "float16", "bfloat16")
NETWORKS = (
    ("tiny", "unet"),
    ("tiny", "vae.decode"),
    ("tiny", "encode"),
    ("tiny", "text_encoder"),
    ("sd3-tiny", "transformer"),
    ("flux-tiny", "transformer"),
    ("flux-tiny", "text_encoder_2"),
)


MODELS: dict[str, LatentDiffusion] = {}


def model_of(name):
    return MODELS.setdefault(name, make_model(name))


def run(name, network, dtype, wrong=None):
    """Return a model, and what a port of it records in a number format."""
    return model_of(name), run_port(model_of(name), wrong, network, dtype=dtype)


def narrow(x, dtype):
    return round_to(np.asarray(x, "float64" if dtype == "float64" else "float32"), dtype)


def moved(name, x):
    """Return what a port that keeps channels last records: also tokens and heads exchanged."""
    if "//" in name or np.ndim(x) not in (3, 4):
        return x
    axes = (0, 2, 3, 1) if np.ndim(x) == 4 else (1, 0, 2)
    return np.ascontiguousarray(np.transpose(x, axes))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_right_ports_in_another_order_are_equal(name, network, dtype):
    model, tensors = run(name, network, dtype)
    tensors = {key: moved(key, x) for key, x in tensors.items()}
    report = diff_traces(build_trace(tensors), model, dtype=dtype)
    assert not report.faults, [(row.name, row.cause, row.note) for row in report.faults][:3]
    assert any("transpose" in row.note for row in report.rows if row.verdict == "equal")


@pytest.mark.parametrize("axes", [*permutations(range(4))][1:])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_order_of_a_convolution_is_equal(axes, dtype):
    model = model_of("tiny")
    layer = model.params["unet"].conv_in
    x = narrow(np.random.default_rng(0).standard_normal((1, layer.weight.shape[1], 8, 8)), dtype)
    weight, bias = (round_to(p, dtype) for p in (layer.weight, layer.bias))
    y = narrow(model.backend.conv2d(x.astype(np.float32), weight, bias, 1, 1), dtype)
    tensors = {"unet.000/conv_in/input": x, "unet.000/conv_in/output": y.transpose(axes)}
    (row,) = diff_traces(build_trace(tensors), model, dtype=dtype).rows
    assert row.verdict == "equal" and row.note.startswith("equal after transpose")
    tensors["unet.000/conv_in/output"] = (y - bias[:, None, None]).transpose(axes)
    (row,) = diff_traces(build_trace(tensors), model, dtype=dtype).rows
    assert row.verdict == "differs" and row.cause == "bias is missing"


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_fault_in_another_order_is_named(dtype):
    layer = "down_blocks.0.resnets.0.conv1"
    wrong = {layer: lambda call, x: 1.5 * call.compute(x)}
    model, tensors = run("tiny", "unet", dtype, wrong)
    tensors = {key: moved(key, x) for key, x in tensors.items()}
    report = diff_traces(build_trace(tensors), model, dtype=dtype)
    (row,) = report.faults
    assert row.layer == layer and row.cause in ("scaled by 1.5", "scaled by 1.4998")


def test_numbers_that_nearly_repeat_along_two_axes_are_not_transposed():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((2, 8, 8))
    right = half + half.swapaxes(1, 2) + 0.05 * rng.standard_normal((2, 8, 8))
    assert relative_error(right.swapaxes(1, 2), right) < allowed_error(0.0, EPSILONS["bfloat16"])
    wrong = right + 0.3 * rng.standard_normal((2, 8, 8))
    assert find_order(right, right) is None and find_order(wrong, right) is None
    assert recognise(wrong, right, 0.1) is None
    far = rng.standard_normal((2, 8, 8))
    found = find_order(far.swapaxes(1, 2), far)
    assert found is not None and np.array_equal(found.array, far)


def test_the_nearest_of_several_orders_is_taken():
    right = np.random.default_rng(0).standard_normal((2, 6, 6, 3))
    found = find_order(right.transpose(0, 3, 2, 1) + 1e-3, right)
    assert found is not None and found.text == "equal after transpose 0,3,2,1"
    assert relative_error(found.array, right) < 1e-2


def test_integers_in_another_order_stay_integers():
    model, tensors = run("flux-tiny", "text_encoder_2", "float32")
    name = "text_encoder_2/encoder.block.0.layer.0.SelfAttention.relative_attention_bias/input"
    assert tensors[name].dtype.kind == "i"
    tensors[name] = tensors[name].T.copy()
    report = diff_traces(build_trace(tensors), model)
    assert not any("replayed" in row.note for row in report.rows)
    (table, *_) = report.faults
    assert table.layer.endswith("relative_attention_bias")


def test_ids_must_be_equal_in_every_format():
    """An id that is one too large is far less than what bfloat16 rounds of the largest one."""
    model, tensors = run("tiny", "text_encoder", "bfloat16")
    name = "text_encoder/text_model.embeddings.token_embedding/input"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 1] += 1
    report = diff_traces(build_trace(tensors), model, dtype="bfloat16")
    assert any(row.kind == "wiring" and "token_embedding" in row.layer for row in report.faults)


def test_arrays_that_were_stored_in_float8_are_judged_by_it():
    model, tensors = run("tiny", "unet", "float32")
    name = "unet.000/conv_in/output"
    mantissa, exponent = np.frexp(tensors[name])
    tensors = {key: x for key, x in tensors.items() if "/conv_in/" in key}
    tensors[name] = np.ldexp(np.rint(mantissa * 16) / 16, exponent).astype(np.float32)
    (row,) = diff_traces(build_trace(tensors), model).rows
    assert row.verdict == "differs"
    (row,) = diff_traces(build_trace(tensors, kinds={name: "F8_E4M3"}), model).rows
    assert row.verdict == "equal" and row.allowed == NOISE * 2.0**-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wire_without_a_cause_in_another_order_is_named_alone(dtype):
    """What follows is judged by the recorded numbers, as in the usual order."""
    model, tensors = run("tiny", "unet", dtype)
    name = "unet.000/down_blocks.0.resnets.0.conv1/output"
    tensors[name] = narrow(1.5 * tensors[name], dtype)
    usual = diff_traces(build_trace(tensors), model, dtype=dtype)
    tensors = {key: moved(key, x) for key, x in tensors.items()}
    report = diff_traces(build_trace(tensors), model, dtype=dtype)
    assert [(row.name, row.kind) for row in report.faults] == [
        (row.name, row.kind) for row in usual.faults
    ]
    assert len(report.faults) == 2 and not any("equal" in row.note for row in report.faults)


def test_a_norm_whose_variance_is_found_in_one_pass_is_right():
    """Torch's group norm of arrays with channels last; a wrong eps is still named."""

    def one_pass(call, x, eps=None):
        flat = x["input"].reshape(len(x["input"]), call.attributes["groups"], -1)
        mean = flat.mean(axis=-1, keepdims=True)
        variance = (flat * flat).mean(axis=-1, keepdims=True) - mean * mean
        flat = (flat - mean) / np.sqrt(variance + (eps or call.attributes["eps"]))
        weight, bias = (x[name][:, None, None] for name in ("weight", "bias"))
        return flat.reshape(x["input"].shape) * weight + bias

    layer = "down_blocks.0.resnets.0.norm1"
    model = model_of("tiny")
    shape = run("tiny", "unet", "float32")[1][f"unet.000/{layer}/input"].shape
    x = (30.0 + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    for eps, causes in ((None, []), (1e-2, ["eps 0.01 instead of 1e-05"])):
        made = run_port(model, {layer: lambda call, y, e=eps: one_pass(call, {**y, "input": x}, e)})
        tensors = {
            f"unet.000/{layer}/input": x,
            f"unet.000/{layer}/output": made[f"unet.000/{layer}/output"],
        }
        report = diff_traces(build_trace(tensors), model)
        assert [row.cause for row in report.faults] == causes


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_epsilon_of_a_format_is_that_of_its_numbers(dtype):
    """1 + epsilon is the next number after 1, and half as much is rounded away."""
    e = EPSILONS[dtype]
    assert round_to(np.array([1.0 + e]), dtype) == 1.0 + e
    assert dtype == "float64" or round_to(np.array([1.0 + e / 2.0]), dtype) == 1.0
    assert 1.0 + e / 2.0 == 1.0 or dtype != "float64"


def test_numbers_that_are_not_finite_are_compared_without_a_warning():
    largest = np.finfo(np.float64).max
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for got, right in ((np.inf, np.inf), (np.nan, 1.0), (largest, -largest)):
            assert relative_error(np.array([got]), np.array([right])) == np.inf


def channels_last(key, x):
    """Return what a port whose arrays are (n, h, w, c) records, also of whole networks."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if np.ndim(x) == 4 else x


@pytest.mark.parametrize("network", ["unet", "vae.decode", "encode"])
def test_networks_with_the_channels_last_are_equal(network):
    model, tensors = run("tiny", network, "float32")
    tensors = {key: channels_last(key, x) for key, x in tensors.items()}
    report = diff_traces(build_trace(tensors), model)
    assert report.verdict == "equal", report.rows
    assert any("no fault: channels last" in note for note in report.notes)


def test_the_size_of_an_image_with_the_channels_last_is_that_of_its_rows_and_columns():
    model = golden_model("sdxl")
    sizes = np.array([[16.0, 8.0, 0.0, 0.0, 16.0, 8.0]] * 2)  # of 8 rows of latents, and 4 columns
    for right in (sizes, sizes[:, ::-1]):
        tensors = run_port(model, None, "unet", given={"sizes": right})
        tensors = {key: channels_last(key, x) for key, x in tensors.items()}
        report = diff_traces(build_trace(tensors), model)
        faults = [(row.layer, row.kind) for row in report.faults]
        assert faults == ([] if right is sizes else [("", "micro-conditioning")])


def test_latents_with_as_many_rows_as_channels_are_read_in_the_order_that_explains_them():
    model = model_of("tiny")
    x = narrow(np.random.default_rng(5).standard_normal((2, 4, 4, 8)), "float32")
    tensors = run_port(model, None, "unet", given={"x": x})
    assert diff_traces(build_trace(tensors), model).verdict == "equal"
    tensors = {key: channels_last(key, array) for key, array in tensors.items()}
    report = diff_traces(build_trace(tensors), model)
    assert report.verdict == "equal", report.rows
    assert any("no fault: channels last" in note for note in report.notes)


@pytest.mark.parametrize("axes", [(), (2,)], ids=["tokens", "with an axis of one"])
def test_outputs_in_another_order_are_equal(axes):
    """Blocks of some ports return the image before the text, or tokens (n, l, 1, d)."""
    model, right = run("sd3-tiny", "transformer", "float32")
    block = "transformer.000/transformer_blocks.0"
    image, text = right[f"{block}/output.1"], right[f"{block}/output.0"]
    assert image.shape != text.shape
    swapped = {f"{block}/output.0": image, f"{block}/output.1": text}
    swapped = {key: np.expand_dims(x, axes) for key, x in swapped.items()}
    report = diff_traces(build_trace({**right, **swapped}), model)
    assert report.verdict == "equal", [row for row in report.rows if row.verdict != "equal"]
    swapped[f"{block}/output.0"] = 1.5 * np.expand_dims(image, axes)
    report = diff_traces(build_trace({**right, **swapped}), model)
    row, wire = report.faults
    assert row.layer == "transformer_blocks.0" and row.cause == "scaled by 1.5"
    assert (
        wire.layer == "transformer_blocks.1" and "1/1.5" in wire.cause
    )  # which read the right one
