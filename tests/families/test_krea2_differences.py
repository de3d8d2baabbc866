"""Where programs for Krea 2 differ from one another, and which of them ldmref follows."""

from __future__ import annotations

import numpy as np

import ldmref.math as lm
from ldmref.backends import get_backend
from ldmref.families.krea2 import KREA2
from ldmref.families.krea2.text import CHAT, LENGTH
from ldmref.families.qwen3.tokens import build_tokenizer
from ldmref.models.layers import mask_bias
from ldmref.prompts import PromptTokenizer, SpecialTokens

OPS = get_backend("numpy", dtype="float64")


def test_the_guidance_scale_of_krea():
    """sampling.py of krea-ai/krea-2; diffsynth/diffusion/base_pipeline.py; denoiser.hpp."""
    cond, uncond = np.random.default_rng(0).standard_normal((2, 5))
    scale = KREA2.guidance_scale.convert

    def krea(g):
        return cond + g * (cond - uncond) if g > 0 else cond

    for g in (0.0, -1.0, 0.5, 3.5):
        ours = lm.classifier_free_guidance(uncond, cond, scale(g))
        np.testing.assert_allclose(ours, krea(g), rtol=1e-12)
    of_diffsynth = uncond + 3.5 * (cond - uncond)
    np.testing.assert_allclose(of_diffsynth, krea(2.5), rtol=1e-12)
    np.testing.assert_array_equal(uncond + 0.0 * (cond - uncond), uncond)  # stable-diffusion.cpp


def test_krea_hides_queries_of_padding():
    """mmdit.py, `_mask`: the outer product of the mask with itself."""
    rng = np.random.default_rng(1)
    q, k, v = rng.standard_normal((3, 1, 2, 6, 4))
    mask = np.array([[1, 1, 0, 0, 1, 1]])
    ours = OPS.attention(q, k, v, bias=mask_bias(OPS, mask))
    outer = (mask[:, None, :, None] * mask[:, None, None, :]) != 0
    scores = np.where(outer, q @ k.transpose(0, 1, 3, 2) / 2.0, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        theirs = weights / weights.sum(axis=-1, keepdims=True) @ v
    tokens = mask[0] == 1
    np.testing.assert_allclose(theirs[:, :, tokens], ours[:, :, tokens], rtol=1e-12)
    assert np.isnan(theirs[:, :, ~tokens]).all() and np.isfinite(ours).all()


def test_prompts_of_krea_have_507_tokens():
    """encoder.py: 512 + 34 - 5 tokens of system message and prompt, then those behind it."""
    words = sorted({*CHAT.before, *CHAT.after, "x"} - {" ", "\n"})
    vocab = {letter: i for i, letter in enumerate([*words, "Ġ", "Ċ"])}
    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = build_tokenizer(vocab, [], {mark: len(vocab) + i for i, mark in enumerate(marks)})
    special = SpecialTokens("", "", marks[0], marks[0])
    before, after = (
        len(tokenizer.encode(text).ids) for text in (CHAT.before, CHAT.after)
    )  # letters, of which this vocabulary consists
    length = LENGTH - 5 + before + after
    chat = PromptTokenizer(tokenizer, length, special, template=CHAT)
    tokens = chat.tokenize("x" * 600)
    assert chat.room == 507 and tokens.truncated == [93]
    assert (tokens.ids[0, 0] == vocab["x"]).sum() == 507 + CHAT.before.count("x")


def test_krea_truncates_pixels():
    """sampling.py: `(img * 255.0).byte()`."""
    pixels = np.linspace(0.0, 1.0, 10001)
    theirs = (pixels * 255.0).astype(np.uint8).astype(int)
    ours = np.round(pixels * 255.0).astype(int)
    assert set(ours - theirs) == {0, 1}
    assert abs(float((ours - theirs).mean()) - 0.5) < 0.01
