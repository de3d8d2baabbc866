"""The transformer of Qwen-Image 2.1 against diffusers, which is the makers' code, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.qwen_image_21.config import QwenImage21Config
from ldmref.families.qwen_image_21.network import (
    add_layers,
    find_cells,
    transformer,
)
from ldmref.models import unflatten
from ldmref.models.conditioning import CachedContext
from ldmref.models.transformer_layers import divide_by_deviation

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache
from family_tools import compile_network
from qwen_image_21_pipelines import make_transformer, renew_positions, transformer_in_double

CONFIG = QwenImage21Config(
    in_channels=4, out_channels=4, num_layers=3, attention_head_dim=24, num_attention_heads=2,
    context_in_dim=20, axes_dims_rope=(8, 8, 8),
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    """Return a small transformer in float64."""
    torch.manual_seed(0)
    model = make_transformer(num_layers=3, attention_head_dim=24, axes_dims_rope=(8, 8, 8)).double()
    renew_positions(model)
    with transformer_in_double():
        yield model


def read_params(theirs, ops):
    state = {name: ops.asarray(value.numpy()) for name, value in theirs.state_dict().items()}
    return unflatten(state)


def draw(lengths, height, width):
    """Return latents, times, texts of these lengths filled up with a number, and their mask."""
    generator = np.random.default_rng(0)
    n = len(lengths)
    context = np.full((n, max(lengths), 20), 7.0)
    mask = np.zeros(context.shape[:2], np.int64)
    for i, length in enumerate(lengths):
        context[i, :length] = generator.standard_normal((length, 20))
        mask[i, :length] = 1
    x = generator.standard_normal((n, 4, height, width))
    return x, generator.uniform(0, 1000, n), context, mask


def compute(theirs, x, t, context, mask=None, start=None, backend="numpy", cached=False):
    """Compute our prediction in float64."""
    ops = get_backend(backend, dtype="float64")
    x, t, context = (ops.asarray(part) for part in (x, t, context))
    mask = None if mask is None else ops.asarray(mask)
    context = CachedContext(context) if cached else context
    start = None if start is None else ops.asarray(start)
    params = read_params(theirs, ops)
    return ops.to_numpy(transformer(ops, params, CONFIG, x, t, context, mask, start))


def predict(theirs, x, t, context, **options):
    """Return what diffusers' network computes, for texts without padding."""
    n, channels, height, width = x.shape
    slots = torch.zeros(n, context.shape[1] + height * width // 4, dtype=torch.bool)
    slots[:, context.shape[1] :] = True
    with torch.no_grad():
        found = theirs(
            torch.tensor(x).flatten(2).transpose(1, 2),
            torch.tensor(context),
            torch.tensor(t) / 1000.0,
            [[(1, height, width)]] * n,
            slots,
            **options,
        ).sample[:, -height * width :]
    return found.transpose(1, 2).reshape(n, channels, height, width).numpy()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("n", "length", "height", "width"), [(1, 5, 4, 4), (2, 9, 2, 6), (1, 1, 8, 2), (3, 30, 6, 10)]
)
def test_the_transformer_is_that_of_diffusers(theirs, backend, cached, n, length, height, width):
    x, t, context, _ = draw((length,) * n, height, width)
    want = predict(theirs, x, t, context)
    got = compute(theirs, x, t, context, None, None, backend, cached)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("number", range(3))
def test_each_block_is_that_of_diffusers(theirs, number):
    """Its tokens, of which the first are text, and with keys and values of the text the image."""
    from ldmref.families.qwen_image_21 import network as ours

    ops = get_backend("numpy", dtype="float64")
    x, t, context, _ = draw((5, 5), 4, 6)
    found = {}

    def keep(module, args, kwargs, output):
        found["input"] = kwargs["hidden_states"].numpy()
        found["output"] = output.numpy()

    hook = theirs.transformer_blocks[number].register_forward_hook(keep, with_kwargs=True)
    try:
        predict(theirs, x, t, context)
    finally:
        hook.remove()
    p = read_params(theirs, ops)
    emb = ours.embed_time(ops, p.time_text_embed, ours.add_clean_time(ops, t))
    rows = ours.linear(ops, p.modulation["1"], ops.silu(emb))
    p_block = p.transformer_blocks[str(number)]
    both = ours.find_sequence(ops, CONFIG, x, context, None, False)
    got = ours.block(ops, p_block, found["input"], rows, *both, None, CONFIG)
    assert np.abs(got - found["output"]).max() < 1e-10 * np.abs(found["output"]).max()
    kept = ours.read_text(ops, p, CONFIG, rows, context)[number]
    alone = ours.find_sequence(ops, CONFIG, x, context, None, True)
    image = ours.block(ops, p_block, found["input"][:, 5:], rows, *alone, kept, CONFIG)
    assert np.abs(image - found["output"][:, 5:]).max() < 1e-10 * np.abs(found["output"]).max()


