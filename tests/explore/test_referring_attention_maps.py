"""Maps of words in transformers of text, image and reference images, in this order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import ldmref
from ldmref import explore
from ldmref.backends.numpy import NumpyBackend
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.declared import TextAttention
from ldmref.modes import plan

PROMPT = "a red cat"
SHORT = {"prompt": PROMPT, "seed": 1, "sigmas": [0.9, 0.4, 0.0], "sampler": "euler"}
BLOCKS = {  # of image and text
    "flux2-tiny": ("transformer_blocks", "single_transformer_blocks"),
    "flux3-tiny": ("single_transformer_blocks",),  # those of a mode alone hold no words
}
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8))


class Spying(NumpyBackend):
    """Keeps the weights of every attention over this number of tokens."""

    tokens = 0

    def attention(self, q, k, v, causal=False, bias=None, scale=None):
        if k.shape[2] == self.tokens:
            scores = np.einsum("nhld,nhmd->nhlm", q, k) / np.sqrt(q.shape[3])
            self.weights.append(softmax(scores + (0.0 if bias is None else bias), axis=-1))
        return super().attention(q, k, v, causal, bias, scale)


@pytest.mark.parametrize("name", [*BLOCKS])
@pytest.mark.parametrize("references", [(), (PHOTO,), (PHOTO, PHOTO.rotate(90, expand=True))])
def test_the_maps_are_the_softmax_averaged_by_hand(name, references):
    """The image's tokens are between those of the text and those of the references."""
    ops = Spying(dtype="float64")
    ops.weights = []
    model = ldmref.random_model(name, backend=ops)
    options = {**SHORT, "width": 64, "height": 32}
    if references:
        options["references"] = [*references]
    conditioning = plan("txt2img", model, **options).prepare(model).conditionings(slice(0, 1))
    first = get_hidden_states(conditioning["cond"].context).shape[1]
    more = conditioning["cond"].more.get("reference_tokens", np.zeros((1, 0, 1))).shape[1]
    ops.tokens = first + 8 * 16 + more
    record = explore.record_run(model, attention=True, **options)
    layers = record.meta["attention"]["layers"]
    assert all(layer.startswith(BLOCKS[name]) for layer in layers)
    assert len(ops.weights) == 2 * len(layers)  # in two steps
    by_hand = np.mean([x[-1].mean(axis=0) for x in ops.weights[: len(layers)]], axis=0)
    rows = by_hand[first : first + 8 * 16]
    expected = [rows[:, [*word.tokens]].sum(axis=1) for word in record.words]
    assert [word.text for word in record.words] == PROMPT.split()
    found = record.attention[0].reshape(len(expected), -1)
    np.testing.assert_allclose(found, expected, rtol=2.0**-10, atol=2.0**-24)  # float16


def test_tokens_may_have_any_order():
    """The image's may be filled up, and the references' may be first."""
    attention = TextAttention((".attn",), ("references", "image", "text"), multiple=32)
    assert attention.find_starts(60, 20, 9) == {"references": 0, "image": 9, "text": 41}
    attention = TextAttention((".attn",), ("text", "references", "image"), multiple=32)
    assert attention.find_starts(60, 20, 9) == {"text": 0, "references": 19, "image": 28}
