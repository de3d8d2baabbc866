"""What each known fault of attention computes, by formulas of its own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, attention, call_of, faulty, normal

from ldmref.locate.faults import attention as faults
from ldmref.models.layers import MASKED

N, HEADS, LENGTH, D = 2, 3, 5, 4


def of_attention(keys=LENGTH, **attributes):
    bias = attributes.pop("bias", None)
    q = normal(0, N, HEADS, LENGTH, D)
    k, v = normal(1, N, HEADS, keys, D), normal(2, N, HEADS, keys, D)
    inputs = {"input": q, "k": k, "v": v} | ({} if bias is None else {"bias": bias})
    return call_of("attention", attention, inputs, **attributes)


def attended(call, **changes):
    return attention(**{**call.attributes, **call.inputs, **changes})


# -- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_softmax_along_each_axis(causal, biased):
    call = of_attention()
    q, k, v = call.inputs.values()
    bias = normal(3, 1, HEADS, LENGTH, LENGTH) if biased else None
    scores = 0.3 * np.einsum("nhid,nhjd->nhij", q, k) + (0.0 if bias is None else bias)
    if causal:
        scores[:, :, ~np.tri(LENGTH, dtype=bool)] = -np.inf
    for axis in (-1,) if causal else (-1, 1):  # no head sees the future
        weights = np.exp(scores) / np.exp(scores).sum(axis=axis, keepdims=True)
        found = faults.attend(q, k, v, 0.3, causal, axis, bias=bias)
        np.testing.assert_allclose(found, np.einsum("nhij,nhjd->nhid", weights, v), rtol=1e-11)
    padding = np.zeros((N, LENGTH), bool)
    padding[0, 3:], padding[1, 2] = True, True
    found = faults.attend(q, k, v, 0.3, padding=padding)
    for n in range(N):
        seen = ~padding[n]
        one = slice(n, n + 1)
        right = attention(q[one], k[one][:, :, seen], v[one][:, :, seen], 0.3)
        np.testing.assert_allclose(found[one], right, rtol=1e-11)


def test_a_softmax_of_large_scores_is_that_of_their_differences():
    """The scores of a query may lie far above those of another, and far above what exp holds."""
    q, k, v = of_attention().inputs.values()
    far = 2000.0 * np.array([-1.0, 0.0, 1.0, 2.0, -2.0])[:, None]
    found = faults.attend(q, k, v, 0.3, bias=normal(3, 1, 1, LENGTH, LENGTH) + far)
    near = faults.attend(q, k, v, 0.3, bias=normal(3, 1, 1, LENGTH, LENGTH))
    np.testing.assert_allclose(found, near, rtol=1e-9)


def test_inputs_that_are_exchanged():
    call = of_attention()
    q, k, v = call.inputs.values()
    expected = {
        "q and k are swapped": attention(k, q, v),
        "q and v are swapped": attention(v, k, q),
        "k and v are swapped": attention(q, v, k),
    }
    assert_same(faulty(faults.swapped_inputs, call), expected)
    assert set(faulty(faults.swapped_inputs, of_attention(keys=7))) == {"k and v are swapped"}


def test_other_scales():
    call = of_attention()
    scales = {
        "the scale 1/sqrt(d) is missing": 1.0,
        "scale 1/d = 0.25 instead of 1/sqrt(d)": 1.0 / D,
        "scale 1/sqrt(heads d) instead of 1/sqrt(d)": (HEADS * D) ** -0.5,
        "scale 1/sqrt(heads) instead of 1/sqrt(d)": HEADS**-0.5,
        "the scale is applied twice (1/d)": 1.0 / D,
        "scale sqrt(d) instead of 1/sqrt(d)": D**0.5,
    }
    right = {text: attended(call, scale=scale) for text, scale in scales.items()}
    assert_same(faulty(faults.other_scale, call), right)
    one = of_attention(scale=1.0)
    text = "the scores are divided by sqrt(d), which they should not be"
    assert_same(faulty(faults.other_scale, one), {text: attended(one, scale=D**-0.5)})
    own = of_attention(scale=0.3)
    expected = {
        "scale 1/sqrt(d) instead of 0.3": attended(own, scale=D**-0.5),
        "the scale 0.3 is missing": attended(own, scale=1.0),
    }
    assert_same(faulty(faults.other_scale, own), expected)


def test_other_masks_and_axes():
    plain, causal = of_attention(), of_attention(causal=True)
    seen = np.tril(np.ones((plain.inputs["input"].shape[2], plain.inputs["k"].shape[2])), 1) > 0
    late = of_attention(bias=np.where(seen, 0.0, MASKED)[None, None])
    expected = {
        "the causal mask is missing": attended(plain),
        "a token sees the next one: the causal mask is one token late": attended(late),
    }
    assert_same(faulty(faults.other_mask, causal), expected)
    assert_same(
        faulty(faults.other_mask, plain),
        {"a causal mask that should not be there": attended(causal)},
    )
    assert not faulty(faults.other_mask, of_attention(keys=7))  # queries of another sequence
    q, k, v = plain.inputs.values()
    scores = np.exp(np.einsum("nhid,nhjd->nhij", q, k) / math.sqrt(D))
    expected = {
        text: np.einsum("nhij,nhjd->nhid", scores / scores.sum(axis=axis, keepdims=True), v)
        for text, axis in (("softmax over the queries", 2), ("softmax over the heads", 1))
    }
    assert_same(faulty(faults.other_softmax, plain), expected)


def merge(x):
    """Return (n, l, heads d) of (n, heads, l, d)."""
    n, heads, length, d = x.shape
    return np.moveaxis(x, 1, 2).reshape(n, length, heads * d)


def split(x, heads):
    return np.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)


def test_other_numbers_of_heads():
    call = of_attention()
    parts = [merge(x) for x in call.inputs.values()]
    expected = {}
    for count in (4, 1, 2, 6, 12):  # that of `attention_head_dim` first
        text = f"{count} heads of width {12 // count} instead of 3 of 4"
        expected[text] = split(merge(attention(*(split(x, count) for x in parts))), HEADS)
    found = faulty(faults.other_heads, call)
    assert_same(found, expected)
    assert [*found] == [*expected]
    scaled = of_attention(scale=0.3)
    one = attention(*(split(merge(x), 1) for x in scaled.inputs.values()), scale=0.3)
    found = faulty(faults.other_heads, scaled)["1 heads of width 12 instead of 3 of 4"]
    np.testing.assert_allclose(found, split(merge(one), HEADS), rtol=1e-11)
    of_each = of_attention(bias=np.zeros((1, HEADS, LENGTH, LENGTH)))
    assert not faulty(faults.other_heads, of_each)
    mask = of_attention(bias=normal(3, N, 1, 1, LENGTH))
    one = attention(*(split(x, 1) for x in parts), bias=mask.inputs["bias"])
    found = faulty(faults.other_heads, mask)["1 heads of width 12 instead of 3 of 4"]
    np.testing.assert_allclose(found, split(merge(one), HEADS), rtol=1e-11)
    wide = {name: normal(i, 1, 1, 2, 128) for i, name in enumerate(("input", "k", "v"))}
    found = faulty(faults.other_heads, call_of("attention", attention, wide))
    assert {int(text.split()[0]) for text in found} == {2, 4, 8, 16, 32, 64}


@pytest.mark.parametrize(
    ("heads", "queries", "any_number"),
    [(1, LENGTH, True), (1, 1, True), (2, 1, False), (2, LENGTH, False)],
)
def test_heads_with_a_bias_of_their_own_have_their_number(heads, queries, any_number):
    x = {name: normal(i, N, 2, LENGTH, D) for i, name in enumerate(("input", "k", "v"))}
    call = call_of("attention", attention, {**x, "bias": normal(3, 1, heads, queries, LENGTH)})
    assert bool(faulty(faults.other_heads, call)) == any_number


@pytest.mark.parametrize("width", [63, 64, 128, 130])
def test_up_to_64_heads_are_tried(width):
    x = {name: normal(i, 1, 1, 2, width) for i, name in enumerate(("input", "k", "v"))}
    found = faulty(faults.other_heads, call_of("attention", attention, x))
    numbers = {int(text.split()[0]) for text in found}
    assert numbers == {n for n in range(2, 65) if width % n == 0}


def test_heads_that_are_permuted():
    call = of_attention()
    parts = [merge(x) for x in call.inputs.values()]
    shape = (N, HEADS, LENGTH, D)

    def channels(x):
        """Split (d, heads) instead of (heads, d)."""
        return np.einsum("nldh->nhld", x.reshape(N, LENGTH, D, HEADS))

    def back(y):
        return split(np.einsum("nhld->nldh", y).reshape(N, LENGTH, -1), HEADS)

    def merged(y):
        return split(y.reshape(N, LENGTH, -1), HEADS)

    mixed = attention(*map(channels, parts))
    rows = attention(*(x.reshape(shape) for x in parts))
    expected = {
        "heads permuted: split as (d, heads)": back(mixed),
        "heads permuted: split as (d, heads), merged as (heads, d)": mixed,
        "heads permuted: split as (heads, l) instead of (l, heads)": rows,
        "heads permuted: merged as (heads, l) instead of (l, heads)": merged(attended(call)),
        "heads permuted: split and merged as (heads, l) instead of (l, heads)": merged(rows),
    }
    assert_same(faulty(faults.permuted_heads, call), expected)


def test_biases_of_positions():
    bias = normal(3, 1, HEADS, LENGTH, LENGTH)
    call = of_attention(bias=bias)
    name = "the bias of positions"
    expected = {
        f"{name} is missing": attended(call, bias=0 * bias),
        f"{name} is applied twice": attended(call, bias=bias + bias),
        f"{name} has the other sign": attended(call, bias=-bias),
        f"{name} is scaled as the scores are": attended(call, bias=bias / math.sqrt(D)),
        f"{name} is that of the query from the key": attended(
            call, bias=np.einsum("nhij->nhji", bias)
        ),
    }
    assert_same(faulty(faults.other_bias, call), expected)
    assert not faulty(faults.other_bias, of_attention())
    same = of_attention(bias=bias[:, :1], scale=1.0)
    assert set(faulty(faults.other_bias, same)) == {
        "the bias is missing",
        "the bias is applied twice",
        "the bias has the other sign",
    }


def test_masks_that_hide_keys():
    hidden = np.zeros((N, 1, 1, LENGTH), bool)
    hidden[0, ..., 3:] = True  # of the second example, every key is seen
    call = of_attention(bias=np.where(hidden, MASKED, 0.0))
    plain = attended(call, bias=None)
    q, k, v = (call.inputs[x] for x in ("input", "k", "v"))
    found = faulty(faults.other_bias, call)
    alike = "the mask is inverted, and queries without keys attend to all alike"
    twice = "the mask is applied twice, the second time to the results of hidden queries"
    assert set(found) == {
        "the padding mask is missing",
        "the mask is inverted",
        alike,
        "the mask is added as 1 and 0, which hides nothing",
        twice,
    }
    np.testing.assert_allclose(found["the padding mask is missing"], plain, rtol=1e-11)
    only = attention(q[:1], k[:1, :, 3:], v[:1, :, 3:])
    for text in ("the mask is inverted", alike):
        np.testing.assert_allclose(found[text][:1], only, rtol=1e-11)
    mean = np.broadcast_to(v[1:].mean(axis=2, keepdims=True), only.shape)
    np.testing.assert_allclose(found[alike][1:], mean, rtol=1e-11)
    ones = attended(call, bias=np.where(hidden, 0.0, 1.0))
    hint = found["the mask is added as 1 and 0, which hides nothing"]
    np.testing.assert_allclose(hint, ones, rtol=1e-11)
    zeroed = attended(call)
    zeroed[0, :, 3:] = 0.0
    np.testing.assert_allclose(found[twice], zeroed, rtol=1e-11)
    other = of_attention(keys=7, bias=np.where(np.arange(7) > 4, MASKED, 0.0)[None, None, None])
    assert twice not in faulty(faults.other_bias, other)


def test_masks_of_each_query_and_head_are_inverted():
    """Queries of which every key was seen see none, or all alike."""
    hidden = np.random.default_rng(4).random((1, HEADS, LENGTH, LENGTH)) < 0.4
    hidden[0, 1, 2] = False
    call = of_attention(bias=np.where(hidden, MASKED, 0.0))
    q, k, v = (call.inputs[x] for x in ("input", "k", "v"))
    found = faulty(faults.other_bias, call)
    for n, h, i in np.ndindex(N, HEADS, LENGTH):
        seen = hidden[0, h, i]
        keys = seen if seen.any() else ~seen
        scores = np.exp(k[n, h, keys] @ q[n, h, i] / math.sqrt(D))
        right = scores @ v[n, h, keys] / scores.sum()
        alike = right if seen.any() else v[n, h].mean(axis=0)
        text = "the mask is inverted"
        np.testing.assert_allclose(found[text][n, h, i], right, rtol=1e-6)
        text += ", and queries without keys attend to all alike"
        np.testing.assert_allclose(found[text][n, h, i], alike, rtol=1e-11)


def test_what_remains_of_a_bias_without_its_mask():
    bias = np.array([[[[0.5, MASKED + 2.0, -1e4, -9999.0, -np.inf]]]])
    changes = faults.changes_of_bias(bias, 0.5)
    unmasked = changes["the padding mask is missing"](bias)
    np.testing.assert_allclose(unmasked, [[[[0.5, 2.0, 0.0, -9999.0, 0.0]]]], atol=1e-10 * -MASKED)
    double = changes["the bias is applied twice"](bias)
    assert double.tolist() == [[[[1.0, MASKED + 2.0, -1e4, -19998.0, -np.inf]]]]
    assert changes["the bias is scaled as the scores are"](bias)[0, 0, 0, 0] == 0.25
    seen = changes["the mask is inverted"](bias) <= faults.HIDDEN
    assert seen[0, 0, 0].tolist() == [True, False, False, True, False]
    assert "the padding mask is missing" not in faults.changes_of_bias(bias[..., :1], 0.5)


IDS = np.array([[1, 7, 9, 0, 0], [1, 7, 8, 7, 9]])
T5 = SimpleNamespace(model_type="t5", eos_token_id=9)


def test_the_padding_of_a_text():
    found = faults.find_padding(IDS, T5)
    assert found.tolist() == [[False] * 3 + [True] * 2, [False] * 5]
    clip = SimpleNamespace(model_type="clip", eos_token_id=2)  # the largest id
    ids = np.array([[1, 5, 9, 9, 9], [1, 9, 3, 3, 3], [9, 9, 9, 9, 9], [1, 2, 3, 4, 5]])
    assert faults.end_ids(clip, ids).tolist() == [9, 9, 9, 5]
    assert faults.find_padding(ids, clip).astype(int).tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 1, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
    ]
    other = SimpleNamespace(model_type="t5", eos_token_id=2)
    assert faults.end_ids(other, ids).tolist() == [9, 3, 9, 2]  # the last of a text without one
    assert faults.end_ids(SimpleNamespace(), ids).tolist() == [9, 9, 9, 5]


def test_padding_masks_that_should_not_be_there():
    hidden = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]], bool)

    def variants(call, ids=IDS, config=T5):
        found = faults.with_padding_mask(call, ids, config)
        return {x.text: x.change(call, call.inputs) for x in found}

    plain, causal = of_attention(), of_attention(causal=True)
    text = "a padding mask that should not be there"
    over = [hidden & (np.arange(5) > 2) & (IDS == 0), hidden]
    found = variants(plain)
    assert list(found) == [text, f"{text}, which hides the end token also"]
    for (_, got), mask in zip(found.items(), over, strict=True):
        right = attended(plain, bias=np.where(mask, -1e9, 0.0)[:, None, None])
        np.testing.assert_allclose(got, right, rtol=1e-9)
    found = variants(causal)
    instead = "a padding mask instead of the causal one"
    assert set(found) == {
        text,
        instead,
        f"{text}, which hides the end token also",
        f"{instead}, which hides the end token also",
    }
    both = attended(causal, bias=np.where(over[0], -1e9, 0.0)[:, None, None])
    np.testing.assert_allclose(found[text], both, rtol=1e-9)
    alone = attended(plain, bias=np.where(over[0], -1e9, 0.0)[:, None, None])
    np.testing.assert_allclose(found[instead], alone, rtol=1e-9)
    biased = of_attention(bias=normal(3, 1, HEADS, LENGTH, LENGTH))
    right = biased.inputs["bias"] + np.where(over[0], -1e9, 0.0)[:, None, None]
    np.testing.assert_allclose(variants(biased)[text], attended(biased, bias=right), rtol=1e-9)
    assert not variants(of_attention(keys=7)) and not variants(plain, IDS[:1])
    padded = np.array([[1, 7, 9, 0, 0], [1, 9, 0, 0, 0]])  # by another id than the end token
    assert list(variants(plain, padded)) == [text]


def test_the_tokens_that_fill_up_a_text_are_hidden():
    """Three tokens of an image, and a text of 18 and 20 tokens in a segment of 32."""
    keys = 3 + faults.TEXT_SEGMENT
    shapes = {"input": 4, "k": keys, "v": keys}
    arrays = {role: normal(i, 2, 1, n, 2) for i, (role, n) in enumerate(shapes.items())}
    arrays["bias"] = normal(3, 2, 1, 1, keys)
    call = call_of("attention", attention, arrays)
    own = (np.arange(20) < np.array([[18], [20]])).astype(int)
    ((text, change),) = faults.with_text_mask(call, own)
    assert text == "the tokens that fill up the text are hidden"
    place = np.arange(keys)
    hidden = place >= 3 + np.array([[18], [20]])
    bias = np.where(hidden[:, None, None], -math.inf, arrays["bias"])
    right = attention(**{**arrays, "bias": bias})
    np.testing.assert_allclose(change(call, call.inputs), right, rtol=1e-9)
    assert MASKED < -1e4
    exactly = {
        **arrays,
        "k": arrays["k"][:, :, 3:],
        "v": arrays["v"][:, :, 3:],
        "bias": arrays["bias"][..., 3:],
    }
    assert len([*faults.with_text_mask(call_of("attention", attention, exactly), own)]) == 1
    bare = call_of("attention", attention, {x: arrays[x] for x in shapes})
    whole = np.ones((2, faults.TEXT_SEGMENT), int)
    for other, mask in (
        (bare, own),
        (call, own[0]),
        (call, own[:1]),
        (call, whole),
        (call, np.ones((2, faults.TEXT_SEGMENT + 1), int)),
    ):
        assert not [*faults.with_text_mask(other, mask)]
