"""Rows of padding: which they are, and that they alone are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.backends.named import LayerCall
from ldmref.locate.diagnosis import Cause
from ldmref.locate.faults.masks import changes_of_mask, other_masks, with_mask
from ldmref.locate.findings import DIFFERS, EQUAL, UNKNOWN
from ldmref.locate.judging import Judge
from ldmref.locate.networks import RecordedNetwork
from ldmref.locate.padding import PaddingFinder, _changed, _digest
from ldmref.locate.pipeline.tokens import mask_faults, pad_in_front
from ldmref.locate.points import Frame, Point
from ldmref.models.layers import MASKED

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


def test_rows_are_told_apart_by_their_numbers():
    """Only rows of floats: other arrays are ids and positions, or have one row."""
    rows = {}
    x = normal(0, 2, 3, 4)
    arrays = {"x": x, "y": x[0], "v": x[0, 0], "ids": np.ones((2, 3), int), "n": 3}
    for role, array in arrays.items():
        _digest(rows, ("a", role, 0), array)
    assert {role for _, role, _ in rows} == {"x", "y"}
    of_x, of_y = (rows["a", role, 0] for role in ("x", "y"))
    assert of_x.shape == (2, 3) and np.allclose(of_y, of_x[0], rtol=1e-12)
    assert len(np.unique(of_x)) == 6
    _digest(rows, ("a", "z", 0), np.flip(x, -1))
    assert not np.isclose(rows["a", "z", 0], of_x).any()  # the order of numbers counts


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


# -- the judge ------------------------------------------------------------------------------------


class Run:
    """A run that computes a point as it was computed."""

    def __init__(self, computed):
        self.computed = computed

    def rerun(self, point, changes=None, **options):
        return self.computed

    def parameters(self, call):
        return {}


def judge(computed, recorded, padding):
    call = LayerCall("layer", "other", {"input": computed}, {}, {}, lambda x: computed)
    frame = Frame("layer", call.compute, {}, None, [])
    point = Point(call, "", computed, recorded, {}, frame, (), (), padding=padding)
    found = Judge("transformer.000", "float32")
    used = found.observe(Run(computed), point)
    [row] = found.rows
    return row, used


@pytest.mark.parametrize("value", [100.0, np.nan, np.inf])
def test_rows_of_padding_are_left_out_and_counted(value):
    x, padding = normal(0, 2, 4, 5), MASK == 0
    recorded = np.where(padding[..., None], value, x)
    row, used = judge(x, recorded, padding)
    assert (row.verdict, row.padding) == (EQUAL, 2)
    # what is not finite is not used
    assert np.array_equal(used, recorded if np.isfinite(value) else x)


def test_padding_does_not_widen_what_is_allowed(monkeypatch):
    monkeypatch.setattr("ldmref.locate.judging.diagnose", lambda *args, **more: Cause())
    x, padding = normal(0, 2, 4, 5), MASK == 0
    x[padding] *= 1e9
    recorded = x.copy()
    recorded[1, 0, 0] += 1e-3
    row, _ = judge(x, recorded, padding)
    assert row.error == pytest.approx(1e-3 / np.abs(x[~padding]).max())
    assert row.verdict == DIFFERS


def test_padding_alone_is_not_judged():
    x = normal(0, 2, 4, 5)
    row, used = judge(x, x, np.ones((2, 4), bool))
    assert (row.verdict, row.note, row.padding) == (UNKNOWN, "all of its rows are padding", 8)
    assert used is x


def test_heads_count_once():
    x = normal(0, 2, 3, 4, 5)
    row, _ = judge(x, x, np.repeat((MASK == 0)[:, None], 3, axis=1))
    assert row.padding == 2


def test_another_order_in_memory_keeps_its_padding():
    x, padding = normal(0, 2, 4, 5), MASK == 0
    other = np.where(padding[..., None], 9.0, x)
    row, used = judge(x, other.transpose(0, 2, 1), padding)
    assert (row.verdict, row.padding) == (EQUAL, 2) and "transpose" in row.note
    assert np.array_equal(used, other)


# -- causes ---------------------------------------------------------------------------------------


def attend(call, x):
    q, k, v = x["input"], x["k"], x["v"]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + x.get("bias", 0.0)
    if call.attributes.get("causal"):
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def attention(bias=None, causal=False):
    names = ("input", "k", "v")
    inputs = {name: normal(i, 2, 1, 4, 3) for i, name in enumerate(names)}
    inputs |= {} if bias is None else {"bias": bias}
    call = LayerCall("attention", "attention", inputs, {}, {"causal": causal}, lambda x: x)
    return replace(call, compute=lambda x: attend(call, x))


def test_changed_masks_are_attention_with_their_bias():
    seen = (MASK != 0)[:, None, None, :]
    call = attention(np.where(seen, 0.0, MASKED))
    found = {variant.text: variant.change(call, call.inputs) for variant in other_masks(call)}
    assert len(found) >= 5
    for words, other in changes_of_mask(seen):
        if other.any(axis=-1).all():
            right = call.compute({**call.inputs, "bias": np.where(other, 0.0, -1e30)})
            assert np.allclose(found[words], right, rtol=0, atol=1e-12)
    empty = found["the mask is inverted, and queries without keys return zeros"]
    alike = found["the mask is inverted, and queries without keys read all alike"]
    assert not empty[1].any() and empty[0].any()
    assert np.allclose(alike[1], call.inputs["v"][1].mean(axis=1, keepdims=True))


def test_hidden_keys_of_causal_attention():
    call = attention(causal=True)
    mask = np.array([[0, 1, 1, 1], [1, 1, 1, 1]])
    texts = [variant.text for variant in with_mask(call, mask)]
    assert texts[0] == "keys of padding are hidden, and queries without keys return zeros"
    [zeros] = [v for v in with_mask(call, mask) if v.text == texts[0]]
    found = zeros.change(call, call.inputs)
    bias = np.where(mask[:, None, None, :] != 0, 0.0, -1e30)
    assert not found[0, 0, 0].any()
    assert np.allclose(found[0, 0, 1:], call.compute({**call.inputs, "bias": bias})[0, 0, 1:])
    assert [*with_mask(call, np.ones((2, 4)))] == [*with_mask(call, mask[:, :3])] == []
    assert [*with_mask(attention(np.zeros((2, 1, 1, 4))), mask)] == []


def test_masks_of_a_batch_in_words():
    faults = dict(mask_faults(MASK))
    assert faults["the mask is one token late"].tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert faults["the mask is one token early"].tolist() == [[1, 0, 0, 1], [1, 1, 1, 1]]
    assert faults["the mask has one token too many"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert faults["the mask has one token too few"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert faults["rows of the mask are exchanged"].tolist() == MASK[::-1].tolist()
    assert faults["all rows have the mask of row 1"].all()


def test_padding_within_a_text_stays():
    within = pad_in_front(np.array([5, 0, 6]), np.array([1, 0, 1]))
    assert within.ids.tolist() == [5, 0, 6] and not within.shift
    full = pad_in_front(np.array([5, 6]), np.array([1, 1]))
    assert full.ids.tolist() == [5, 6] and not full.shift


def test_rows_are_compared_beside_numbers_that_are_not_finite():
    """An infinity does not make every difference small, and is equal to nothing."""
    x = np.array([1.0, 2.0, np.inf, np.nan])
    other = np.array([1.0, 2.5, np.inf, np.nan])
    assert _changed(x, other).tolist() == [False, True, True, True]
    assert _changed(x[:2], x[:2] * (1.0 + 1e-3 * np.arange(2))).tolist() == [False, True]
