"""Textual inversion: file layouts, new ids, new rows, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, UnsafeFileError, UsageError
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset
from ldmref.prompts.clip import clip_tokenizer
from ldmref.prompts.textual_inversion import Embedding, add_embeddings, group_by_encoder
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.testing.clip import small_vocabulary

VOCABULARY = small_vocabulary()
TABLE = "text_model.embeddings.token_embedding.weight"
SIZE = len(VOCABULARY.vocab)
WIDTH = 32
LENGTH = 16
ROUNDING = 1e-10  # float64 rounding stays far below it, and every fault far above


def vectors(k, width=WIDTH, seed=0):
    return np.random.default_rng(seed).standard_normal((k, width)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    """Return the tiny model with a small CLIP vocabulary."""
    config = preset("tiny")
    text = dataclasses.replace(config.text_encoder, vocab_size=SIZE)
    config = dataclasses.replace(config, text_encoder=text)
    tokenizer = clip_tokenizer(VOCABULARY, LENGTH, pad=0)
    return LatentDiffusion(get_backend("numpy"), config, init(model_spec(config)), tokenizer)


def ids(tokenizer, prompt):
    row = tokenizer.encode([prompt])[0][0].tolist()
    return row[1 : row.index(tokenizer.end)]


def test_layouts(tmp_path):
    one = vectors(1)
    two = vectors(3)
    save_file({"<cat-toy>": one[0]}, tmp_path / "learned_embeds.safetensors")
    save_file({"<cat-toy>": two}, tmp_path / "many.safetensors")
    save_file({"emb_params": two.astype(np.float16)}, tmp_path / "bad-hands.safetensors")
    save_file({"clip_l": two, "clip_g": vectors(3, 40)}, tmp_path / "xl.safetensors")
    [embedding] = read_embeddings(tmp_path / "learned_embeds.safetensors")
    assert (embedding.word, embedding.encoder) == ("<cat-toy>", "") and (
        embedding.vectors == one
    ).all()
    [embedding] = read_embeddings(tmp_path / "many.safetensors", word="<toy>")
    assert embedding.word == "<toy>" and (embedding.vectors == two).all()
    [embedding] = read_embeddings(str(tmp_path / "bad-hands.safetensors"))
    assert embedding.word == "bad-hands" and embedding.vectors.dtype == np.float32
    assert (embedding.vectors == two.astype(np.float16)).all()
    xl = read_embeddings(tmp_path / "xl.safetensors")
    assert [(e.word, e.encoder, e.vectors.shape[1]) for e in xl] == [
        ("xl", "clip_l", 32),
        ("xl", "clip_g", 40),
    ]


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": vectors(1), "b": vectors(1)},
        {"<x>": vectors(1)[None]},
        {"<x>": np.full((1, 4), np.nan, np.float32)},
        {"<x>": np.zeros((0, 4), np.float32)},
    ],
)
def test_other_layouts_are_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CorruptModelError) as caught:
        read_embeddings(tmp_path / "x.safetensors")
    assert caught.value.code == "E-EMBEDDING"


def test_pickles_are_refused(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"PK\x03\x04 a torch file")
    with pytest.raises(UnsafeFileError):
        read_embeddings(tmp_path / "old.pt")


def test_words_get_rows_and_the_given_things_stay(model):
    table = flatten(model.params.text_encoder)[TABLE]
    tokenizer = model.tokenizer
    before = table.copy()
    new = [Embedding("<Cat>", vectors(1)), Embedding("badhands", vectors(3, seed=1))]
    after, grown = add_embeddings(table, tokenizer, new)
    assert (after[:SIZE] == before).all() and len(after) == SIZE + 4
    assert (after[SIZE:] == np.concatenate([e.vectors for e in new])).all()
    assert (table == before).all()
    hands = [SIZE + 1, SIZE + 2, SIZE + 3]
    assert ids(grown, "<cat>") == ids(grown, "<CAT>") == [SIZE]
    assert ids(grown, "a BadHands, <cat>") == [
        *ids(tokenizer, "a"),
        *hands,
        *ids(tokenizer, ","),
        SIZE,
    ]
    assert ids(grown, "badhandsome") == ids(tokenizer, "badhandsome")
    assert max(ids(tokenizer, "<cat> badhands")) < SIZE
    assert grown.pad == tokenizer.pad == 0
    again, more = add_embeddings(after, grown, [Embedding("<dog>", vectors(1))])
    assert ids(more, "<dog> badhands") == [SIZE + 4, *hands]
    assert again.shape == (SIZE + 5, WIDTH)


def test_vectors_of_one_word_stay_in_one_chunk(model):
    _, grown = add_embeddings(
        flatten(model.params.text_encoder)[TABLE], model.tokenizer, [Embedding("<x>", vectors(5))]
    )
    tokens = grown.tokenize(["a " * 11 + "(<x>:1.5) a"], PromptOptions("chunk", "a1111"))
    assert tokens.counts == [2] and tokens.ids[0, 0, 12] == grown.end
    assert tokens.ids[0, 1, 1:6].tolist() == list(range(SIZE, SIZE + 5))
    assert tokens.weights[0, 1].tolist() == [1.0] + [1.5] * 5 + [1.0] * 10
    [warning] = grown.tokenize(["a " * 11 + "<x> a"]).warnings
    assert warning.endswith("left out: <x> a")


@pytest.mark.parametrize(
    ("embedding", "error", "text"),
    [
        (Embedding("<x>", vectors(1, 31)), CorruptModelError, "width 31, the text encoder 32"),
        (Embedding("heart</w>", vectors(1)), UsageError, "already has a token 'heart</w>'"),
        (Embedding(" ", vectors(1)), UsageError, "has no name"),
        (Embedding("<x>", vectors(LENGTH - 1)), UsageError, "a prompt has room for 14"),
    ],
)
def test_what_does_not_fit_is_refused(model, embedding, error, text):
    with pytest.raises(error, match=text):
        add_embeddings(flatten(model.params.text_encoder)[TABLE], model.tokenizer, [embedding])


@pytest.mark.parametrize(("first", "second"), [("<x>", "<X>"), ("<X>", "<x>")])
def test_a_word_is_added_once(model, first, second):
    twice = [Embedding(first, vectors(1)), Embedding(second, vectors(1))]
    with pytest.raises(UsageError, match=f"already has a token '{second}'"):
        add_embeddings(flatten(model.params.text_encoder)[TABLE], model.tokenizer, twice)


def test_a_tokenizer_with_more_tokens_than_the_table_is_refused(model):
    with pytest.raises(CorruptModelError, match="knows") as caught:
        add_embeddings(
            np.zeros((SIZE - 1, 32), np.float32), model.tokenizer, [Embedding("<x>", vectors(1))]
        )
    assert caught.value.code == "E-TOKENIZER"


def test_rows_that_are_no_tokens_make_room_for_the_word(model):
    rows = np.zeros((SIZE + 5, 32), np.float32)
    word = Embedding("<x>", vectors(2))
    table, tokenizer = add_embeddings(rows, model.tokenizer, [word])
    ids = tokenizer.encode(["<x>"])[0][0]
    np.testing.assert_array_equal(table[ids[1:3]], word.vectors)
    assert len(table) == SIZE + 2 == tokenizer.tokenizer.get_vocab_size()


def test_a_model_with_more_words(model):
    # the vector of a known word: the new word must mean exactly the same
    known = ids(model.tokenizer, "heart")
    table = flatten(model.params.text_encoder)[TABLE]
    word = Embedding("<love>", table[known])
    grown = model.with_embeddings([word])
    here = flatten(model.params.text_encoder)
    there = flatten(grown.params.text_encoder)
    assert {k for k, v in there.items() if v is not here[k]} == {TABLE}
    assert grown.config.text_encoder.vocab_size == SIZE + len(known)
    assert grown.modifications["embeddings"] == {"<love>": word.sha256}
    assert "embeddings" not in model.modifications
    want = model.encode_text(["a red heart"])
    assert (grown.encode_text(["a red <love>"]) == want).all()
    assert (grown.encode_text(["a red heart"]) == want).all()
    assert (model.encode_text(["a red <love>"]) != want).any()
    assert grown.params.unet is model.params.unet


def test_embeddings_go_to_their_encoder():
    left = Embedding("x", vectors(2), "clip_l")
    right = Embedding("x", vectors(2, 40), "clip_g")
    plain = Embedding("x", vectors(2))
    assert group_by_encoder([left, right], 2) == [[left], [right]]
    assert group_by_encoder([plain], 1) == [[plain]]
    uneven = Embedding("x", vectors(3, 40), "clip_g")
    for wrong, n in [([left, right], 1), ([plain], 2), ([left], 2), ([left, uneven], 2)]:
        with pytest.raises(UsageError, match="do not fit a model"):
            group_by_encoder(wrong, n)


# -- two text encoders ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_encoders():
    """Two encoders as in SDXL, in float64; the second pools the token with the largest id."""
    config = preset("tiny")
    text = dataclasses.replace(config.text_encoder, vocab_size=SIZE)
    second = dataclasses.replace(text, projection_dim=24, eos_token_id=2, hidden_act="gelu")
    unet = dataclasses.replace(
        config.unet,
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
    )
    config = dataclasses.replace(config, denoiser=unet, text_encoder=text, text_encoder_2=second)
    tokenizers = [clip_tokenizer(VOCABULARY, LENGTH, pad=pad) for pad in (None, 0)]
    params = init(model_spec(config))
    ops = get_backend("numpy", dtype="float64")
    return LatentDiffusion(ops, config, params, tokenizers[0], "", tokenizers[1])


def conditioning(model, prompts, options=None):
    encoded = model.encode_prompts(prompts, 0, options or PromptOptions())
    return Conditioning(encoded.states, encoded.pooled)


def test_two_encoders_learn_a_word_together(two_encoders):
    known = ids(two_encoders.tokenizer, "heart")
    tables = [flatten(two_encoders.params[n])[TABLE] for n in ("text_encoder", "text_encoder_2")]
    words = [
        Embedding("<love>", table[known], kind)
        for table, kind in zip(tables, ("clip_l", "clip_g"), strict=True)
    ]
    grown = two_encoders.with_embeddings(words)
    want = conditioning(two_encoders, ["a red heart, the dog"])
    got = conditioning(grown, ["a red <love>, the dog"])
    assert (got.context == want.context).all() and (got.pooled == want.pooled).all()
    assert grown.config.text_encoder_2.eos_token_id == grown.tokenizer.end


def test_the_pooled_output_is_the_first_chunks(two_encoders):
    first = "a red heart, " * 3 + "the dog"
    second = "a hat"
    long = f"{first} BREAK {second}"
    condition = conditioning(two_encoders, [long, first], PromptOptions("chunk", "a1111", chunks=3))
    alone = conditioning(two_encoders, [first])
    assert condition.context.shape == (2, 3 * LENGTH, 64) and condition.pooled.shape == (2, 24)
    np.testing.assert_allclose(condition.pooled[0], alone.pooled[0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(condition.pooled[1], alone.pooled[0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(
        condition.context[0, :LENGTH], alone.context[0], rtol=0, atol=ROUNDING
    )
