"""Embeddings of timesteps with each known fault, in float64, by the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fault_calls import assert_same, call_of, faulty, normal

from ldmref.backends.named import AGAIN
from ldmref.locate.faults import embedding
from ldmref.locate.precision import round_to
from ldmref.math.embedding import timestep_embedding

DIM = 6
TIMES = np.array([3.7, 0.0, 251.3])


def waves(angles, flip=True):
    parts = [np.cos(angles), np.sin(angles)]
    return np.concatenate(parts if flip else parts[::-1], axis=1)


def embed(t, period=10000.0, shift=0, flip=True):
    exponents = np.arange(DIM // 2) / (DIM // 2 - shift)
    return waves(np.outer(t, np.exp(-math.log(period) * exponents)), flip)


def of_times(times=TIMES, name="time_proj", **more):
    return call_of(
        "timestep_embedding",
        lambda input, **_: timestep_embedding(input, DIM),
        {"input": np.asarray(times)},
        name=name,
        **(more or {"dim": DIM}),
    )


def test_orders_frequencies_and_periods():
    call = of_times()
    words = "frequency shift 1 instead of 0 (exponents k / (d/2 - 1))"
    assert_same(faulty(embedding.frequency_shift, call), {
        words: embed(TIMES, shift=1), f"{words}, and [sin, cos]": embed(TIMES, shift=1, flip=False),
    })  # fmt: skip
    words = "[sin, cos] instead of [cos, sin]"
    assert_same(faulty(embedding.sine_first, call), {words: embed(TIMES, flip=False)})
    periods = {"1000": 1000.0, "100": 100.0, "100000": 100000.0}
    expected = {f"max_period {x} instead of 10000": embed(TIMES, p) for x, p in periods.items()}
    assert_same(faulty(embedding.other_period, call), expected)
    assert_same(faulty(embedding.other_period, of_times(flip="no", size=DIM, dim=3)), expected)


@pytest.mark.parametrize(("name", "noun"), [
    ("time_proj", "timestep"), (f"time_proj{AGAIN}1", "guidance"), ("a.time_proj", "timestep"),
])  # fmt: skip
def test_changed_times(name, noun):
    t = TIMES
    changed = {
        f"the {noun} is scaled by 1000": 1000.0 * t,
        f"the {noun} is scaled by 1/1000": 0.001 * t,
        f"the {noun} is scaled by 1e6": 1e6 * t,
        f"the sign of the {noun} is reversed": -t,
        f"the {noun} is larger by 1": t + 1.0,
        f"the {noun} is smaller by 1": t - 1.0,
        "the timestep t is 999 - t": 999.0 - t,
        "the timestep t is 1000 - t": 1000.0 - t,
        f"the {noun} is 0": np.zeros(3),
        f"the {noun} is rounded to bfloat16": round_to(t, "bfloat16"),
        f"the {noun} is rounded to float16": round_to(t, "float16"),
        f"the {noun} is rounded to bfloat16 in 0..1": 1000 * round_to(t / 1000, "bfloat16"),
        f"the {noun} is projected twice": embed(t)[:, 0],
    }
    frequencies = np.exp(-math.log(10000.0) * np.arange(DIM // 2) / (DIM // 2))
    expected = {}
    for words, x in changed.items():
        hidden = np.abs(np.outer(x, [*frequencies, *frequencies])) > 4000.0
        expected[words] = np.where(hidden, np.nan, embed(x))
    for form in ("bfloat16", "float16"):
        words = f"the angles of the {noun} are rounded to {form}"
        expected[words] = waves(round_to(np.outer(t, frequencies), form))
        words = f"the {noun}, its frequencies and its angles are rounded to {form}"
        rounded = np.outer(round_to(t, form), round_to(frequencies, form))
        expected[words] = waves(round_to(rounded, form))
    found = faulty(embedding.scaled_timestep, of_times(name=name))
    assert found.keys() == expected.keys()
    for words, right in expected.items():
        known = ~np.isnan(right)
        assert np.array_equal(known, ~np.isnan(found[words])), words
        near = np.isclose(found[words][known], right[known], rtol=0.0, atol=1e-8)
        assert near.all(), words


def test_times_of_float32_have_angles_of_float64():
    """Rounded angles are those of the numbers that are given, not of their products in float32."""
    call = of_times(TIMES.astype(np.float32))
    words = "the angles of the timestep are rounded to float16"
    frequencies = np.exp(-math.log(10000.0) * np.arange(3) / 3)
    angles = round_to(np.outer(TIMES.astype(np.float32).astype(float), frequencies), "float16")
    np.testing.assert_allclose(faulty(embedding.scaled_timestep, call)[words], waves(angles))


def test_embeddings_of_another_width_than_two_halves_are_known():
    wide = np.ones((2, 5))
    call = call_of("timestep_embedding", lambda input: wide, {"input": np.array([1e9, 1e9])})
    assert np.array_equal(embedding._embed_known(call, call.inputs), wide)
    even = call_of("timestep_embedding", lambda input: wide[:, :4], {"input": np.array([1e9, 1.0])})
    unknown = np.isnan(embedding._embed_known(even, even.inputs))
    assert unknown.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("rows", [2, 5, 7])
def test_ids_go_round_the_table(rows):
    table = normal(0, rows, 3)
    ids = np.array([[0, rows - 1, 1], [1, 1, 0]])
    call = call_of("embedding", lambda input, table: table[input], {"input": ids}, {"table": table})
    with np.errstate(all="raise"):
        found = faulty(embedding.shifted_ids, call)
    assert_same(found, {
        "ids are larger by one": np.roll(table, -1, axis=0)[ids],
        "ids are smaller by one": np.roll(table, 1, axis=0)[ids],
    })  # fmt: skip
