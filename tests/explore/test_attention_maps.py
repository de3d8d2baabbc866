"""Maps of cross-attention: against a softmax by hand, their sums, and what they show."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.ndimage import zoom
from scipy.special import softmax

import ldmref
from ldmref import explore
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import UsageError
from ldmref.explore.attention import AttentionBackend, find_size, interpolation, resize
from ldmref.prompts.prompt_words import PromptWord

PROMPT = "a red cat"


@pytest.fixture(scope="module")
def tiny():
    return ldmref.random_model("tiny", backend="numpy", dtype="float64")


@pytest.fixture(scope="module")
def emoji():
    return ldmref.load(backend="numpy")


class Spying(NumpyBackend):
    """Keeps the weights of every attention over the 16 tokens of the text."""

    def attention(self, q, k, v, causal=False, **more):
        if not causal and k.shape[2] == 16:
            scores = np.einsum("nhld,nhmd->nhlm", q, k) / np.sqrt(q.shape[3])
            self.weights.append(softmax(scores, axis=-1))
        return super().attention(q, k, v, causal, **more)


def test_the_maps_are_the_softmax_averaged_by_hand(tiny):
    """With SciPy: row 1 of the batch, all heads, all layers resized linearly, tokens 1 to 3."""
    ops = Spying(dtype="float64")
    ops.weights = []
    spied = ldmref.random_model("tiny", backend=ops)
    one = {"prompt": PROMPT, "seed": 1, "sigmas": [3.0, 0.5], "sampler": "euler"}
    one |= {"width": 32, "height": 32}  # of which no level has 16 pixels, as many as tokens
    record = explore.record_run(tiny, **one)
    explore.record_run(spied, attention=False, **one)
    expected = 0.0
    for weights in ops.weights:  # (uncond and cond, heads, pixels, tokens)
        side = int(np.sqrt(weights.shape[2]))
        maps = weights[1].mean(axis=0).T.reshape(16, side, side)
        larger = (1, 16 // side, 16 // side)
        expected = expected + zoom(maps, larger, order=1, mode="nearest", grid_mode=True)
    expected = expected / len(ops.weights)
    assert record.attention.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(record.attention[0], expected[1:4], atol=5e-4)
    names = record.meta["attention"]["layers"]
    assert len(names) == len(ops.weights) == len({*names}) and all("attn2" in n for n in names)
    assert record.meta["attention"]["heads"] == [w.shape[1] for w in ops.weights]


def test_the_maps_of_all_tokens_sum_to_1(tiny, monkeypatch):
    """At every pixel of every step, after averaging and resizing; words alone have less."""
    everything = [PromptWord("words", (1, 2, 3)), PromptWord("rest", (0, *range(4, 16)))]
    monkeypatch.setattr("ldmref.explore.record.words_of", lambda run: everything)
    record = explore.record_run(tiny, prompt=PROMPT, seed=1, steps=3)
    total = record.attention.sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(total, 1.0, atol=2e-3)  # of float16
    assert (record.attention >= 0).all() and (record.attention[:, 0] < 1).all()


def test_the_maps_of_all_tokens_of_the_embedded_model_sum_to_1(emoji, monkeypatch):
    everything = [PromptWord("all", tuple(range(24)))]
    monkeypatch.setattr("ldmref.explore.record.words_of", lambda run: everything)
    record = explore.record_run(emoji, prompt="a dog", seed=1, steps=2)
    np.testing.assert_allclose(record.attention.astype(np.float64), 1.0, atol=2e-3)


def test_only_the_conditional_half_counts(tiny):
    a = explore.record_run(tiny, prompt=PROMPT, negative_prompt="dog", seed=1, sigmas=[3.0, 0.5])
    b = explore.record_run(tiny, prompt=PROMPT, negative_prompt="heart", seed=1, sigmas=[3.0, 0.5])
    alone = explore.record_run(tiny, prompt=PROMPT, cfg_scale=1.0, seed=1, sigmas=[3.0, 0.5])
    perturbed = explore.record_run(tiny, prompt=PROMPT, guidance="pag", seed=1, sigmas=[3.0, 0.5])
    for other in (b, alone, perturbed):
        np.testing.assert_allclose(other.attention[0], a.attention[0], atol=1e-3)
    changed = explore.record_run(tiny, prompt="a red dog", seed=1, sigmas=[3.0, 0.5])
    assert np.abs(changed.attention[0] - a.attention[0]).max() > 1e-3


# -- flat maps ------------------------------------------------------------------------------------


def test_maps_are_flat_if_no_pixel_asks():
    """With queries of 0 every token gets 1 / 16 of the attention of every pixel, exactly."""
    model = ldmref.random_model("tiny", backend="numpy")
    unet = model.params["unet"]
    parts = [*unet.down_blocks.values(), unet.mid_block, *unet.up_blocks.values()]
    for part in parts:
        for attention in part.get("attentions", {}).values():
            for block in attention.transformer_blocks.values():
                block.attn2.to_q.weight[:] = 0.0
    record = explore.record_run(model, prompt=PROMPT, seed=1, steps=2)
    np.testing.assert_allclose(record.attention.astype(float), 1 / 16, atol=1e-4)


def test_the_map_of_an_absent_word_is_flat(tiny):
    """It has no tokens: 0 at every pixel of every step."""
    record = explore.record_run(tiny, prompt=PROMPT, seed=1, steps=3)
    assert record.word_map("elephant").shape == (3, 8, 8)
    assert not record.word_map("elephant").any()
    assert record.word_map("CAT").any()
    without = explore.record_run(tiny, prompt=PROMPT, seed=1, steps=2, attention=False)
    with pytest.raises(UsageError, match="without attention"):
        without.word_map("cat")


def contrast(maps):
    """Return the standard deviation over the mean, of the mean over all steps."""
    mean = maps.mean(axis=0)
    return mean.std() / mean.mean()


def test_the_map_of_a_word_without_a_thing_is_flatter(emoji):
    """The model does not know xyzzy, so no part of the image belongs to it."""
    for seed in (3, 4):
        record = explore.record_run(emoji, prompt="a green cat and a red apple xyzzy", seed=seed)
        unknown = contrast(record.word_map("xyzzy"))
        for noun in ("cat", "apple"):
            assert contrast(record.word_map(noun)) > 1.3 * unknown


# -- what they show -------------------------------------------------------------------------------


def mean_over_cells(image, test):
    """Return the share of pixels of each of 8 x 8 cells that pass a test."""
    pixels = np.asarray(image, int).reshape(8, 16, 8, 16, 3)
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return test(r, g, b).mean(axis=(1, 3))


@pytest.mark.parametrize("seed", [3, 5])
def test_words_lie_on_their_things(emoji, seed):
    """In an image of a green cat and a red apple, three quarters of each map."""
    record = explore.record_run(emoji, prompt="a green cat and a red apple", seed=seed)
    red = mean_over_cells(record.image, lambda r, g, b: (r > 140) & (g < 110) & (b < 110)) > 0.1
    green = mean_over_cells(record.image, lambda r, g, b: (g > 110) & (r < 110) & (b < 130)) > 0.1
    assert red.sum() >= 4 and green.sum() >= 4 and not (red & green).any()
    for words, mine, other in ((("apple", "red"), red, green), (("cat", "green"), green, red)):
        for word in words:
            late = record.word_map(word)[10:].mean(axis=0)
            assert late[mine].mean() > 2.5 * late[other].mean(), word
            assert late[mine].mean() > 2.5 * late[~(red | green)].mean(), word


# -- backends -------------------------------------------------------------------------------------


class Compiling(NumpyBackend):
    """Claims to compile, so nothing can be watched in the compiled network."""

    compiles = True

    def compile(self, network, params):
        return partial(network, NumpyBackend(self.device, self.dtype), params)


def test_a_compiled_network_is_watched_in_a_second_evaluation():
    compiled = ldmref.random_model("tiny", backend=Compiling())
    plain = ldmref.random_model("tiny", backend="numpy", speed="exact")
    runs = [
        explore.record_run(m, prompt=PROMPT, seed=1, steps=3, sampler="heun")
        for m in (compiled, plain)
    ]
    assert runs[0].image.tobytes() == runs[1].image.tobytes()
    np.testing.assert_allclose(runs[0].attention, runs[1].attention, atol=1e-3)


def test_models_without_words_have_no_maps(tiny):
    between = explore.record_run(
        tiny, "interpolate", prompt="a cat", prompt_b="a dog", positions=[0.5], seed=1, steps=2
    )
    assert between.attention is None and between.words == []
    embeds = tiny.backend.to_numpy(tiny.encode_text(["a cat"]))
    embedded = explore.record_run(tiny, prompt="", prompt_embeds=embeds, seed=1, steps=2)
    assert embedded.attention is None and "prompt_embeds" in embedded.inputs


# -- sizes ----------------------------------------------------------------------------------------


def test_levels_of_any_size_are_found():
    assert find_size(64, (16, 16)) == (8, 8)
    assert find_size(9 * 7, (17, 13)) == (9, 7)
    assert find_size(5 * 4, (17, 13)) == (5, 4)
    with pytest.raises(ValueError, match="no level"):
        find_size(50, (16, 16))


def test_resizing_is_linear_and_keeps_sums():
    matrix = interpolation(4, 8)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    ramp = np.arange(4.0)[None, :, None] * np.ones((1, 4, 4))
    large = resize(ramp, 8, 8)
    np.testing.assert_allclose(large[0, 1:-1, 0], np.arange(0.25, 3.0, 0.5))
    maps = np.random.default_rng(0).random((3, 3, 5))
    maps /= maps.sum(axis=0)
    np.testing.assert_allclose(resize(maps, 9, 7).sum(axis=0), 1.0)
    assert np.array_equal(interpolation(5, 5), np.eye(5))


def test_maps_of_layers_with_a_bias_and_a_scale(tiny):
    """With SciPy, row by row: the image does not look at words that a mask hides."""
    rng = np.random.default_rng(2)
    ops = AttentionBackend(tiny, [PromptWord("one", (1,)), PromptWord("two", (2, 5))])
    ops.watch((4, 4))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    ops._scope.append(name)
    q, k, v = (rng.standard_normal((2, 3, length, 4)) for length in (16, 6, 6))
    bias = rng.standard_normal((2, 3, 16, 6))
    bias[1, ..., 5] = -1e9
    for given in (bias, bias[:, :1, :1]):
        y = ops.attention(q, k, v, bias=given, scale=0.3)
        scores = 0.3 * np.einsum("nhld,nhmd->nhlm", q, k) + given
        weights = softmax(scores, axis=-1)
        np.testing.assert_allclose(y, weights @ v, atol=1e-12)
        (maps,) = ops.calls[name][-1:]
        want = np.stack([weights[..., 1], weights[..., 2] + weights[..., 5]], axis=-1).mean(axis=1)
        np.testing.assert_allclose(maps.weights, want, atol=1e-12)
