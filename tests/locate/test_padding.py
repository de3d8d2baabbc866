"""Rows of padding: which they are, and that they alone are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.backends.named import LayerCall
from ldmref.locate.recorded.padding import PaddingFinder
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.models.declared import CallSize, DeclaredNetwork, NetworkInput, NetworkOutput

MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def record_of(preset, mask=MASK, network="transformer", **more):
    """Return a small model, and a call of its network with a mask."""
    model = ldmref.random_model(preset)
    [declared] = [x for x in model.family.networks(model.config) if x.name == network]
    sizes = {"batch": len(mask), "timesteps": len(mask), "tokens": mask.shape[1]}
    sizes |= {"height": 4, "width": 4}
    arguments = dict(declared.settings)
    for i, x in enumerate(declared.inputs):
        if x.of_references:
            arguments[x.argument] = None
        elif x.content == "mask":
            arguments[x.argument] = mask
        elif x.content == "ids":
            arguments[x.argument] = np.full(mask.shape, 7)
        else:
            arguments[x.argument] = normal(i, *x.shape_at(sizes))
    return model, RecordedNetwork(declared, model.params[declared.params], arguments | more, True)


@pytest.mark.parametrize("preset", ["qwen-image-2.1-tiny", "krea-2-tiny"])
def test_rows_of_hidden_tokens_are_padding(preset):
    model, call = record_of(preset)
    found = PaddingFinder().find(model, call)
    of_text = [rows for rows in found.values() if rows.shape == MASK.shape]
    assert of_text and all(np.array_equal(rows, MASK == 0) for rows in of_text)
    joint = [rows for rows in found.values() if rows.ndim == 2 and rows.shape[1] > 4]
    assert joint and all(rows[:, : MASK.shape[1]][MASK == 1].sum() == 0 for rows in joint)
    assert all(rows.sum() == 2 for rows in joint if len(rows) == 2)
    assert ("", "", 0) not in found  # the result


def test_rows_that_a_network_overwrites_are_padding():
    """Z-Image begins with zeros after a caption's segments, whatever was put there."""
    mask = np.ones((2, 40), np.int64)
    mask[0, 3:] = 0
    found = PaddingFinder().find(*record_of("z-image-tiny", mask))
    expected = np.zeros((2, 64), bool)
    expected[0, 32:] = True
    for layer in ("attention", "attention.to_k", "feed_forward.w2"):
        rows = found[f"context_refiner.0.{layer}", "", 0]
        assert np.array_equal(rows, expected), layer
    for role in ("input", "k", "v"):
        rows = found["context_refiner.0.attention.attention", role, 0]
        assert np.array_equal(rows, expected[:, None, :] & np.ones((1, 2, 1), bool)), role
    joint = found["layers.0", "", 0]
    assert joint.sum() == 32 and joint[0, -32:].all()


@pytest.mark.parametrize("preset", ["qwen-image-2.1-tiny", "krea-2-tiny", "z-image-tiny"])
def test_without_padding_there_is_nothing_to_leave_out(preset):
    model, call = record_of(preset, np.ones((2, 4), np.int64))
    assert PaddingFinder().find(model, call) == {}


def test_a_mask_that_hides_nothing_leaves_out_nothing():
    """A network whose result depends on what the mask should hide."""
    model, call = record_of("qwen-image-2.1-tiny")
    function = call.network.function

    def unmasked(ops, params, mask=None, **arguments):
        return function(ops, params, **arguments)

    wrong = replace(call, network=replace(call.network, function=unmasked))
    assert PaddingFinder().find(model, wrong) == {}


def test_unfit_arrays_leave_out_nothing():
    model, call = record_of("qwen-image-2.1-tiny", x=normal(0, 2, 3, 4, 4))
    assert PaddingFinder().find(model, call) == {}


def test_arrays_that_were_not_recorded_do_not_matter():
    model, call = record_of("qwen-image-2.1-tiny")
    finder = PaddingFinder()
    lost = {**call.arguments, "x": np.full_like(call.arguments["x"], np.nan)}
    assert PaddingFinder().find(model, replace(call, arguments=lost)).keys() == (
        finder.find(model, call).keys()
    )
    assert finder.find(model, replace(call, arguments=lost)) is finder.find(model, call)


@pytest.mark.parametrize(
    ("preset", "mask", "read"),
    [
        ("flux2-tiny", [[1, 1, 0]], [[1, 1, 1]]),  # the denoiser has no mask
        ("z-image-tiny", [[1, 1, 0]], [[1, 1, 0]]),
        ("z-image-tiny", [[0, 1, 1]], [[0, 1, 1]]),
        ("krea-2-tiny", [[1] * 40 + [0, 1]], [[0] * 34 + [1] * 6 + [0, 1]]),  # 34 are dropped
        ("sd3-tiny", [[1, 1, 0]], [[1, 1, 1]]),  # of several encoders, nothing is known
    ],
)
def test_the_states_that_a_denoiser_reads(preset, mask, read):
    found = PaddingFinder().read_later(ldmref.random_model(preset), np.array(mask))
    assert found.astype(int).tolist() == read


