"""Maps of words in Z-Image: the image first, filled up to 32 tokens, then a chat."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

import ldmref
from ldmref import explore
from ldmref.backends.numpy import NumpyBackend
from ldmref.models.declared import TextAttention

PROMPT = "a red cat"
SHORT = {"prompt": PROMPT, "seed": 1, "sigmas": [0.9, 0.4, 0.0], "sampler": "euler"}
FILLED = 32  # the 16 patches of an image of 16 x 16 pixels, and learned tokens


class Spying(NumpyBackend):
    """Keeps the weights of every attention over image and caption."""

    def attention(self, q, k, v, causal=False, bias=None, scale=None):
        if not causal and k.shape[2] > FILLED:
            scores = np.einsum("nhld,nhmd->nhlm", q, k) / np.sqrt(q.shape[3])
            self.weights.append(softmax(scores + (0.0 if bias is None else bias), axis=-1))
        return super().attention(q, k, v, causal, bias, scale)


@pytest.fixture(scope="module", params=[1.0, 3.0])
def scale(request):
    return request.param


def test_the_maps_are_the_softmax_averaged_by_hand(scale):
    """In the blocks of both alone: those that refine image or caption hold no words."""
    ops = Spying(dtype="float64")
    ops.weights = []
    model = ldmref.random_model("z-image-tiny", backend=ops)
    record = explore.record_run(model, attention=True, cfg_scale=scale, **SHORT)
    layers = record.meta["attention"]["layers"]
    assert layers == ["layers.0.attention", "layers.1.attention"]
    tokenizer = model.tokenizers[0]
    ids = tokenizer.tokenize([PROMPT]).ids[0, 0].tolist()
    pieces = [tokenizer.tokenizer.id_to_token(number) or "" for number in ids]
    assert [word.text for word in record.words] == PROMPT.split()
    for word in record.words:
        assert "".join(pieces[t] for t in word.tokens).replace("Ġ", "") == word.text
    by_hand = np.mean([weights[-1].mean(axis=0) for weights in ops.weights[:2]], axis=0)
    rows = by_hand[:16]
    expected = [rows[:, [FILLED + t for t in word.tokens]].sum(axis=1) for word in record.words]
    found = record.attention[0].reshape(len(expected), -1)
    np.testing.assert_allclose(found, expected, atol=5e-4)
    assert found.max() > 0


def test_layers_that_end_alike_are_told_apart():
    attention = TextAttention((".attention",), ("image", "text"), begin="layers.")
    assert attention.holds("layers.3.attention")
    assert not attention.holds("noise_refiner.0.attention")
    assert not attention.holds("layers.3.attention.to_q")
