"""Masks of a batch of texts that ports change, against attention query by query."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, attention, call_of, normal

from ldmref.locate.faults import masks

N, HEADS, LENGTH, D = 2, 3, 4, 3
OFF = -1e5  # a bias that hides


def of_attention(bias=None, n=N, queries=LENGTH, **attributes):
    inputs = {"input": normal(0, n, HEADS, queries, D)}
    inputs |= {role: normal(i, n, HEADS, LENGTH, D) for i, role in enumerate(("k", "v"), 1)}
    inputs |= {} if bias is None else {"bias": bias}
    return call_of("attention", attention, inputs, **attributes)


def seen_by(call, seen, rest=0.0, alike=0.0):
    """Attend to the keys that are seen, and to all alike where there are none."""
    q, k, v = (call.inputs[role] for role in ("input", "k", "v"))
    shape = (*q.shape[:3], k.shape[2])
    scale = call.attributes.get("scale", 1.0 / np.sqrt(D))
    seen, rest = np.broadcast_to(seen, shape), np.broadcast_to(rest, shape)
    y = np.zeros_like(q)
    for n, h, i in np.ndindex(*q.shape[:3]):
        keys = seen[n, h, i].copy()
        if call.attributes.get("causal"):
            keys[i + 1 :] = False
        scores = np.exp(scale * k[n, h, keys] @ q[n, h, i] + rest[n, h, i, keys])
        y[n, h, i] = (
            scores @ v[n, h, keys] / scores.sum() if keys.any() else alike * v[n, h].mean(0)
        )
    return y


def found_in(variants, call):
    return {variant.text: variant.change(call, call.inputs) for variant in variants}


def spread(words, call, seen, rest=0.0):
    """Return what is expected of a mask that leaves no key to some queries."""
    return {
        f"{words}, and queries without keys return zeros": seen_by(call, seen, rest),
        f"{words}, and queries without keys read all alike": seen_by(call, seen, rest, 1.0),
    }


ROWS = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
SEEN = ROWS[:, None, None]


def changed(seen):
    """Return the masks that ports make of one, by their words; of equal words the last."""
    names = {
        "the mask is one token late": np.concatenate([seen[..., -1:], seen[..., :-1]], axis=-1),
        "the mask is one token early": np.concatenate([seen[..., 1:], seen[..., :1]], axis=-1),
    }
    for shift in range(1, len(seen)):
        names["each row has the mask of another row"] = np.concatenate(
            [seen[-shift:], seen[:-shift]]
        )
    if len(seen) > 2:
        for row in range(len(seen)):
            names[f"all rows have the mask of row {row}"] = np.stack([seen[row]] * len(seen))
    return names


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_what_ports_make_of_a_mask(n):
    seen = np.random.default_rng(0).random((n, 1, 1, 5)) < 0.5
    found = [*masks.changes_of_mask(seen)]
    expected = {"the mask is inverted": ~seen, **changed(seen)}
    assert [words for words, _ in found] == [
        "the mask is inverted",
        "the mask is one token late",
        "the mask is one token early",
        *["each row has the mask of another row"] * (n - 1),
        *[f"all rows have the mask of row {i}" for i in range(n if n > 2 else 0)],
    ]
    for words, mask in expected.items():
        assert np.array_equal(dict(found)[words], mask)
    shifts = [x for words, x in found if words.startswith("each row")]
    for shift, x in enumerate(shifts, 1):
        assert np.array_equal(x, seen[(np.arange(n) - shift) % n])


@pytest.mark.parametrize(("least", "rows"), [(1, 3), (2, 3), (3, 3), (4, 0)])
def test_one_row_may_be_that_of_all_from_a_number_on(least, rows):
    found = [*masks.masks_of_other_rows(np.eye(3), least)]
    assert len(found) == 2 + rows
    assert all(np.array_equal(x, np.eye(3)[[i] * 3]) for i, (_, x) in enumerate(found[2:]))


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("lowest", [OFF, -1e4, -np.inf])
def test_a_mask_in_a_bias_is_changed_and_the_rest_stays(scale, lowest):
    rest = np.where(SEEN, normal(5, 1, HEADS, LENGTH, LENGTH), 0.0)
    bias = np.where(SEEN, rest, lowest)
    more = {} if scale is None else {"scale": scale}
    call = of_attention(bias, **more)
    found = found_in(masks.other_masks(call), call)
    expected = {"the mask is inverted": seen_by(call, ~SEEN, rest)}
    for words, mask in changed(SEEN).items():
        expected[words] = seen_by(call, mask, rest)
    assert_same(found, expected)


def test_without_a_hidden_key_there_is_no_mask():
    assert not [*masks.other_masks(of_attention())]
    assert not [*masks.other_masks(of_attention(np.full((N, 1, 1, LENGTH), -9999.0)))]
    bias = np.full((N, 1, 1, LENGTH), -9999.0)
    bias[0, 0, 0, 3] = -1e4
    assert [*masks.other_masks(of_attention(bias))]


def test_a_mask_that_leaves_no_key_to_some_queries():
    seen = SEEN.copy()
    seen[1] = False
    call = of_attention(np.where(seen, 0.0, OFF))
    found = found_in(masks.other_masks(call), call)
    assert [*found][:2] == [*spread("the mask leaves no key to some", call, seen)]
    expected = spread("the mask leaves no key to some", call, seen)
    expected["the mask is inverted"] = seen_by(call, ~seen)
    for words, mask in changed(seen).items():
        expected |= spread(words, call, mask)
    assert_same(found, expected)


def test_causal_queries_may_see_no_key_of_a_mask():
    mask = np.array([[0, 1, 1, 1], [1, 1, 1, 0]])
    seen = mask.astype(bool)[:, None, None]
    call = of_attention(causal=True)
    found = found_in(masks.with_mask(call, mask), call)
    expected = spread("keys of padding are hidden", call, seen)
    expected |= spread("the mask is inverted", call, ~seen)
    for words, other in changed(seen).items():
        has_first = other[..., 0].all()
        expected |= {words: seen_by(call, other)} if has_first else spread(words, call, other)
    assert_same(found, expected)


def test_a_mask_of_a_text_is_added_where_it_is_not_needed():
    call = of_attention()
    found = found_in(masks.with_mask(call, 2 * ROWS), call)
    expected = {"keys of padding are hidden": seen_by(call, SEEN)}
    expected["the mask is inverted"] = seen_by(call, ~SEEN)
    expected |= {words: seen_by(call, mask) for words, mask in changed(SEEN).items()}
    assert_same(found, expected)


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((N, LENGTH)),
        ROWS[:1],
        ROWS[:, :3],
        ROWS[0],
        ROWS[:, None],
        np.zeros((0, LENGTH)),
    ],
)
def test_masks_that_hide_nothing_or_are_of_other_tokens(mask):
    assert [*masks.with_mask(of_attention(), ROWS)]
    assert not [*masks.with_mask(of_attention(), mask)]
    assert not [*masks.with_mask(of_attention(np.zeros((N, 1, 1, LENGTH))), ROWS)]


IDS = np.array([[1, 5, 9, 0], [1, 9, 0, 0]])
CONFIG = SimpleNamespace(model_type="t5", eos_token_id=9)


@pytest.mark.parametrize("biased", [False, True])
def test_a_mask_of_padding_that_is_not_wanted_and_wrong(biased):
    rest = normal(6, 1, HEADS, LENGTH, LENGTH) if biased else None
    call = of_attention(rest)
    found = found_in(masks.with_wrong_padding_mask(call, IDS, CONFIG), call)
    expected = {"the mask is inverted": ~SEEN, **changed(SEEN)}
    added = 0.0 if rest is None else rest
    begin = "a padding mask that should not be there: "
    assert_same(found, {begin + x: seen_by(call, mask, added) for x, mask in expected.items()})


@pytest.mark.parametrize("ids", [IDS[:1], IDS[:, :3], np.array([[1, 5, 6, 9]] * 2)])
def test_texts_without_padding_or_of_another_size(ids):
    assert not [*masks.with_wrong_padding_mask(of_attention(), ids, CONFIG)]


@pytest.mark.parametrize("queries", [1, 3])
def test_queries_of_another_number_than_keys(queries):
    call = of_attention(queries=queries)
    found = found_in(masks.with_mask(call, ROWS), call)
    right = seen_by(call, SEEN)
    np.testing.assert_allclose(found["keys of padding are hidden"], right, rtol=1e-12)


def test_scores_of_a_query_may_be_far_from_those_of_others():
    """The softmax is that of differences, so what is added to all scores of a query is nothing."""
    near = np.broadcast_to(np.where(SEEN, 0.0, OFF), (N, 1, LENGTH, LENGTH))
    far = near + np.where(SEEN, 2000.0 * np.array([-1.0, 0.0, 1.0, 2.0])[:, None], 0.0)
    call, moved = of_attention(near), of_attention(far)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = found_in(masks.other_masks(moved), moved)
    expected = found_in(masks.other_masks(call), call)
    words = "each row has the mask of another row"  # the first sees fewer of its keys
    np.testing.assert_allclose(found[words][0], expected[words][0], rtol=1e-9)
