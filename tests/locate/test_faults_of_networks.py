"""What each known fault between layers and in blocks computes, by formulas of its own."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, call_of, linear, normal, point_of, replay_of

from ldmref.locate.faults import between, joint, modulation, packing, scales, tokens

# -- skip connections and halves ------------------------------------------------------------------


def test_other_skip_connections():
    x, a, b = normal(0, 1, 3, 2, 2), normal(1, 1, 2, 2, 2), normal(2, 1, 3, 2, 2)
    skips = {"a": a, "b": b, "wide": normal(3, 1, 6, 2, 2), "small": normal(4, 1, 2, 1, 2)}
    skips |= {"two": normal(5, 2, 2, 2, 2), "whole": normal(6, 1, 5, 2, 2)}
    name = "up_blocks.1.resnets.0"
    joined = np.concatenate([x, a], axis=1)

    def found(name=name, role="input", computed=joined, skips=skips):
        return dict(between.other_skip(replay_of(skips=skips), point_of(name, role, computed)))

    expected = {
        "the skip connection is the output of b instead of a": np.concatenate(
            [joined[:, :2], b], axis=1
        ),
        "the skip connection of a is zero": np.concatenate([x, 0 * a], axis=1),
    }
    assert_same(found(), expected)
    same = np.concatenate([x, b], axis=1)
    text = "the input is joined with itself instead of the skip connection of b"
    assert np.array_equal(found(computed=same)[text], np.concatenate([x, x], axis=1))
    assert set(found(skips={"b": b})) == {"the skip connection is the output of b"}
    for other in ("up_blocks.1.resnets.0.norm1", "up_blocks.1.resnets.2.conv_shortcut"):
        assert found(other)
    for other in ("down_blocks.1.resnets.0", "up_blocks.1.resnets.0.conv1"):
        assert not found(other)
    assert not found(role="") and not found(computed=joined[0])


def test_positions_of_tokens_that_are_shifted():
    table, tokens = normal(0, 6, 4), normal(1, 2, 5, 4)
    computed = tokens + table[:5]

    def found(name="text_model.embeddings", role="", computed=computed, ids=None, config=None):
        replay = replay_of(tables={"position_embedding": table}, ids=ids, config=config)
        return dict(between.shifted_positions(replay, point_of(name, role, computed)))

    orders = {
        "positions are larger by one": [1, 2, 3, 4, 5],
        "positions are larger by one, and the last is 0": [1, 2, 3, 4, 5],
        "positions are larger by one, and the last of the text is 0": [1, 2, 3, 4, 0],
        "positions are smaller by one": [0, 0, 1, 2, 3],
        "positions are smaller by one, and the first is the last": [5, 0, 1, 2, 3],
        "positions are in reverse order": [4, 3, 2, 1, 0],
        "all positions are 0": [0] * 5,
    }
    expected = {words: tokens + table[order] for words, order in orders.items()}
    expected["positions are not added"] = tokens
    expected["positions are added twice"] = tokens + 2 * table[:5]
    assert_same(found(), expected)
    full = normal(1, 1, 6, 4) + table
    last = dict(found(computed=full))
    np.testing.assert_allclose(
        last["positions are larger by one"], full - table + table[[1, 2, 3, 4, 5, 5]]
    )
    np.testing.assert_allclose(
        last["positions are larger by one, and the last is 0"],
        full - table + table[[1, 2, 3, 4, 5, 0]],
    )
    ids = np.array([[1, 7, 9, 0, 0], [1, 7, 8, 7, 9]])
    config = SimpleNamespace(model_type="t5", eos_token_id=9)
    padded = found(ids=ids, config=config)
    held = tokens + table[[[0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]]
    zero = tokens + table[[[0, 1, 2, 0, 0], [0, 1, 2, 3, 4]]]
    text = "the padding has the position of the end token: positions do not count on"
    np.testing.assert_allclose(padded[text], held)
    np.testing.assert_allclose(padded["the padding has position 0"], zero)
    assert len(found(ids=ids[:1], config=config)) == len(expected)
    assert found("encoder.layers.0.layer_norm1", "input") and found("layers.0", "input")
    assert not found("encoder.layers.1") and not found(role="k")
    assert not found(computed=computed[..., :3]) and not found(computed=normal(1, 1, 7, 4))


def test_other_halves_of_a_gated_layer():
    projected = normal(0, 2, 3, 8)
    value, gate = projected[..., :4], projected[..., 4:]

    def gelu(x):
        return np.vectorize(lambda y: 0.5 * y * math.erfc(-y / math.sqrt(2.0)))(x)

    def found(kind, role, computed=value, name="net.0.proj"):
        replay = replay_of(recent=[("first.proj", 2 * projected), (name, projected)])
        return dict(between.other_half(replay, point_of("x", role, computed, kind=kind)))

    assert_same(
        found("gelu", "input"),
        {
            "GELU is applied to the value instead of the gate": value,
            "gate and value are interleaved": projected[..., 1::2],
        },
    )
    even, odd = projected[..., 0::2], projected[..., 1::2]
    assert_same(
        found("geglu", ""),
        {
            "GELU is applied to the value instead of the gate": gelu(value) * gate,
            "GELU is applied to value and gate": gelu(value) * gelu(gate),
            "gate and value are interleaved": even * gelu(odd),
            "gate and value are interleaved, and GELU is applied to the value": gelu(even) * odd,
        },
    )
    assert not found("gelu", "") and not found("linear", "input")
    assert not found("geglu", "", projected) and not found("geglu", "", np.float64(1.0))


# -- packing --------------------------------------------------------------------------------------

N, C, H, W = 1, 3, 4, 6


def cut(x, outer, inner):
    """Return tokens of patches of 2 x 2; `inner` is the order of channel, row and column."""
    letters = {"channel": "c", "row": "i", "column": "j"}
    to = f"n{outer}{''.join(letters[name] for name in inner)}"
    axes = np.einsum(f"ncyixj->{to}", x.reshape(N, C, H // 2, 2, W // 2, 2))
    return axes.reshape(N, H * W // 4, 4 * C)


ORDERS = [*permutations(("channel", "row", "column"))]


@pytest.mark.parametrize("right", ORDERS)
def test_latents_that_are_cut_in_another_order(right):
    x = normal(0, N, C, H, W)
    computed = cut(x, "yx", right)
    point = point_of("x_embedder", "input", computed, frame={"x": x})
    expected = {
        f"a patch holds {', '.join(order)}{lines}": cut(x, outer, order)
        for order in ORDERS
        for outer, lines in (("yx", ""), ("xy", ", and tokens run down the columns"))
        if (outer, order) != ("yx", right)
    }
    assert_same(dict(packing.other_packing(replay_of(), point)), expected)
    joined = {}
    for words in expected:
        order = tuple(words.removeprefix("a patch holds ").split(", and")[0].split(", "))
        sizes = {"channel": C, "row": 2, "column": 2}
        down = "columns" in words
        shape = (W // 2, H // 2) if down else (H // 2, W // 2)
        letters = {"channel": "c", "row": "i", "column": "j"}
        grid = computed.reshape(N, *shape, *(sizes[name] for name in order))
        outer = "xy" if down else "yx"
        axes = np.einsum(f"n{outer}{''.join(letters[name] for name in order)}->ncyixj", grid)
        joined[words.replace("holds", "is read as")] = axes.reshape(N, C, H, W)
    replay = replay_of(recent=[("proj_out", computed), ("other", 0 * computed)])
    assert_same(dict(packing.other_unpacking(replay, point_of("", "", x))), joined)


# -- modulations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 6, 9])
def test_modulations_in_another_order(count):
    parts = modulation.PARTS[count]
    x, weight = normal(0, 2, 3), normal(1, 2 * count, 3)
    call = call_of("linear", linear, {"input": x}, {"weight": weight})
    right = np.split(x @ weight.T, count, axis=-1)
    expected = {}
    for i, j in combinations(range(count), 2):
        order = [*range(count)]
        order[i], order[j] = j, i
        expected[f"{parts[i]} and {parts[j]} are exchanged in b.norm.linear"] = np.concatenate(
            [right[k] for k in order], axis=-1
        )
    for i, j in ((0, 3), (1, 4), (2, 5), (0, 6), (1, 7), (2, 8), (3, 6), (4, 7), (5, 8)):
        for k, m in ((i, j), (j, i)):
            if max(k, m) < count and count > 3:  # attention, the MLP and the second attention
                words = f"the {parts[m]} is the {parts[k]} in b.norm.linear"
                part = [right[k] if p == m else x for p, x in enumerate(right)]
                expected[words] = np.concatenate(part, axis=-1)

    def changed(i, part):
        return np.concatenate([*right[:i], part, *right[i + 1 :]], axis=-1)

    for i, name in enumerate(parts):
        zero = 0 * right[i]
        more = {f"the {name} is missing": zero}
        if name.startswith("scale"):
            more = {f"1 is not added to the {name}": right[i] - 1}
        elif name.startswith("gate"):
            more = {f"the {name} is missing": zero + 1, f"1 is added to the {name}": right[i] + 1}
        expected |= {f"{words} in b.norm.linear": changed(i, part) for words, part in more.items()}
    for turn, order in (([1, 2, 0], "scale, gate and shift"), ([2, 0, 1], "gate, shift and scale")):
        every = [right[3 * (i // 3) + turn[i % 3]] for i in range(count - count % 3)]
        for first in range(0, len(every), 3):
            end = parts[first + 2].removeprefix("gate")
            one = [*right[:first], *every[first : first + 3], *right[first + 3 :]]
            words = f"shift, scale and gate{end} are {order} in b.norm.linear"
            expected[words] = np.concatenate(one, axis=-1)
        if count > 3:
            words = f"shift, scale and gate are {order} in all parts in b.norm.linear"
            expected[words] = np.concatenate([*every, *right[len(every) :]], axis=-1)
    replay = replay_of(modulations={"a.norm.linear": 2, "b.norm.linear": count})
    faults = modulation.other_modulation(replay, point_of(within="b"))
    given = {**call.inputs, **call.parameters}
    found = {words: changes["b.norm.linear"](call, given) for words, changes in faults}
    assert_same(found, expected)


def test_the_nearest_modulations_are_tried():
    replay = replay_of(modulations={f"{i}.norm.linear": 2 for i in range(6)})
    found = [words for words, _ in modulation.other_modulation(replay, point_of())]
    names = list(dict.fromkeys(words.rpartition(" in ")[2] for words in found))
    assert names == [f"{i}.norm.linear" for i in (5, 4, 3, 2)]


# -- scales of quantized weights ------------------------------------------------------------------


def scaled(recorded, computed, bias=None, kind="linear", role=""):
    point = point_of("x", role, computed, recorded, kind)
    point.call.parameters = {} if bias is None else {"bias": bias}
    return dict(scales.forgotten_scale(replay_of(), point))


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_scales_of_weights_that_are_forgotten(kind):
    bias, factors = normal(1, 3), np.array([2.0, 4.0, 0.5])
    product = normal(0, 16, 3) if kind == "linear" else normal(0, 1, 3, 4, 4)
    if kind == "conv2d":
        bias_term, gain = bias[:, None, None], factors[:, None, None]
    else:
        bias_term, gain = bias, factors
    found = scaled(4.0 * product + bias_term, product + bias_term, bias, kind)
    text = "the product is scaled by 4, and the bias is not: a scale of the weights is missing"
    assert set(found) == {text}
    np.testing.assert_allclose(found[text], 4.0 * product + bias_term, atol=1e-12)
    assert not scaled(4.0 * product, product, None, kind)
    bias[0] = bias_term.flat[0] = 0.0  # one row without a bias
    assert set(scaled(4.0 * product + bias_term, product + bias_term, bias, kind)) == {text}
    found = scaled(gain * product, product, None, kind)
    text = "the rows of the product are scaled, by 0.5 to 4: scales of the weights are missing"
    assert set(found) == {text}
    np.testing.assert_allclose(found[text], gain * product, atol=1e-12)
    found = scaled(gain * product + bias_term, product + bias_term, bias, kind)
    np.testing.assert_allclose(found[text], gain * product + bias_term, atol=1e-12)
    few = (slice(None, 15),) if kind == "linear" else (..., slice(3), slice(None))
    assert not scaled((gain * product)[few], product[few], None, kind)
    assert not scaled(product, 0 * product) and not scaled(gain * product, product, role="input")
    assert not scaled(gain * product, product, kind="attention")
    dead = product.copy()
    dead[:, 1] = 0.0
    assert not scaled(gain * dead, dead, None, kind)


# -- joint transformers ---------------------------------------------------------------------------


def test_streams_that_are_split_in_the_other_order():
    replay = replay_of(arguments={"context": np.zeros((1, 2, 3))})
    y = normal(0, 1, 1, 5, 4)
    call = SimpleNamespace(kind="attention", name="b.attn.attention", compute=lambda x: y)
    other = SimpleNamespace(kind="linear", name="b.linear")
    right = {
        f"image and text are split in the other order after {call.name}": np.roll(y, -2, axis=2)
    }
    for point in (
        point_of(suspects=(other, call)),
        point_of("b.attn.to_out.0"),
        point_of("b.attn.to_add_out"),
    ):
        found = [*joint.other_split(replay, point)]
        rolled = [changes[call.name](call, {}) for _, changes in found]
        assert [words for words, _ in found] == [*right] * 2
        assert np.array_equal(rolled[0], np.roll(y, 2, axis=2))
        assert np.array_equal(rolled[1], np.roll(y, -2, axis=2))
    assert not [*joint.other_split(replay, point_of("b.attn.to_out.0", ""))]
    assert not [*joint.other_split(replay_of(), point_of("b.attn.to_out.0"))]


def test_other_tokens_that_fill_up_texts_of_a_batch():
    """The first text has 2 tokens and is filled up to 4, and its last 2 rows are read by nobody."""
    text, image = normal(0, 1, 3), normal(1, 1, 3)
    computed = normal(2, 2, 6, 3)
    computed[0, 2:4], computed[0, 4:], computed[1, 5:] = text, 0.0, text
    replay = replay_of(tables={"cap_pad_token": text, "x_pad_token": image})
    expected = {"0": (0.0, 0.0), "those of the image": (image, image)}
    expected["the last one again"] = (computed[0, 1], computed[1, 4])
    arrays = {}
    for words, (first, second) in expected.items():
        x = arrays[f"the tokens that fill up the text are {words}"] = computed.copy()
        x[0, 2:4], x[1, 5] = first, second
    assert_same(dict(tokens.other_filling(replay, point_of("b", "input", computed))), arrays)


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (4, 2), (2, 2), (6, 6)])
def test_other_crops_of_a_table_of_positions(rows, columns):
    grid = normal(0, 6, 6, 3)
    top, left = (6 - rows) // 2, (6 - columns) // 2

    def crop(table, top, left, rows=rows, columns=columns):
        return table[top : top + rows, left : left + columns].reshape(-1, 3)

    tokens = normal(1, 2, rows * columns, 3)
    computed = tokens + crop(grid, top, left)
    latents = np.zeros((2, 1, 2 * rows, 2 * columns))
    point = point_of("pos_embed", "", computed, inputs={"input": latents})
    replay = replay_of(tables={"pos_embed": grid.reshape(1, 36, 3)})
    found = dict(joint.other_table(replay, point))
    turned = grid.swapaxes(0, 1)
    expected = {
        "the positions are those of the first rows and columns of the table, not of its middle": (
            crop(grid, 0, 0)
        ),
        "the positions are cropped from the first row of the table, and not from its middle": (
            crop(grid, 0, left)
        ),
        "the positions are cropped from the first column of the table, and not from its middle": (
            crop(grid, top, 0)
        ),
        "the positions are the first rows of the table, without a crop": grid.reshape(36, 3)[
            : rows * columns
        ],
        "rows and columns are exchanged in the table of positions": crop(turned, top, left),
        "rows and columns are exchanged in the table, which is not cropped in its middle": crop(
            turned, 0, 0
        ),
        "the positions run down the columns": np.array(
            [grid[left + j, top + i] for i in range(rows) for j in range(columns)]
        ),
    }
    if rows < 6:
        later, earlier = crop(grid, top + 1, left + 1), crop(grid, top - 1, left - 1)
        expected["the positions begin one row and column later"] = later
        expected["the positions begin one row and column earlier"] = earlier
    arrays = {words: tokens + positions for words, positions in expected.items()}
    arrays["the positions are not added"] = tokens
    arrays["the positions are added twice"] = 2 * computed - tokens
    assert_same(found, arrays)
    before = replay_of(tables={"pos_embed": grid.reshape(1, 36, 3)}, arguments={"x": latents})
    made = dict(joint.other_table_before(before, point_of("block.to_q")))
    call = SimpleNamespace(compute=lambda x: computed)
    assert_same({words: one["pos_embed"](call, {}) for words, one in made.items()}, arrays)
    assert not [*joint.other_table_before(before, point_of("block.to_q", within="block"))]
    assert not [*joint.other_table(replay_of(), point)]
    assert not [*joint.other_table(replay, point_of("x", "", computed, inputs={"input": latents}))]
    large = point_of(
        "pos_embed", "", np.zeros((1, 49, 3)), inputs={"input": np.zeros((1, 1, 14, 14))}
    )
    assert not [*joint.other_table(replay, large)]


@pytest.mark.parametrize(("rows", "columns"), [(8, 2), (2, 8)])
def test_images_larger_than_the_table_have_no_other_crop(rows, columns):
    latents = np.zeros((1, 1, 2 * rows, 2 * columns))
    computed = np.zeros((1, rows * columns, 3))
    point = point_of("pos_embed", "", computed, inputs={"input": latents})
    replay = replay_of(tables={"pos_embed": normal(0, 1, 36, 3)})
    assert not [*joint.other_table(replay, point)]


@pytest.mark.parametrize(
    ("latents", "tokens"),
    [
        ((1, 3, 4, 6), (1, 6, 13)),  # a width that is not that of three channels of a square
        ((1, 3, 13, 1), (1, 3, 13)),  # as many numbers, of which no patches are made
        ((1, 1, 3, 4), (1, 3, 4)),  # an odd height
        ((1, 1, 4, 3), (1, 3, 4)),  # an odd width
        ((1, 1, 4, 4), (2, 4, 4)),  # another batch
        ((1, 1, 4, 4), (1, 5, 4)),  # another number of tokens
        ((1, 2, 4, 4), (1, 16, 2)),  # patches of one number each
        ((1, 1, 4, 4), (4, 4)),
        ((1, 4, 4), (1, 4, 4)),
    ],
)
def test_sizes_that_are_not_those_of_patches(latents, tokens):
    x, y = normal(0, *latents), normal(1, *tokens)
    point = point_of("x_embedder", "input", y, frame={"x": x})
    assert not [*packing.other_packing(replay_of(), point)]
    replay = replay_of(recent=[("proj_out", y)])
    assert not [*packing.other_unpacking(replay, point_of("", "", x))]


def test_patches_of_three_rows_and_columns():
    x = normal(0, 1, 1, 6, 3)
    tokens = x.reshape(1, 1, 2, 3, 1, 3).transpose(0, 2, 4, 1, 3, 5).reshape(1, 2, 9)
    point = point_of("x_embedder", "input", tokens, frame={"x": x})
    found = dict(packing.other_packing(replay_of(), point))
    columns = tokens.reshape(1, 2, 3, 3).swapaxes(2, 3).reshape(1, 2, 9)
    assert np.array_equal(found["a patch holds channel, column, row"], columns)
    replay = replay_of(recent=[("proj_out", tokens)])
    assert [*packing.other_unpacking(replay, point_of("", "", x))]