def test_a_cached_step_is_that_of_diffusers(theirs):
    """A later step with the cache of the first, in both programs, is the step without one."""
    x, t, context, _ = draw((7, 7), 4, 6)
    cache = QwenImage21KVCache(3)
    predict(theirs, x[::-1].copy(), 0.5 * t, context, kv_cache=cache, kv_cache_mode="extract")
    want = predict(theirs, x, t, context, kv_cache=cache, kv_cache_mode="cached")
    ops = get_backend("numpy", dtype="float64")
    p = read_params(theirs, ops)
    kept = CachedContext(context)
    transformer(ops, p, CONFIG, x[::-1].copy(), 0.5 * t, kept)
    got = transformer(ops, p, CONFIG, x, t, kept)
    whole = compute(theirs, x, t, context)
    for other in (want, whole):
        assert np.abs(got - other).max() < 1e-12 * np.abs(want).max()


def test_the_cache_is_made_once(theirs):
    """Its keys and values are those of the text in every block, and none is another block's."""
    ops = get_backend("numpy", dtype="float64")
    x, t, context, _ = draw((5,), 4, 4)
    p = read_params(theirs, ops)
    kept = CachedContext(context)
    transformer(ops, p, CONFIG, x, t, kept)

    def fail(states):
        raise AssertionError("it is computed again")

    pairs = kept.keys_and_values(p, fail)
    assert len(pairs) == 3
    assert len({float(k.sum()) for k, _ in pairs}) == len({float(v.sum()) for _, v in pairs}) == 3


@pytest.mark.parametrize("cached", [False, True])
def test_padding_moves_nothing(theirs, cached):
    """A row of a batch of texts of unequal lengths is what it is alone, whatever padding holds."""
    x, t, context, mask = draw((5, 30, 1), 4, 6)
    together = compute(theirs, x, t, context, mask, cached=cached)
    for i, length in enumerate((5, 30, 1)):
        want = predict(theirs, x[i : i + 1], t[i : i + 1], context[i : i + 1, :length])
        assert np.abs(together[i : i + 1] - want).max() < 1e-10 * np.abs(want).max()


def test_diffusers_moves_the_image_behind_padding(theirs):
    """In a batch of diffusers the image of a shorter text is where its padding ends."""
    x, t, context, mask = draw((5, 8), 4, 6)
    options = {"encoder_hidden_states_mask": torch.tensor(mask)}
    batch = predict(theirs, x, t, context, **options)
    alone = predict(theirs, x[:1], t[:1], context[:1, :5])
    assert np.abs(batch[:1] - alone).max() > 1e-3 * np.abs(alone).max()
    ours = compute(theirs, x, t, context, mask)
    assert np.abs(batch[1] - ours[1]).max() < 1e-10 * np.abs(ours).max()
    for cached in (False, True):
        moved = compute(theirs, x, t, context, mask, np.full(2, 8), cached=cached)
        assert np.abs(batch - moved).max() < 1e-10 * np.abs(batch).max()


def test_the_text_is_read(theirs):
    x, t, context, _ = draw((5,), 4, 4)
    first, second = (compute(theirs, x, t, text) for text in (context, context[:, ::-1].copy()))
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()


def test_positions_of_an_image_are_counted_from_its_middle():
    ops = get_backend("numpy", dtype="float64")
    cells = find_cells(ops, np.zeros((1, 4, 4, 2)))
    assert cells[0, :, 0].tolist() == [-2, -2, -1, -1, 0, 0, 1, 1]
    assert cells[0, :, 1].tolist() == [-1, 0] * 4


def test_whole_timesteps_are_those_of_floats(theirs):
    x, _, context, _ = draw((5,), 4, 4)
    first, second = (
        compute(theirs, x, np.asarray([500], dtype), context) for dtype in ("i8", "f8")
    )
    assert np.array_equal(first, second)


def test_norms_have_mean_0_and_variance_1():
    x = np.random.default_rng(0).standard_normal((2, 3, 64))
    found = divide_by_deviation(3.0 * x + 5.0, 0.0, "float64")
    assert np.abs(found.mean(axis=-1)).max() < 1e-13
    assert np.abs(found.var(axis=-1) - 1.0).max() < 1e-13


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_graph_takes_every_size(theirs, name):
    def network(ops, p, x, t, context, mask):
        return transformer(ops, p, CONFIG, x, t, context, mask)

    ops, compiled = compile_network(name, theirs, network)
    for lengths, height, width in (((5, 9), 4, 4), ((3, 1), 2, 8), ((12, 12), 6, 4)):
        x, t, context, mask = draw(lengths, height, width)
        want = compute(theirs, x, t, context, mask)
        arrays = (part.astype(np.float32) for part in (x, t, context))
        got = ops.to_numpy(compiled(*arrays, mask))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_are_clipped_to_the_largest_number_of_float16_there_alone(dtype):
    """As diffusers' block does, whose sums of gated layers may pass it."""
    ops = get_backend("torch", dtype=dtype)
    mlp = {"proj": (8, 4), "gate_layer": (8, 4), "out": (4, 8)}
    p = unflatten({f"img_mlp.{k}.weight": ops.asarray(4 * np.eye(*x)) for k, x in mlp.items()})
    x = ops.asarray(np.tile([60000.0, 0.0, 60000.0, 0.0], (1, 3, 1)))
    rows = ops.asarray(np.full((2, 16), 5.0))  # gates are 1, of which tanh is taken
    made = ops.to_numpy(add_layers(ops, p, x, rows, 1, lambda h: 0 * h + 5000.0, 1e-6))
    largest = made[..., ::2]
    assert np.all(largest == 65504.0 if dtype == "float16" else largest > 66000.0), made
