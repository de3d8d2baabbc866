"""What is joined, added or gated between layers: where its faults are tried, and with what."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, normal, point_of, replay_of

from ldmref.locate.faults import between

# -- skip connections -----------------------------------------------------------------------------

X, SKIP = normal(0, 2, 3, 2, 4), normal(1, 2, 2, 2, 4)
JOINED = np.concatenate([X, SKIP], axis=1)
OTHER = normal(2, 2, 2, 2, 4)


def skipped(name="up_blocks.0.resnets.0", role="input", computed=JOINED, **skips):
    skips = skips or {"right": SKIP, "other": OTHER}
    return dict(between.other_skip(replay_of(skips=skips), point_of(name, role, computed)))


@pytest.mark.parametrize(("name", "joins"), [
    ("up_blocks.0.resnets.0", True),
    ("up_blocks.12.resnets.10", True),
    ("up_blocks.3.resnets.2.norm1", True),
    ("up_blocks.3.resnets.2.conv_shortcut", True),
    ("up_blocks.3.resnets.2.norm2", False),
    ("up_blocks.3.resnets.2.norm1.norm", False),
    ("up_blocks.3.attentions.2", False),
    ("unet.up_blocks.3.resnets.2", False),
    ("mid_block.resnets.0", False),
])  # fmt: skip
def test_blocks_of_the_way_up_join_a_skip_connection(name, joins):
    assert bool(skipped(name)) == joins


@pytest.mark.parametrize(("shape", "fits"), [
    ((2, 2, 2, 4), True),
    ((2, 1, 2, 4), True),
    ((2, 4, 2, 4), True),
    ((2, 5, 2, 4), False),  # all channels, so that nothing would be joined with it
    ((2, 6, 2, 4), False),
    ((1, 2, 2, 4), False),
    ((2, 2, 2, 3), False),
    ((2, 2, 3, 4), False),
])  # fmt: skip
def test_skip_connections_that_fit(shape, fits):
    x = normal(3, *shape)
    found = skipped(right=SKIP, other=x)
    words = "the skip connection is the output of other instead of right"
    assert (words in found) == fits
    if fits:
        assert np.array_equal(found[words], np.concatenate([JOINED[:, : -shape[1]], x], axis=1))


def test_a_skip_connection_that_is_missing():
    assert_same(skipped(right=SKIP), {
        "the skip connection of right is zero": np.concatenate([X, 0 * SKIP], axis=1),
    })  # fmt: skip
    even = np.concatenate([OTHER, SKIP], axis=1)
    assert_same(skipped(computed=even, right=SKIP), {
        "the skip connection of right is zero": np.concatenate([OTHER, 0 * SKIP], axis=1),
        "the input is joined with itself instead of the skip connection of right": np.concatenate(
            [OTHER, OTHER], axis=1
        ),
    })  # fmt: skip
    assert [*skipped(other=OTHER)] == ["the skip connection is the output of other"]
    assert not skipped(role="emb")
    assert not skipped(computed=JOINED[None])


# -- positions of tokens --------------------------------------------------------------------------

TABLE, TOKENS = normal(4, 4, 3), normal(5, 2, 3, 3)
EMBEDDED = TOKENS + TABLE[:3]


def shifted(name="embeddings", role="", computed=EMBEDDED, ending="position_embedding", **more):
    replay = replay_of(tables={ending: TABLE}, **more)
    return dict(between.shifted_positions(replay, point_of(name, role, computed)))


@pytest.mark.parametrize(("name", "first"), [
    ("embeddings", True),
    ("text_model.embeddings", True),
    ("layers.0", True),
    ("encoder.layers.0", True),
    ("a.b.layers.0.layer_norm1", True),
    ("layers.0.self_attn_layer_norm", True),
    ("layers.0.layer_norm2", False),
    ("layers.1", False),
    ("layers.0.self_attn", False),
    ("token_embeddings", False),
    ("embeddings.norm", False),
])  # fmt: skip
def test_positions_are_added_before_the_first_layer(name, first):
    assert bool(shifted(name)) == bool(shifted(name, "input")) == first
    assert not shifted(name, "mask")


def test_tables_of_positions_by_their_names():
    assert shifted(ending="embed_positions")
    assert not shifted(ending="embed_tokens")


@pytest.mark.parametrize(("shape", "fits"), [
    ((1, 4, 3), True), ((1, 1, 3), True), ((1, 5, 3), False), ((1, 3, 2), False), ((3, 3), False),
    ((1, 1, 3, 3), False),
])  # fmt: skip
def test_sizes_of_embedded_tokens(shape, fits):
    assert bool(shifted(computed=normal(6, *shape))) == fits


@pytest.mark.parametrize("length", [3, 4])
def test_rows_of_the_table_that_are_read(length):
    tokens = normal(7, 2, length, 3)
    found = shifted(computed=tokens + TABLE[:length])
    rows = {
        "positions are larger by one": [1, 2, 3, 3],
        "positions are larger by one, and the last is 0": [1, 2, 3, 0],
        "positions are smaller by one": [0, 0, 1, 2],
        "positions are smaller by one, and the first is the last": [3, 0, 1, 2],
        "all positions are 0": [0, 0, 0, 0],
    }
    expected = {words: tokens + TABLE[order[:length]] for words, order in rows.items()}
    words = "positions are larger by one, and the last of the text is 0"
    expected[words] = tokens + TABLE[[*range(1, length), 0]]
    expected["positions are in reverse order"] = tokens + TABLE[:length][::-1]
    expected["positions are not added"] = tokens
    expected["positions are added twice"] = tokens + 2 * TABLE[:length]
    assert_same(found, expected)


@pytest.mark.parametrize(("ids", "held"), [
    ([[1, 9, 0], [1, 5, 9]], [[0, 1, 1], [0, 1, 2]]),
    ([[9, 0, 0], [1, 9, 0]], [[0, 0, 0], [0, 1, 1]]),
])  # fmt: skip
def test_padding_stays_at_the_end_token_or_at_the_first(ids, held):
    config = SimpleNamespace(model_type="t5", eos_token_id=9)
    found = shifted(ids=np.array(ids), config=config)
    words = "the padding has the position of the end token: positions do not count on"
    np.testing.assert_allclose(found[words], TOKENS + TABLE[np.array(held)])
    first = [[j if j == place else 0 for j, place in enumerate(row)] for row in held]
    words = "the padding has position 0"
    np.testing.assert_allclose(found[words], TOKENS + TABLE[np.array(first)])
    assert len(found) == len(shifted()) + 2
    assert len(shifted(ids=np.array(ids)[:, :2], config=config)) == len(shifted())


# -- gated layers ---------------------------------------------------------------------------------

PROJECTED = normal(8, 2, 8)
VALUE, GATE = PROJECTED[:, :4], PROJECTED[:, 4:]


def gelu(x):
    return np.vectorize(lambda y: 0.5 * y * (1.0 + math.erf(y / math.sqrt(2.0))))(x)


def halved(kind="geglu", role="", computed=VALUE, recent=(("ff.proj", PROJECTED),), near=()):
    suspects = tuple(SimpleNamespace(kind=one) for one in near)
    point = point_of("ff", role, computed, kind=kind, suspects=suspects)
    return dict(between.other_half(replay_of(recent=[*recent]), point))


@pytest.mark.parametrize(("kind", "near"), [
    ("geglu", ()), ("linear", ("gelu",)), ("linear", ("silu", "geglu")), ("attention", ("geglu",)),
])  # fmt: skip
def test_halves_of_a_gated_layer(kind, near):
    even, odd = PROJECTED[:, [0, 2, 4, 6]], PROJECTED[:, [1, 3, 5, 7]]
    assert_same(halved(kind, near=near), {
        "GELU is applied to the value instead of the gate": gelu(VALUE) * GATE,
        "GELU is applied to value and gate": gelu(VALUE) * gelu(GATE),
        "gate and value are interleaved": even * gelu(odd),
        "gate and value are interleaved, and GELU is applied to the value": gelu(even) * odd,
    })  # fmt: skip


@pytest.mark.parametrize("near", [(), ("linear",), ("geglu",)])
def test_the_input_of_a_gelu_is_one_of_the_halves(near):
    assert_same(halved("gelu", "input", near=near), {
        "GELU is applied to the value instead of the gate": VALUE,
        "gate and value are interleaved": PROJECTED[:, [1, 3, 5, 7]],
    })  # fmt: skip
    assert not halved("gelu", "", near=near)


@pytest.mark.parametrize("change", [
    {"kind": "linear"},
    {"kind": "linear", "near": ("silu",)},
    {"recent": ()},
    {"recent": (("ff.proj_out", PROJECTED),)},
    {"recent": (("ff.proj", PROJECTED[:, :7]),)},
    {"recent": (("ff.proj", PROJECTED), ("late.proj", VALUE))},
    {"computed": PROJECTED},
    {"computed": np.float64(2.0)},
    {"computed": np.float64(2.0), "recent": (("ff.proj", PROJECTED[:, :2]),)},
])  # fmt: skip
def test_other_layers_have_no_halves(change):
    assert halved()
    assert not halved(**change)


def test_the_last_projection_is_halved():
    recent = (("a.proj", 2 * PROJECTED), ("b.proj", 3 * PROJECTED), ("ff.proj", PROJECTED),
              ("norm", VALUE))  # fmt: skip
    assert_same(halved(recent=recent), halved())
