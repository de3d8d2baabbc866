"""Long prompts and weights on their way from the modes' arguments to the U-Net."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from rounding import ROUNDING, same_latents

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.modes.text import encode_texts
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.prompts.weights import emphasize

LONG = "a red heart with a blue cat and a green dog with a red face with a hat " * 2  # 3 chunks
DEFAULTS = {"steps": 2, "seed": 1}


def test_chunks_are_encoded_one_by_one_and_joined(tiny64):
    tiny = tiny64
    words = LONG.split()
    tokens = tiny.tokenize([LONG], PromptOptions("chunk"))
    assert tokens.ids.shape[1] == 3
    joined = tiny.encode_text([LONG, "a cat"], options=PromptOptions("chunk"))
    assert joined.shape == (2, 48, 32)
    first = tiny.encode_text([" ".join(words[:14])])
    last = tiny.encode_text([" ".join(words[28:])])
    np.testing.assert_allclose(joined[0, :16], first[0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(joined[0, 32:], last[0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(joined[1, 16:32], tiny.encode_text([""])[0], rtol=0, atol=ROUNDING)
    assert (tiny.encode_text([LONG]) == tiny.encode_text([" ".join(words[:14])])).all()


def test_weights_multiply_the_hidden_states(tiny):
    plain = tiny.encode_text(["a red heart"])
    reading = PromptOptions("truncate", "a1111")
    w = np.ones((1, 16), np.float32)
    w[0, 2] = 1.5
    assert (tiny.encode_text(["a (red:1.5) heart"], options=reading) == emphasize(plain, w)).all()
    assert (tiny.encode_text(["a red heart"], options=reading) == plain).all()


@pytest.mark.parametrize("key", ["prompt", "negative_prompt"])
def test_the_rest_of_a_long_prompt_is_drawn_only_when_asked_for(tiny, key):
    def draw(text, **more):
        texts = {"prompt": "a cat", "negative_prompt": ""} | {key: text}
        return modes.txt2img(tiny, texts.pop("prompt"), **texts, **DEFAULTS, **more)

    cut = draw(LONG)
    assert (cut.latents == draw(LONG[:-20]).latents).all()
    assert any("left out" in warning for warning in cut.warnings)
    whole = draw(LONG, long_prompts="chunk")
    assert not any("left out" in warning for warning in whole.warnings)
    assert (whole.latents != cut.latents).any()
    assert (whole.latents != draw(LONG[:-20], long_prompts="chunk").latents).any()
    short = draw("a hat", long_prompts="chunk")
    assert (short.latents == draw("a hat").latents).all()


def test_every_mode_takes_both_and_records_them(tiny):
    image = Image.new("RGB", (16, 16), "teal")
    mask = Image.new("L", (16, 16), 255)
    for mode, extra in [
        (modes.txt2img, ()),
        (modes.img2img, (image,)),
        (modes.inpaint, (image, mask)),
    ]:
        plain = mode(tiny, "a (red:1.5) heart", *extra, **DEFAULTS)
        r = mode(tiny, "a (red:1.5) heart", *extra, prompt_weights="a1111", **DEFAULTS)
        assert (r.latents != plain.latents).any()
        assert r.params["prompt_weights"] == "a1111" and r.params["long_prompts"] == "truncate"
        long = mode(tiny, LONG, *extra, long_prompts="chunk", **DEFAULTS)
        assert (long.latents != mode(tiny, LONG, *extra, **DEFAULTS).latents).any()
        assert long.params["long_prompts"] == "chunk" and long.params["prompt_weights"] == "none"


def test_an_image_does_not_depend_on_how_long_the_others_prompts_are(tiny64):
    asked = dict(steps=2, long_prompts="chunk", batch_size=3)
    both = modes.txt2img(tiny64, ["a cat", LONG, "a dog"], seed=[1, 2, 3], **asked)
    alone = modes.txt2img(tiny64, "a cat", seed=1, **asked)
    same_latents(both.latents[:1], alone.latents)

    def batches(prompts, size):
        options = PromptOptions("chunk")
        negatives = [""] * len(prompts)
        text = encode_texts(tiny64, prompts, negatives, (16, 16), options=options)
        return [(batch.start, batch.stop) for batch in text.batches(size)]

    assert batches(["a", "b", "c", LONG, "d"], 2) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert batches([LONG, LONG], 8) == [(0, 2)] and batches([], 1) == []


def test_wrong_values_are_refused_before_anything_is_drawn(tiny):
    for key, value in [("long_prompts", "cut"), ("prompt_weights", "compel")]:
        with pytest.raises(UsageError, match=f"unknown {key}"):
            modes.txt2img(tiny, "a", **{key: value})


def test_a_model_that_pools_its_last_token_reads_one_chunk():
    emoji = ldmref.random_model("emoji", backend="numpy")
    with pytest.raises(UsageError, match="reads one chunk"):
        modes.txt2img(emoji, "a", long_prompts="chunk")
