"""What each known fault of attention, rotary positions and embeddings computes, by formulas."""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, attention, call_of, faulty, normal

from ldmref.backends.named import AGAIN
from ldmref.locate.faults import attention as faults
from ldmref.locate.faults import embedding, rotary
from ldmref.locate.precision import round_to
from ldmref.math.embedding import timestep_embedding
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
        "the bias is missing", "the bias is applied twice", "the bias has the other sign",
    }  # fmt: skip


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
        [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0],
    ]  # fmt: skip
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
        text, instead, f"{text}, which hides the end token also",
        f"{instead}, which hides the end token also",
    }  # fmt: skip
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
                [p[..., i : i + 1] * theta ** (-2.0 * np.arange(d // 2) / d) for i, (p, d) in
                 enumerate(zip([positions] * len(dims), dims, strict=True))], axis=-1,
            )  # fmt: skip
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


def test_lengths_of_tables():
    lengths = {0: [], 1: [], 2: [2], 3: [2, 3], 4: [2, 3, 4], 6: [2, 3, 4, 6], 7: [2, 3, 4, 6]}
    for last, expected in lengths.items():
        assert rotary._table_lengths(np.array([0, last])) == expected
    assert rotary._table_lengths(np.zeros(0)) == []


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
        [True, True, True, False] * 2, [False] * 8,
    ]  # fmt: skip


def test_angles_that_float32_holds_are_known():
    call = of_times((4000.0, 4001.0, -4001.0))
    given = {"input": call.inputs["input"]}
    known = ~np.isnan(embedding._embed_known(call, given))
    assert known[:, 0].tolist() == [True, False, False]
    assert known[:, 1:4].all() and not known[1, 4] and known[1:, 5:].all()


def test_ids_that_are_shifted():
    table = normal(0, 5, 2)
    ids = np.array([[0, 4, 2]])
    call = call_of("embedding", lambda input, table: table[input], {"input": ids}, {"table": table})
    expected = {
        "ids are larger by one": table[[[1, 0, 3]]],
        "ids are smaller by one": table[[[4, 3, 1]]],
    }
    assert_same(faulty(embedding.shifted_ids, call), expected)