def test_flux3_reads_windows():
    mask = np.zeros((2, 200), np.int64)
    mask[0, :5] = mask[1, :90] = 1
    found = PaddingFinder().read_later(ldmref.random_model("flux3-tiny"), mask)
    assert found.sum(axis=1).tolist() == [80, 160]


# -- networks of a few lines ----------------------------------------------------------------------

N, TOKENS = CallSize("batch"), CallSize("tokens")
SHORT = np.array([[1, 1, 0], [1, 1, 1]])
INPUTS = (
    NetworkInput("x", "x", (N, TOKENS, 4)),
    NetworkInput("image", "image", (N, CallSize("height"), 4)),
    NetworkInput("mask", "mask", (N, TOKENS), "mask"),
)


def attend(ops, params, x, mask, image=None):
    """Return the tokens with the mean of those that are not hidden."""
    double = LayerCall("a", "k", {"input": x}, {}, {}, lambda inputs: 2.0 * inputs["input"])
    y = ops.visit(double)
    return y + np.where(mask[..., None] != 0, y, 0.0).sum(axis=1, keepdims=True)


def found_in(function=attend, inputs=INPUTS, name="transformer", finder=None, model=None, **arrays):
    """Return the rows of padding of a network, by layer, role and number of the output."""
    arrays = {"x": normal(0, 2, 3, 4), "mask": SHORT} | arrays
    outputs = (NetworkOutput("", "y"),)
    declared = DeclaredNetwork(name, "", "", function, dict, {}, tuple(inputs), outputs)
    call = RecordedNetwork(declared, {}, arrays, True)
    return (finder or PaddingFinder()).find(model, call)


def test_rows_of_hidden_tokens_are_those_that_change():
    found = found_in(x=1e-3 * normal(0, 2, 3, 4))
    assert found.keys() == {("a", "input", 0), ("a", "", 0), ("", "", 0)}
    assert all(np.array_equal(rows, SHORT == 0) for rows in found.values())


def reads_all(ops, params, x, mask):
    return attend(ops, params, x, mask * 0 + 1)


def moves_all(ops, params, x, mask):
    return attend(ops, params, x, mask)[:, ::-1]


def changes_by_rounding(ops, params, x, mask):
    return attend(ops, params, x, mask) + 1e-10 * np.where(mask[..., None] != 0, 0.0, x).sum()


def changes_by_little(ops, params, x, mask):
    return attend(ops, params, x, mask) + 1e-6 * np.where(mask[..., None] != 0, 0.0, x).sum()


def fails(ops, params, x, mask):
    raise ValueError("they do not fit")


@pytest.mark.parametrize("function", [reads_all, moves_all, changes_by_little, fails])
def test_what_is_read_is_no_padding(function):
    assert found_in(function) == {}


def test_what_only_rounding_changes_is_padding():
    assert found_in(changes_by_rounding)


@pytest.mark.parametrize("mask", [None, SHORT[0], SHORT[None], np.ones((2, 3)), [[1, 0]]])
def test_calls_without_a_mask_that_hides_have_no_padding(mask):
    assert found_in(mask=mask) == {}
    two = (*INPUTS, NetworkInput("other", "other", (N, TOKENS), "mask"))
    assert found_in(inputs=two, other=SHORT) == {} == found_in(inputs=INPUTS[:1])


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({}, True),
        ({"x": normal(1, 2, 3, 4)}, True),
        ({"x": normal(0, 2, 3, 5)}, False),
        ({"mask": SHORT[::-1]}, False),
        ({"name": "unet"}, False),
        ({"image": np.zeros((2, 5, 4))}, False),
    ],
)
def test_calls_of_one_kind_are_looked_into_once(more, same):
    finder = PaddingFinder()
    assert (found_in(finder=finder) is found_in(finder=finder, **more)) == same
    assert found_in(finder=finder)


def test_arrays_of_other_tokens_stay():
    seen = []

    def run(ops, params, **arrays):
        seen.append(arrays)
        return np.zeros((2, 3))

    arrays = {"x": normal(0, 2, 3, 4), "image": normal(1, 2, 3, 4)}
    assert found_in(run, **arrays) == {}
    first, second = (one["x"] for one in seen)
    assert np.array_equal(first[SHORT != 0], arrays["x"][SHORT != 0])
    assert not np.isclose(first[SHORT == 0], second[SHORT == 0]).any()
    assert all(np.array_equal(one["image"], arrays["image"]) for one in seen)


@pytest.mark.parametrize(("preset", "padded"), [("flux2-tiny", False), ("z-image-tiny", True)])
def test_padding_of_a_text_that_the_denoiser_reads_is_none(preset, padded):
    model = ldmref.random_model(preset)
    assert bool(found_in(name="text_encoder", model=model)) == padded
