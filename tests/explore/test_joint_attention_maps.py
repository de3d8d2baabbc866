"""Maps of the words in transformers of image and text: SD3's and Flux.1's joint attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from small_models import save_flow

import ldmref
from ldmref import explore
from ldmref.backends.numpy import NumpyBackend
from ldmref.families.unet import describe_unet
from ldmref.models import preset
from ldmref.samplers import NormalizedAttention

PROMPT = "a red cat"
SHORT = {"prompt": PROMPT, "seed": 1, "sigmas": [0.9, 0.4, 0.0], "sampler": "euler"}
IMAGE = 16  # tokens of an image of 16 x 16 pixels
TEXT = {"sd3-tiny": 32, "flux-tiny": 16}


class Spying(NumpyBackend):
    """Keeps the weights of every attention over this number of tokens."""

    tokens = 0

    def attention(self, q, k, v, causal=False, **more):
        if not causal and k.shape[2] == self.tokens:
            scores = np.einsum("nhld,nhmd->nhlm", q, k) / np.sqrt(q.shape[3])
            self.weights.append(softmax(scores, axis=-1))
        return super().attention(q, k, v, causal, **more)


@pytest.fixture(scope="module", params=["sd3-tiny", "flux-tiny"])
def model(request):
    return ldmref.random_model(request.param, backend="numpy", dtype="float64")


@pytest.fixture(scope="module")
def record(model):
    return explore.record_run(model, **SHORT)


def test_the_maps_are_the_softmax_averaged_by_hand(model, record):
    """SD3 has the image first, then CLIP's 16 tokens and T5's 16; Flux T5's 16, then the image."""
    name = model.config.name
    ops = Spying(dtype="float64")
    ops.tokens = IMAGE + TEXT[name]
    ops.weights = []
    explore.record_run(ldmref.random_model(name, backend=ops), attention=False, **SHORT)
    layers = record.meta["attention"]["layers"]
    first = ops.weights[: len(layers)]  # of the first step
    if name == "sd3-tiny":
        rows, columns = slice(0, 16), [*range(17, 20), *range(33, 36)]
    else:
        rows, columns = slice(16, 32), [1, 2, 3]
    by_hand = np.mean([weights[-1].mean(axis=0) for weights in first], axis=0)  # the prompt is last
    expected = by_hand[rows, columns].T.reshape(-1, 4, 4)
    np.testing.assert_allclose(record.attention[0], expected, atol=5e-4)
    assert len(layers) * 2 == len(ops.weights) and all(layer.endswith(".attn") for layer in layers)
    assert record.meta["attention"]["heads"] == [2] * len(layers)


def test_words_tell_their_encoder(model, record):
    found = [(word.encoder, word.text) for word in record.words]
    t5 = [("T5", word) for word in PROMPT.split()]
    clip = [("CLIP", word) for word in PROMPT.split()]
    assert found == (clip + t5 if model.config.name == "sd3-tiny" else t5)
    total = record.attention.sum(axis=1, dtype=np.float64)
    assert 0 < total.max() < 1  # the rest belongs to padding and to the image


def test_the_map_of_a_word_is_that_of_all_encoders(record):
    places = [i for i, word in enumerate(record.words) if word.text == "cat"]
    expected = record.attention[:, places].astype(np.float32).sum(axis=1)
    assert np.array_equal(record.word_map("Cat"), expected)


def test_the_record_is_read_as_it_was_written(record, tmp_path):
    read = explore.load_record(record.save(tmp_path / "run.safetensors"))
    assert read.words == record.words
    assert np.array_equal(read.attention, record.attention)
    assert read.meta["attention"] == record.meta["attention"]


def test_only_the_prompt_counts(model, record):
    negative = explore.record_run(model, **SHORT, negative_prompt="a dog")
    hardly = NormalizedAttention(scale=1.0 + 1e-9)  # reads both prompts, but adds nothing
    attended = explore.record_run(model, **SHORT, negative_prompt="a dog", guidance=hardly)
    changed = explore.record_run(model, **{**SHORT, "prompt": "a red dog"})
    np.testing.assert_allclose(negative.attention[0], record.attention[0], atol=1e-3)
    assert np.abs(changed.attention[0] - record.attention[0]).max() > 1e-3
    assert attended.attention.shape == record.attention.shape
    np.testing.assert_allclose(attended.attention[0], record.attention[0], atol=1e-3)


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_tokens_of_several_chunks_and_without_a_start_token(name, tmp_path):
    """CLIP begins a chunk with a start token, T5 does not; SD3 has all chunks of CLIP first."""
    model = ldmref.load(save_flow(tmp_path / name, name), backend="numpy")
    prompt = "a red cat on a green mat and a blue dog in a small house by the sea, at night"
    options = {"prompt": prompt, "seed": 1, "steps": 1, "long_prompts": "chunk"}
    record = explore.record_run(model, **options)
    planned = ldmref.modes.plan("txt2img", model, **options)
    encoded = planned.prepare(model).text.encoded[prompt]
    order = {"sd3-tiny": (0, 2), "flux-tiny": (1,)}[name]
    tokenizers = [model.tokenizers[i] for i in order]
    tokens = [t.tokenize([prompt], planned.job.prompt_options).ids for t in tokenizers]
    chunks = max(ids.shape[1] for ids in tokens)
    assert chunks > 1 and encoded.states.shape[1] == chunks * 16 * len(order)
    sequence = {}  # the text of each position that holds a piece of a word
    for i, (tokenizer, ids) in enumerate(zip(tokenizers, tokens, strict=True)):
        vocabulary = tokenizer.tokenizer
        special = {tokenizer.start, tokenizer.end, tokenizer.pad}
        for place, number in enumerate(ids.ravel().tolist()):
            if number not in special:
                sequence[i * chunks * 16 + place] = vocabulary.id_to_token(number)
    assert sorted(t for word in record.words for t in word.tokens) == sorted(sequence)
    for word in record.words:
        pieces = "".join(sequence[t] for t in word.tokens).replace("▁", "")
        assert pieces in word.text or pieces == "<unknown>"  # a chunk may end within a word


def test_a_branch_keeps_the_maps_of_the_words_that_both_have():
    """Of each encoder: the trunk's "cat" of T5 is not the branch's second word of CLIP."""
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    trunk = explore.record_run(model, prompt=PROMPT, seed=1, steps=3)
    one = explore.branch_run(model, trunk, 1, prompt="a cat")
    assert [(word.encoder, word.text) for word in one.words] == [
        ("CLIP", "a"),
        ("CLIP", "cat"),
        ("T5", "a"),
        ("T5", "cat"),
    ]
    assert np.array_equal(one.attention[0], trunk.attention[0][[0, 2, 3, 5]])


def test_a_network_without_words_declares_no_attention_to_them():
    config = replace(preset("tiny").unet, attention="self", cross_attention_dim=0)
    assert describe_unet(config).text_attention is None
    assert describe_unet(preset("tiny").unet).text_attention.layers == (".attn2",)
