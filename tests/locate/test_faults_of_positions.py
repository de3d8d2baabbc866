"""What each known fault of rotary positions and of embeddings computes, by formulas of its own."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from fault_calls import assert_same, call_of, faulty, normal

from ldmref.backends.named import AGAIN
from ldmref.locate.faults import embedding, rotary
from ldmref.locate.recorded.precision import round_to
from ldmref.math.embedding import timestep_embedding

# -- rotary positions -----------------------------------------------------------------------------

DIMS = (4, 2, 6)
IMAGE = np.array([[0, 0, 0]] * 3 + [[0, r, c] for r in range(2) for c in range(3)], float)

WITHIN = np.array([0.0, 1.0, 1.0])  # rows and columns


def angles(positions, dims=DIMS, theta=10000.0):
    return np.concatenate(
        [positions[:, i : i + 1] * theta ** (-np.arange(0, d, 2) / d) for i, d in enumerate(dims)],
        axis=1,
    )


def rotate(x, a, halves=False):
    """Turn the plane of each pair of channels."""
    n = x.shape[-1] // 2
    first, second = (
        (slice(0, n), slice(n, None)) if halves else (slice(0, None, 2), slice(1, None, 2))
    )
    y = np.empty_like(x)
    y[..., first] = x[..., first] * np.cos(a) - x[..., second] * np.sin(a)
    y[..., second] = x[..., second] * np.cos(a) + x[..., first] * np.sin(a)
    return y


def of_rotation(kind="rotate", positions=IMAGE, dims=DIMS, **more):
    def compute(input, positions, dims, theta=10000.0):
        return rotate(input, angles(positions, dims, theta), kind == "rotate_halves")

    x = normal(0, 1, 2, len(positions), sum(dims))
    return call_of(kind, compute, {"input": x, "positions": positions}, dims=dims, **more)


@pytest.mark.parametrize("kind", ["rotate", "rotate_halves"])
@pytest.mark.parametrize("faults", [rotary.other_layout, rotary.other_frequencies])
def test_faults_of_rotations_are_those_of_each_row(kind, faults):
    """Positions (n, l, axes) of rows of a batch, and those of one row, (l, axes)."""
    positions = np.stack([IMAGE, IMAGE[::-1] + 1.0, 2.0 * IMAGE])

    def of_rows(chosen):
        def compute(input, positions, dims, theta=10000.0):
            a = np.concatenate(
                [
                    p[..., i : i + 1] * theta ** (-2.0 * np.arange(d // 2) / d)
                    for i, (p, d) in enumerate(zip([positions] * len(dims), dims, strict=True))
                ],
                axis=-1,
            )
            return rotate(input, a[:, None] if a.ndim == 3 else a, kind == "rotate_halves")

        x = normal(0, 3, 2, len(IMAGE), sum(DIMS))
        of_one = chosen is not None
        inputs = {
            "input": x[chosen : chosen + 1] if of_one else x,
            "positions": positions[chosen] if of_one else positions,
        }
        return faulty(faults, call_of(kind, compute, inputs, dims=DIMS))

    together = of_rows(None)
    alone = [of_rows(i) for i in range(3)]
    assert together
    for text, found in together.items():
        np.testing.assert_allclose(found, np.concatenate([x[text] for x in alone]), atol=1e-12)


@pytest.mark.parametrize("kind", ["rotate", "rotate_halves"])
def test_rotations_of_other_pairs_and_angles(kind):
    call = of_rotation(kind)
    halves = kind == "rotate_halves"
    x, a = call.inputs["input"], angles(IMAGE)
    changed = {
        "sine and cosine are swapped in the rotation": np.pi / 2 - a,
        "the rotation has the other direction": -a,
        "the rotation is missing": 0 * a,
        "the angles of the rotation are rounded to bfloat16": round_to(a, "bfloat16"),
        "the angles of the rotation are rounded to float16": round_to(a, "float16"),
    }
    expected = {text: rotate(x, b, halves) for text, b in changed.items()}
    k = x.shape[-1] // 2
    pairs = [(i, i + k) if halves else (2 * i, 2 * i + 1) for i in range(k)]
    added, mixed = x.copy(), x.copy()
    for i, (one, two) in enumerate(pairs):
        added[..., one] = x[..., one] * np.cos(a[:, i]) + x[..., two] * np.sin(a[:, i])
        added[..., two] = x[..., one] * np.sin(a[:, i]) + x[..., two] * np.cos(a[:, i])
    others = [(2 * i, 2 * i + 1) if halves else (i, i + k) for i in range(k)]
    of_channel = {c: i for i, pair in enumerate(pairs) for c in pair}
    for one, two in others:
        by, other_by = a[:, of_channel[one]], a[:, of_channel[two]]
        mixed[..., one] = x[..., one] * np.cos(by) - x[..., two] * np.sin(by)
        mixed[..., two] = x[..., two] * np.cos(other_by) + x[..., one] * np.sin(other_by)
    expected["the rotation has no minus: it adds both products of a pair"] = added
    names = ["halves of a head", "neighbouring channels"]
    wrong, right = names[::-1] if halves else names
    expected[f"{wrong} are rotated by the angles of {right}"] = mixed
    if halves:
        text = "neighbouring channels are rotated instead of halves of a head"
        expected[text] = rotate(x, a)
    else:
        expected["halves of a head are rotated instead of neighbouring channels"] = rotate(
            x, a, True
        )
        parts = zip(
            (x[..., :4], x[..., 4:6], x[..., 6:]), (a[:, :2], a[:, 2:3], a[:, 3:]), strict=True
        )
        of_axes = [rotate(y, b, True) for y, b in parts]
        text = "halves of each axis are rotated instead of neighbouring channels"
        expected[text] = np.concatenate(of_axes, axis=-1)
    assert_same(faulty(rotary.other_layout, call), expected)


def test_rotations_of_other_frequencies():
    call = of_rotation(theta=256.0)
    x = call.inputs["input"]
    thetas = (100.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 1e5, 5e5, 1e6, 5e6)
    expected = {
        f"theta {theta:g} instead of 256": rotate(x, angles(IMAGE, theta=theta)) for theta in thetas
    }
    for dims in {*permutations(DIMS), (4, 4, 4)} - {DIMS}:
        text = f"axes of {dims[0]}, {dims[1]}, {dims[2]} channels instead of 4, 2, 6"
        expected[text] = rotate(x, angles(IMAGE, dims, 256.0))
    assert_same(faulty(rotary.other_frequencies, call), expected)
    uneven = faulty(rotary.other_frequencies, of_rotation(dims=(2, 2, 4)))  # 8 channels, 3 axes
    assert {text for text in uneven if text.startswith("axes")} == {
        "axes of 2, 4, 2 channels instead of 2, 2, 4",
        "axes of 4, 2, 2 channels instead of 2, 2, 4",
    }
    odd = faulty(rotary.other_frequencies, of_rotation(dims=(4, 2), positions=IMAGE[:, 1:]))
    assert "axes of 3, 3 channels instead of 4, 2" not in odd


def test_other_positions_of_an_image():
    call = of_rotation()
    x = call.inputs["input"]
    image = IMAGE[3:]
    text = np.zeros((3, 3))
    counted = {axis: np.where(np.arange(3) == axis, np.arange(3)[:, None], 0.0) for axis in (0, 2)}
    positions = {
        "all positions are larger by 1": IMAGE + 1,
        "the positions are twice as large, or the rotation is applied twice": 2 * IMAGE,
        "the positions are half as large": IMAGE / 2,
        "the positions are rounded to bfloat16": IMAGE,
        "the positions are rounded to float16": IMAGE,
        "rows and columns count from 1": np.concatenate([text, image + WITHIN]),
        "rows and columns count from the middle": np.concatenate([text, image - WITHIN]),
        "rows and columns are exchanged": IMAGE[:, [0, 2, 1]],
        "the axes of the positions are reversed": IMAGE[:, ::-1],
        "axes 0 and 1 of the positions are exchanged": IMAGE[:, [1, 0, 2]],
        "the positions of the text are 0": IMAGE,
        "the tokens of the text count on the first axis": np.concatenate([counted[0], image]),
        "the tokens of the text count on the last axis": np.concatenate([counted[2], image]),
        "the positions have the image before the text": np.concatenate([image, text]),
        "the tokens count on one axis": np.stack([np.arange(9.0), *np.zeros((2, 9))], axis=1),
        "positions from 2 on start again at 0: a table of 2": IMAGE % 2,
        "positions from 2 on are 1: a table of 2": np.minimum(IMAGE, 1),
    }
    expected = {words: rotate(x, angles(p)) for words, p in positions.items()}
    assert_same(faulty(rotary.other_positions, call), expected)
    assert np.array_equal(call.inputs["positions"], IMAGE)  # which no fault changes in place


def test_positions_of_each_row():
    positions = np.array([[0.0, 1.0, 1.5], [1.0, 0.0, 0.5]])
    inputs = {"input": np.zeros((2, 3, 1)), "positions": positions[:, :, None]}
    call = call_of("rotate", lambda input, positions: positions, inputs)
    found = faulty(rotary.other_positions, call)
    same = found["every row has the positions of the first"]
    assert same[..., 0].tolist() == [positions[0].tolist()] * 2
    assert "rows and columns are exchanged" not in found
    assert np.array_equal(found["the positions are rounded to float16"], positions[:, :, None])


def test_places_of_each_row():
    """On three axes, of which the first counts the tokens of a sequence and 0 is padding."""
    positions = np.array([[[1.0, 0, 0], [4.0, 0, 5], [4.0, 2, 0], [0.0, 0, 0]]])
    inputs = {"input": np.zeros((1, 4, 3)), "positions": positions}
    call = call_of("rotate", lambda input, positions: positions, inputs)
    found = faulty(rotary.other_positions, call)
    assert found["rows and columns are exchanged"].tolist() == positions[:, :, [0, 2, 1]].tolist()
    turned = found["the axes of the positions are reversed"]
    assert turned.tolist() == positions[:, :, ::-1].tolist()
    counted = found["the places in the sequence count from 0"]
    assert counted[0].tolist() == [[0, 0, 0], [3, 0, 5], [3, 2, 0], [0, 0, 0]]
    assert np.array_equal(call.inputs["positions"], positions)


# -- embeddings -----------------------------------------------------------------------------------

DIM = 8


def embed(t, period=10000.0, shift=0, flip=True):
    half = DIM // 2
    a = np.outer(t, np.exp(-math.log(period) * np.arange(half) / (half - shift)))
    parts = [np.cos(a), np.sin(a)]
    return np.concatenate(parts if flip else parts[::-1], axis=1)


def of_times(times=(437.3, 3.0), name="time_proj"):
    return call_of(
        "timestep_embedding",
        lambda input, **_: timestep_embedding(input, DIM),
        {"input": np.array(times)},
        name=name,
        dim=DIM,
    )


def assert_near(found, expected):
    """Compare embeddings, whose angles are those of float32."""
    assert found.keys() == expected.keys()
    for text, right in expected.items():
        known = ~np.isnan(found[text])
        np.testing.assert_allclose(found[text][known], right[known], atol=1e-3, err_msg=text)


def test_other_embeddings_of_times():
    call = of_times()
    t = call.inputs["input"]
    assert_near(
        faulty(embedding.sine_first, call),
        {"[sin, cos] instead of [cos, sin]": embed(t, flip=False)},
    )
    text = "frequency shift 1 instead of 0 (exponents k / (d/2 - 1))"
    expected = {text: embed(t, shift=1), f"{text}, and [sin, cos]": embed(t, shift=1, flip=False)}
    assert_near(faulty(embedding.frequency_shift, call), expected)
    periods = (1000.0, 100.0, 100000.0)
    expected = {f"max_period {p:g} instead of 10000": embed(t, p) for p in periods}
    assert_near(faulty(embedding.other_period, call), expected)


@pytest.mark.parametrize(("name", "noun"), [("p", "timestep"), (f"p{AGAIN}1", "guidance")])
def test_times_that_are_changed(name, noun):
    call = of_times(name=name)
    t = call.inputs["input"]
    changed = {
        f"the {noun} is scaled by 1000": 1000 * t,
        f"the {noun} is scaled by 1/1000": t / 1000,
        f"the {noun} is scaled by 1e6": 1e6 * t,
        f"the sign of the {noun} is reversed": -t,
        f"the {noun} is larger by 1": t + 1,
        f"the {noun} is smaller by 1": t - 1,
        "the timestep t is 999 - t": 999 - t,
        "the timestep t is 1000 - t": 1000 - t,
        f"the {noun} is 0": 0 * t,
        f"the {noun} is rounded to bfloat16": round_to(t, "bfloat16"),
        f"the {noun} is rounded to float16": round_to(t, "float16"),
        f"the {noun} is rounded to bfloat16 in 0..1": 1000 * round_to(t / 1000, "bfloat16"),
        f"the {noun} is projected twice": embed(t)[:, 0],
    }
    expected = {text: embed(x) for text, x in changed.items()}
    frequencies = np.exp(-math.log(10000.0) * np.arange(4) / 4)
    for form in ("bfloat16", "float16"):
        a = round_to(np.outer(t, frequencies), form)
        text = f"the angles of the {noun} are rounded to {form}"
        expected[text] = np.concatenate([np.cos(a), np.sin(a)], axis=1)
        a = round_to(np.outer(round_to(t, form), round_to(frequencies, form)), form)
        text = f"the {noun}, its frequencies and its angles are rounded to {form}"
        expected[text] = np.concatenate([np.cos(a), np.sin(a)], axis=1)
    found = faulty(embedding.scaled_timestep, call)
    assert_near(found, expected)
    # 437 300 is known from the third frequency on, 3 000 from the first.
    assert np.isnan(found[f"the {noun} is scaled by 1000"]).tolist() == [
        [True, True, True, False] * 2,
        [False] * 8,
    ]


def test_ids_that_are_shifted():
    table = normal(0, 5, 2)
    ids = np.array([[0, 4, 2]])
    call = call_of("embedding", lambda input, table: table[input], {"input": ids}, {"table": table})
    expected = {
        "ids are larger by one": table[[[1, 0, 3]]],
        "ids are smaller by one": table[[[4, 3, 1]]],
    }
    assert_same(faulty(embedding.shifted_ids, call), expected)
