"""Segments of tokens of Z-Image, and the rows and cells of Qwen-Image 2.1."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.qwen_image_21 import network as qwen
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.z_image import network as z_image
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.network import TokenStream
from ldmref.models.params import flatten, unflatten

OPS = get_backend("numpy", dtype="float64")
CONFIG = ZImageConfig(
    in_channels=2, out_channels=2, dim=12, n_layers=1, n_refiner_layers=1, n_heads=2,
    cap_feat_dim=3, axes_dims=(2, 2, 2), norm_eps=0.5,
)  # fmt: skip
FLAT = {
    name: np.random.default_rng(len(name)).standard_normal(shape)
    for name, shape in flatten(z_image.transformer_spec(CONFIG)).items()
}
P = unflatten(FLAT)


def test_shapes_are_whole_numbers():
    for spec in (z_image.transformer_spec(CONFIG), qwen.transformer_spec(QwenImage21Config())):
        assert all(isinstance(side, int) for shape in flatten(spec).values() for side in shape)


# -- Z-Image --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "whole"), [(1, 32), (31, 32), (32, 32), (33, 64), (63, 64), (64, 64)]
)
def test_segments_are_filled_up(length, whole):
    x = np.random.default_rng(0).standard_normal((2, length, 3))
    row = np.full((2, 1, 3), 7.0)
    found = z_image.fill_segment(OPS, x, row, 32)
    assert found.shape == (2, whole, 3)
    assert np.array_equal(found[:, :length], x) and (found[:, length:] == 7.0).all()


@pytest.mark.parametrize("length", [5, 32, 40])
def test_captions_are_embedded_and_filled_up(length):
    """Of one token less than all, of three tokens, and of none."""
    counts = (length - 1, 3, 0)
    mask = (np.arange(length) < np.array(counts)[:, None]).astype(np.int64)
    context = np.random.default_rng(1).standard_normal((3, length, 3))
    found = z_image.embed_caption(OPS, P, CONFIG, context, mask)
    whole = -(-length // 32) * 32
    normal = context / np.sqrt((context**2).mean(-1, keepdims=True) + 0.5)
    want = normal * FLAT["cap_embedder.0.weight"] @ FLAT["cap_embedder.1.weight"].T
    want = want + FLAT["cap_embedder.1.bias"]
    assert found.states.shape == (3, whole, 12)
    for i, count in enumerate(counts):
        np.testing.assert_allclose(found.states[i, :count], want[i, :count], rtol=1e-10)
        assert (found.states[i, count:] == FLAT["cap_pad_token"]).all()
        read = -(-count // 32) * 32
        assert found.seen[i].tolist() == [1.0] * read + [0.0] * (whole - read)
    positions = np.zeros((3, whole, 3))
    positions[..., 0] = np.arange(1, whole + 1)
    assert np.array_equal(found.positions, positions)


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (4, 8), (5, 7)])
def test_patches_follow_the_caption(rows, columns):
    x = np.random.default_rng(2).standard_normal((2, 2, 2 * rows, 2 * columns))
    seen = np.zeros((2, 64))
    seen[0], seen[1, :32] = 1.0, 1.0
    caption = TokenStream(np.zeros((2, 64, 12)), np.zeros((2, 64, 3)), seen)
    found = z_image.embed_image(OPS, P, CONFIG, x, caption)
    count = rows * columns
    whole = -(-count // 32) * 32
    patches = x.reshape(2, 2, rows, 2, columns, 2).transpose(0, 2, 4, 3, 5, 1)
    patches = patches.reshape(2, count, 8)
    want = patches @ FLAT["all_x_embedder.2-1.weight"].T + FLAT["all_x_embedder.2-1.bias"]
    assert found.seen is None and found.states.shape == (2, whole, 12)
    np.testing.assert_allclose(found.states[:, :count], want, rtol=1e-10)
    assert (found.states[:, count:] == FLAT["x_pad_token"]).all()
    positions = np.zeros((2, whole, 3))
    positions[0, :count, 0], positions[1, :count, 0] = 65, 33
    positions[:, :count, 1] = np.repeat(np.arange(rows), columns)
    positions[:, :count, 2] = np.tile(np.arange(columns), rows)
    assert np.array_equal(found.positions, positions)


def test_tokens_that_are_not_seen_begin_as_zero():
    states = np.random.default_rng(3).standard_normal((1, 4, 12))
    tokens = TokenStream(states, np.zeros((1, 4, 3)), np.array([[1.0, 1.0, 0.0, 1.0]]))
    nothing = unflatten({})
    found = z_image.refine(OPS, nothing, CONFIG, tokens, None)
    assert np.array_equal(found.states, states * np.array([1.0, 1.0, 0.0, 1.0])[:, None])
    assert found.positions is tokens.positions and found.seen is tokens.seen
    every = z_image.refine(OPS, nothing, CONFIG, tokens._replace(seen=None), None)
    assert every.states is states
    blocks = P.context_refiner
    other = z_image.refine(OPS, blocks, CONFIG, tokens, None)
    changed = states.copy()
    changed[:, 2] = 100.0
    same = z_image.refine(OPS, blocks, CONFIG, tokens._replace(states=changed), None)
    np.testing.assert_allclose(same.states[:, [0, 1, 3]], other.states[:, [0, 1, 3]], rtol=1e-12)


# -- Qwen-Image 2.1 -------------------------------------------------------------------------------


def test_time_0_follows_the_times():
    found = qwen.add_clean_time(OPS, np.array([500, 20]))
    assert found.tolist() == [500.0, 20.0, 0.0] and found.dtype == np.float64
    assert qwen.add_clean_time(OPS, np.array([0.0])).tolist() == [0.0, 0.0]


def test_rows_belong_to_images_and_text():
    rows = np.arange(6.0).reshape(3, 2)
    found = qwen.split_rows(rows)
    assert found.image.tolist() == [[[0.0, 1.0]], [[2.0, 3.0]]] and found.text.tolist() == [
        [[4, 5]]
    ]
    one = qwen.plus_one(found)
    assert np.array_equal(one.image, found.image + 1) and np.array_equal(one.text, found.text + 1)
    small = qwen.bound(OPS, found)
    assert np.array_equal(small.image, np.tanh(found.image))
    assert np.array_equal(small.text, np.tanh(found.text))


@pytest.mark.parametrize("length", [0, 1, 3])
def test_tokens_are_multiplied_by_the_rows_of_their_kind(length):
    x = np.random.default_rng(4).standard_normal((2, 5, 2))
    rows = qwen.split_rows(np.array([[2.0, 3.0], [4.0, 5.0], [-1.0, 0.5]]))
    want = x * rows.image
    want[:, :length] = x[:, :length] * rows.text
    assert np.array_equal(qwen.multiply(OPS, x, rows, length), want)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("start", [None, np.array([9, 2]), np.array([0, 2])])
def test_images_stand_behind_the_tokens_of_the_text(masked, start):
    config = QwenImage21Config(attention_head_dim=6, axes_dims_rope=(2, 2, 2))
    x, states = np.zeros((2, 4, 2, 4)), np.zeros((2, 5, 3))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]) if masked else None
    found = qwen.find_sequence(OPS, config, x, states, mask, False, start)
    frames = start if start is not None else [5.0, 2.0] if masked else [5.0]
    frames = np.array(frames)
    angles = np.zeros((len(frames), 8, 3))
    angles[..., 0] = frames[:, None]
    angles[..., 1] = np.repeat([-1.0, 0.0], 4)
    angles[..., 2] = np.tile([-2.0, -1.0, 0.0, 1.0], 2)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=2)[:, None]
    np.testing.assert_allclose(found.waves, want, atol=1e-12)
    counted = np.repeat(np.arange(5.0)[:, None], 3, axis=1)
    want = np.concatenate([np.cos(counted), np.sin(counted)], axis=1)[None, None]
    np.testing.assert_allclose(found.text_waves, want, atol=1e-12)
    if not masked:
        assert found.hidden is None
    else:
        assert found.hidden.shape == (2, 1, 1, 13)
        assert (found.hidden[1, 0, 0] < -1e6).tolist() == [False] * 2 + [True] * 3 + [False] * 8
        assert (found.hidden[0] == 0).all()
    alone = qwen.find_sequence(OPS, config, x, states, mask, True, start)
    assert alone.text_waves is None and np.array_equal(alone.waves, found.waves)


def test_functions_without_parameters_are_called_by_name(monkeypatch):
    """Traces show them under these names."""
    ops = get_backend("numpy", dtype="float64")
    config = QwenImage21Config(
        in_channels=2, out_channels=2, num_layers=1, attention_head_dim=6, num_attention_heads=1,
        context_in_dim=3, mlp_ratio=1, axes_dims_rope=(2, 2, 2),
    )  # fmt: skip
    called = []
    call = ops.call_function

    def record(name, *given, **options):
        called.append(name)
        return call(name, *given, **options)

    monkeypatch.setattr(ops, "call_function", record)
    shapes = flatten(qwen.transformer_spec(config))
    p = unflatten({name: np.ones(shape) for name, shape in shapes.items()})
    qwen.transformer(ops, p, config, np.ones((1, 2, 2, 2)), np.array([5.0]), np.ones((1, 2, 3)))
    block = ["img_norm1", "rms_norm", "rms_norm", "rotate", "rotate", "img_norm2"]
    assert called == ["time_proj", "rms_norm", "act", *block, "norm"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_blocks_of_half_precision_end_at_its_largest_number(sign):
    ops = get_backend("numpy", dtype="float16")
    square = 4 * np.eye(4, dtype=np.float16)
    matrices = {"proj": square, "gate_layer": sign * square, "out": square}
    p = unflatten({f"img_mlp.{name}.weight": x.astype("f2") for name, x in matrices.items()})
    x = np.tile(np.array([60000.0, 0.0, 60000.0, 0.0], np.float16) * sign, (1, 2, 1))
    rows = np.full((2, 16), 5.0, np.float16)  # of which the gates are nearly 1
    with np.errstate(over="ignore"):
        found = qwen.add_layers(
            ops, p, x.astype("f2"), rows, 1, lambda h: 0 * h + 5000 * sign, 1e-6
        )
    assert (found[..., ::2] == sign * 65504.0).all()
