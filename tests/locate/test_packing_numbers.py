"""Latents that are cut into tokens and joined again: the sizes that fit, and those that do not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from fault_calls import normal, point_of, replay_of

from ldmref.locate.faults import packing

ORDERS = [*permutations(("channel", "row", "column"))]


def cut(x, side):
    """Return the tokens of patches, their channels first, as Flux has them."""
    n, c, h, w = x.shape
    axes = x.reshape(n, c, h // side, side, w // side, side)
    return np.einsum("ncyixj->nyxcij", axes).reshape(n, h * w // side**2, c * side**2)


def packed(x, tokens, **more):
    point = point_of("x_embedder", "input", tokens, frame={"x": x}, **more)
    return dict(packing.other_packing(replay_of(), point))


def unpacked(x, *recent, name="", latest="proj_out"):
    replay = replay_of(recent=[*(("proj_out", one) for one in recent[:-1]), (latest, recent[-1])])
    return dict(packing.other_unpacking(replay, point_of(name, "", x)))


@pytest.mark.parametrize(("shape", "side"), [
    ((1, 1, 2, 4), 2), ((2, 3, 4, 6), 2), ((2, 2, 6, 3), 3), ((1, 4, 8, 4), 4),
])  # fmt: skip
def test_patches_of_each_side_are_cut_in_other_orders(shape, side):
    x = normal(0, *shape)
    tokens = cut(x, side)
    found = packed(x, tokens)
    back = unpacked(x, tokens)
    for order in ORDERS:
        letters = "".join({"channel": "c", "row": "i", "column": "j"}[name] for name in order)
        axes = x.reshape(*shape[:2], shape[2] // side, side, shape[3] // side, side)
        wrong = np.einsum(f"ncyixj->nyx{letters}", axes).reshape(tokens.shape)
        words = f"a patch holds {', '.join(order)}"
        assert (words in found) != np.array_equal(wrong, tokens)
        if words in found:
            assert np.array_equal(found[words], wrong)
    for words, wrong in (*found.items(), *back.items()):
        right = tokens if "holds" in words else x
        assert wrong.shape == right.shape
        assert not np.array_equal(wrong, right)
        assert np.array_equal(np.sort(wrong, axis=None), np.sort(x, axis=None))


@pytest.mark.parametrize(("latents", "tokens"), [
    ((1, 3, 4, 6), (1, 6, 13)),  # a width that is not that of three channels of a square
    ((1, 3, 13, 1), (1, 3, 13)),  # as many numbers, of which no patches are made
    ((1, 1, 3, 4), (1, 3, 4)),  # an odd height
    ((1, 1, 4, 3), (1, 3, 4)),  # an odd width
    ((1, 1, 4, 4), (2, 4, 4)),  # another batch
    ((2, 1, 4, 4), (1, 8, 4)),
    ((1, 1, 4, 4), (1, 5, 4)),  # another number of tokens
    ((1, 2, 4, 4), (1, 16, 2)),  # patches of one number each
    ((1, 8, 4, 4), (1, 32, 4)),  # fewer numbers than channels
])  # fmt: skip
def test_sizes_that_are_not_those_of_patches(latents, tokens):
    x, y = normal(0, *latents), normal(1, *tokens)
    assert not packed(x, y)
    assert not unpacked(x, y)
    assert packing._side(latents, tokens) < 2


def test_the_side_of_patches():
    assert packing._side((1, 3, 4, 6), (1, 6, 12)) == 2
    assert packing._side((2, 1, 9, 6), (2, 6, 9)) == 3
    assert packing._side((1, 3, 4, 6), (1, 24, 3)) == 1
    assert packing._side((1, 3, 4, 6), (1, 6, 2)) == 0


def test_latents_of_videos_and_other_arrays_are_not_cut():
    x = normal(0, 1, 1, 4, 4)
    tokens = cut(x, 2)
    assert packed(x, tokens)
    assert not packed(x[:, :, None], tokens)
    assert not packed(x[0], tokens)
    assert not packed(x.tolist(), tokens)
    assert not packed(None, tokens)
    assert not packed(x, tokens[0])
    assert not packed(x, tokens[None])
    assert not packed(x, tokens, within="block")
    assert not unpacked(x[0], tokens)
    assert not unpacked(x, tokens[0])
    assert not unpacked(x, tokens, name="norm_out")


def test_the_last_tokens_are_joined():
    x = normal(0, 1, 1, 4, 4)
    tokens = cut(x, 2)
    found = unpacked(x, 0 * tokens, tokens)
    words = "a patch is read as channel, column, row"
    wrong = np.einsum("nyxji->nyixj", tokens.reshape(1, 2, 2, 2, 2)).reshape(x.shape)
    assert np.array_equal(found[words], wrong)
    earlier = unpacked(x, tokens, 0 * tokens, latest="norm_out")
    assert np.array_equal(earlier[words], wrong)
