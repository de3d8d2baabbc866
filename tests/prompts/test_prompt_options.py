"""Long prompts and weights: what each chunk holds, and what the warnings say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.differences import read_differences
from ldmref.errors import UsageError
from ldmref.prompts.clip import clip_tokenizer
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.prompts.weights import emphasize, parse_prompt_weights
from ldmref.prompts.words import word_tokenizer
from ldmref.testing.clip import awkward_strings, small_vocabulary

TOKENIZER = clip_tokenizer(small_vocabulary(), 8, pad=0)  # six tokens between start and end
CHUNK = PromptOptions("chunk")
WEIGHTED = PromptOptions("chunk", "a1111")


def rows(prompt, options, tokenizer=TOKENIZER):
    """Return the tokens of each chunk between start and end, as text."""
    chunks = []
    for row in tokenizer.tokenize([prompt], options).ids[0].tolist():
        assert row[0] == tokenizer.start
        end = row.index(tokenizer.end)
        assert set(row[end + 1 :]) <= {tokenizer.pad}
        names = [tokenizer.tokenizer.id_to_token(i).removesuffix("</w>") for i in row[1:end]]
        chunks.append(" ".join(names))
    return chunks


def weights(prompt):
    tokens = TOKENIZER.tokenize([prompt], WEIGHTED)
    assert tokens.weights.shape == tokens.ids.shape and tokens.weights.dtype == np.float32
    return [[round(float(w), 4) for w in row] for row in tokens.weights[0]]


# -- long prompts ---------------------------------------------------------------------------------


def test_chunks_hold_the_whole_prompt_in_order():
    assert rows("a a a a a a", CHUNK) == ["a a a a a a"]
    assert rows("a a a a a a the", CHUNK) == ["a a a a a a", "the"]
    assert rows("", CHUNK) == [""]


@pytest.mark.parametrize("length", [8, 20, 77])
def test_chunks_lose_nothing(length):
    tokenizer = clip_tokenizer(small_vocabulary(), length)
    for text in awkward_strings():
        tokens = tokenizer.tokenize([text], CHUNK)
        whole = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
        ends = {tokenizer.start, tokenizer.end}
        assert [i for i in tokens.ids.ravel().tolist() if i not in ends] == whole
        assert tokens.counts == [max(1, -(-len(whole) // (length - 2)))]
        assert all("is read as text" in warning for warning in tokens.warnings)


def test_truncation_is_the_first_chunk_and_names_the_lost_words():
    tokens = TOKENIZER.tokenize(["a red heart on the table, with Painters"])
    assert (tokens.ids[0, 0] == TOKENIZER.tokenize(["a red heart on the table"]).ids[0, 0]).all()
    [warning] = tokens.warnings
    assert "the model reads 6" in warning and warning.endswith("left out: , with Painters")


def test_a_word_torn_apart_is_named_whole():
    [warning] = TOKENIZER.tokenize(["a a a a a qzxj heart"]).warnings
    assert warning.endswith("left out: qzxj heart")


def test_prompts_of_several_lengths_are_filled_up_with_empty_chunks():
    tokens = TOKENIZER.tokenize(["a", "a " * 13, ""], CHUNK)
    assert tokens.ids.shape == (3, 3, 8) and tokens.counts == [1, 3, 1]
    empty = TOKENIZER.tokenize([""]).ids[0, 0]
    assert empty.tolist() == [TOKENIZER.start, TOKENIZER.end, 0, 0, 0, 0, 0, 0]
    assert (tokens.ids[0, 1:] == empty).all() and (tokens.ids[2] == empty).all()
    assert TOKENIZER.tokenize(["a"], PromptOptions("chunk", chunks=4)).ids.shape == (1, 4, 8)


def test_word_tokenizers_read_long_prompts_too():
    words = PromptTokenizer(word_tokenizer(["red heart car"], 100), 4)
    assert rows("red heart car red", CHUNK, words) == ["red heart", "car red"]
    assert rows("(red:2) heart", PromptOptions("truncate", "a1111"), words) == ["red heart"]


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [("long_prompts", "chunks", "'chunk'"), ("prompt_weights", "a111", "'a1111'")],
)
def test_unknown_options_are_refused(name, value, hint):
    with pytest.raises(UsageError, match=f"unknown {name} '{value}'") as caught:
        PromptOptions(**{name: value})
    assert hint in caught.value.hint


# -- A1111's notation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("plain text", [("plain text", 1)]),
        ("", []),
        ("a (red) hat", [("a ", 1), ("red", 1.1), (" hat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: .5 )", [("red", 0.5)]),
        ("(red:-1)(blue:+2.)", [("red", -1), ("blue", 2)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("[[red]] ([hat])", [("red", 1 / 1.21), (" hat", 1)]),
        ("(a (b:2) c:3)", [("a ", 3), ("b", 6), (" c", 3)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1)]),
        (r"(a\):2)", [("a)", 2)]),
        (r"x\y", [("xy", 1)]),
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("a [b", [("a ", 1), ("b", 1 / 1.1)]),
        ("a) b] c:1.3)", [("a) b] c:1.3)", 1)]),
        ("16:9 (4:3)", [("16:9 ", 1), ("4", 3)]),
        ("[red:0.5]", [("red:0.5", 1 / 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(a\nb:1.5)", [("a\nb", 1.5)]),
    ],
)
def test_brackets(prompt, expected):
    [section] = parse_prompt_weights(prompt)
    section = [part for part in section if part.text]
    assert [part.text for part in section] == [text for text, _ in expected]
    np.testing.assert_allclose([part.weight for part in section], [w for _, w in expected], 1e-12)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a BREAK b", ["a", "b"]),
        ("a\nBREAK\nb BREAK c", ["a", "b", "c"]),
        ("BREAKFAST break", ["BREAKFAST break"]),
        ("(a BREAK b:1.5)", ["a", "b"]),
    ],
)
def test_break(prompt, texts):
    assert ["".join(p.text for p in section) for section in parse_prompt_weights(prompt)] == texts


def test_break_within_brackets_keeps_the_weight():
    sections = parse_prompt_weights("(a BREAK b:1.5)")
    assert [[tuple(p) for p in s if p.text] for s in sections] == [[("a", 1.5)], [("b", 1.5)]]


def test_break_begins_a_chunk():
    assert rows("a BREAK the heart", WEIGHTED) == ["a", "the heart"]
    assert rows("a BREAK", WEIGHTED) == ["a"]
    assert rows("BREAK a", WEIGHTED) == ["", "a"]
    assert rows("a BREAK BREAK the", WEIGHTED) == ["a", "", "the"]
    assert rows("a a a a a a a BREAK the", WEIGHTED) == ["a a a a a a", "a", "the"]
    tokens = TOKENIZER.tokenize(["a BREAK (the) heart BREAK a"], PromptOptions("truncate", "a1111"))
    assert tokens.ids.shape == (1, 1, 8) and tokens.counts == [1]
    assert "BREAK needs long_prompts=chunk" in tokens.warnings[0]
    assert tokens.warnings[0].endswith("left out: the heart BREAK a")


def test_weights_belong_to_their_tokens():
    assert weights("a (heart:1.5) the [a]") == [[1, 1, 1.5, 1, 0.9091, 1, 1, 1]]
    assert weights("a a a a a (the heart:2)") == [
        [1, 1, 1, 1, 1, 1, 2, 1],
        [1, 2, 1, 1, 1, 1, 1, 1],
    ]


def test_brackets_are_text_unless_asked_for():
    tokens = TOKENIZER.tokenize(["(a:2)"], PromptOptions())
    assert (tokens.weights == 1).all()
    assert rows("(a:2)", PromptOptions()) == ["( a : 2 )"] and rows("(a:2)", WEIGHTED) == ["a"]


def test_ids_with_plain_text_are_the_same_with_weights_on():
    for text in awkward_strings():
        if not set(text) & set("()[]\\"):
            assert (
                TOKENIZER.tokenize([text], WEIGHTED).ids == TOKENIZER.tokenize([text], CHUNK).ids
            ).all()


@given(st.text("ab ()[]:\\.-1BREAK", max_size=60))
def test_any_brackets_can_be_read(text):
    try:
        tokens = TOKENIZER.tokenize([text], WEIGHTED)
    except UsageError as error:
        assert error.code == "E-PROMPT-WEIGHTS"
        return
    assert np.isfinite(tokens.weights).all()
    assert (tokens.weights[:, :, 0] == 1).all() and (tokens.ids[:, :, 0] == TOKENIZER.start).all()


@pytest.mark.parametrize("prompt", ["(a:1001)", "(a:-1001)", "(" * 100 + "a", "(a:" + "9" * 400])
def test_absurd_weights_are_refused(prompt):
    if prompt.endswith("9"):
        prompt += ")"
    with pytest.raises(UsageError, match="prompt weight") as caught:
        parse_prompt_weights(prompt)
    assert caught.value.code == "E-PROMPT-WEIGHTS"


# -- emphasis -------------------------------------------------------------------------------------


def test_emphasis_scales_tokens_and_keeps_each_chunks_mean(xp, dtype, to_numpy):
    """y = w z mean(z) / mean(w z) has five roundings in addition to those of the two sums.

    A sum of n rounded terms has the relative error n u sum |x| / |sum x|, u the unit roundoff. The
    expected values are rounded in the same way, hence twice the bound.
    """
    stream = np.random.default_rng(0)
    z = (stream.standard_normal((3, 5, 4)) + 1.0).astype(np.float32).astype(float)
    w = np.ones((3, 5))
    w[0, 1] = 1.5
    w[1, 2:4] = [0.5, -2.0]
    w[2] = 1.0
    hidden = xp.asarray(z, dtype=getattr(xp, dtype))
    scale = xp.asarray(w, dtype=xp.float32)
    y = to_numpy(emphasize(hidden, scale))
    assert y.dtype == dtype
    unit = np.finfo(dtype).eps / 2
    for i in range(3):
        weighted = z[i] * w[i][:, None]
        expected = weighted * (z[i].sum() / weighted.sum())
        condition = sum(np.abs(x).sum() / abs(x.sum()) for x in (z[i], weighted))
        bound = 2 * (5 + z[i].size * condition) * unit
        np.testing.assert_allclose(y[i], expected, rtol=bound)
        error = bound * np.abs(expected).mean()
        np.testing.assert_allclose(y[i].mean(dtype=np.float64), z[i].mean(), rtol=0, atol=error)
    assert (y[2] == to_numpy(hidden)[2]).all()


def test_emphasis_of_a_chunk_without_mean():
    z = np.array([[[1.0, -1.0], [2.0, -2.0]]])
    assert (emphasize(z, np.array([[2.0, 1.0]])) == [[[2, -2], [2, -2]]]).all()


def comfyui_weights(text, weight=1.0):
    """ComfyUI's rule: brackets multiply by 1.1, but a number replaces all weights around it."""
    spans, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if (letter == "(" and depth == 1) or (letter == ")" and depth == 0):
            end = i if letter == "(" else i + 1
            spans += [text[start:end]] if end > start else []
            start = end
    spans += [text[start:]] if start < len(text) else []
    found = []
    for span in spans:
        if not (span.startswith("(") and span.endswith(")")):
            found.append((span, weight))
            continue
        inner, colon, number = span[1:-1].rpartition(":")
        if colon:
            found += comfyui_weights(inner, float(number))
        else:
            found += comfyui_weights(span[1:-1], weight * 1.1)
    return found


def test_nested_weights_of_comfyui_stand_alone():
    text = "((a:1.2) b:1.5)"
    theirs = dict(comfyui_weights(text))
    ours = {part.text: part.weight for part in parse_prompt_weights(text)[0]}
    assert theirs == {"a": 1.2, " b": 1.5} and ours == pytest.approx({"a": 1.8, " b": 1.5})
    (row,) = [row for row in read_differences() if "test_nested_weights" in row.test]
    assert f"{theirs['a']:g}, or {ours['a']:g}" in row.number and f"`{text}`" in row.number
    assert dict(comfyui_weights("((a))")) == pytest.approx({"a": 1.21})
