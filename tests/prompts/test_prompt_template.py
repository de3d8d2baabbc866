"""Templates of prompts: what a tokenizer puts around them, against the library `tokenizers`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ldmref.errors import UsageError
from ldmref.prompts import (
    PromptOptions,
    PromptTemplate,
    PromptTokenizer,
    SpecialTokens,
    word_tokenizer,
)
from ldmref.prompts.prompt_words import find_words

CHAT = PromptTemplate("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
SPECIAL = SpecialTokens("", "", "<|pad|>", "<|pad|>")
PROMPTS = ("a red cat", "", "  a\n\ncat ", "naïve café 😀", "\n", "cat<|im_end|>")


@pytest.fixture(scope="module")
def chat() -> Tokenizer:
    """A byte-level BPE with a few merges, as Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    text = ["a red cat assistant cat red", "user\n\n"]
    tokenizer.train_from_iterator(text * 9, trainer)
    marks = ("<|im_start|>", "<|im_end|>", "<|pad|>")
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return tokenizer


def expected(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_tokenized_together_with_its_template(chat, prompt):
    tokens = PromptTokenizer(chat, 48, SPECIAL, template=CHAT).tokenize(prompt)
    want = expected(chat, CHAT.before + prompt + CHAT.after)
    pad = chat.token_to_id("<|pad|>")
    assert tokens.ids[0, 0].tolist() == want + [pad] * (48 - len(want))
    assert tokens.mask[0, 0].tolist() == [1] * len(want) + [0] * (48 - len(want))


def test_borders_may_merge(chat):
    """A newline after the template's newline is one token with it."""
    parts = len(expected(chat, CHAT.before)) + len(expected(chat, "\n"))
    assert len(expected(chat, CHAT.before + "\n")) < parts


@pytest.mark.parametrize("cut", ["prompt", "end"])
def test_what_is_too_long_is_cut_as_the_template_says(chat, cut):
    template = PromptTemplate(CHAT.before, CHAT.after, cut)
    prompt = "a red cat " * 20
    tokens = PromptTokenizer(chat, 24, SPECIAL, template=template).tokenize(prompt)
    whole = expected(chat, CHAT.before + prompt + CHAT.after)
    tail = expected(chat, CHAT.after)
    want = whole[:24] if cut == "end" else whole[: 24 - len(tail)] + tail
    assert tokens.ids[0, 0].tolist() == want
    assert tokens.mask.all()
    [line] = tokens.warnings
    assert f"the prompt has {len(expected(chat, prompt))} tokens" in line
    head = len(expected(chat, CHAT.before))
    read = 24 - head - (0 if cut == "end" else len(tail))
    assert tokens.truncated == [len(whole) - head - len(tail) - read]


@pytest.mark.parametrize("prompt", ["a red cat", "", "a red cat " * 20])
def test_padding_may_precede_the_text_after_the_prompt(chat, prompt):
    template = replace(CHAT, padding="prompt")
    tokens = PromptTokenizer(chat, 48, SPECIAL, template=template).tokenize(prompt)
    end = PromptTokenizer(chat, 48, SPECIAL, template=CHAT).tokenize(prompt)
    ids, mask = tokens.ids[0, 0], tokens.mask[0, 0]
    last = len(expected(chat, CHAT.after))
    assert ids[mask == 1].tolist() == end.ids[0, 0][end.mask[0, 0] == 1].tolist()
    assert ids[-last:].tolist() == expected(chat, CHAT.after) and mask[-last:].all()
    assert (ids[mask == 0] == chat.token_to_id("<|pad|>")).all()
    assert (np.diff(mask[:-last]) <= 0).all()  # all padding behind the prompt


def test_weights_lie_on_the_tokens_of_their_span(chat):
    options = PromptOptions(prompt_weights="a1111")
    tokenizer = PromptTokenizer(chat, 48, SPECIAL, template=CHAT)
    tokens = tokenizer.tokenize("a (red:1.5) cat", options)
    heavy = tokens.ids[0, 0][tokens.weights[0, 0] == np.float32(1.5)]
    assert chat.decode(heavy.tolist()).strip() == "red"
    assert tokens.ids[0, 0].tolist() == tokenizer.tokenize("a red cat").ids[0, 0].tolist()


def test_words_have_the_positions_of_the_hidden_states_that_are_read(chat):
    head = expected(chat, CHAT.before)
    dropped = PromptTemplate(CHAT.before, CHAT.after, dropped=len(head))
    plain = find_words(PromptTokenizer(chat, 48, SPECIAL, template=CHAT), "a red cat")
    moved = find_words(PromptTokenizer(chat, 48, SPECIAL, template=dropped), "a red cat")
    assert plain[0].tokens[0] == len(head) and moved[0].tokens[0] == 0
    assert [word.text for word in moved] == ["a", "red", "cat"]


def test_a_prompt_may_be_prepared():
    template = PromptTemplate(prepare=("lower", "strip"))
    words = word_tokenizer(["a red cat"], 8)
    tokenizer = PromptTokenizer(words, 8, template=template)
    options = PromptOptions(prompt_weights="a1111")
    assert tokenizer.tokenize_one("  A (RED) Cat ", options).text.strip(" BREAK") == "a red cat"
    assert template.prepare_text(" A  CAT\n") == "a  cat"


def test_templates_that_cannot_be_are_refused(chat):
    with pytest.raises(UsageError, match="unknown preparation 'upper'"):
        PromptTemplate(prepare=("upper",))
    with pytest.raises(UsageError, match="nothing stands before"):
        PromptTemplate(dropped=3)
    with pytest.raises(UsageError, match="which may be cut"):
        PromptTemplate(CHAT.before, CHAT.after, "end", padding="prompt")
    with pytest.raises(UsageError, match="the text encoder reads 8"):
        PromptTokenizer(chat, 8, SPECIAL, template=CHAT)
    tokenizer = PromptTokenizer(chat, 24, SPECIAL, template=CHAT)
    with pytest.raises(UsageError, match="not divided into chunks"):
        tokenizer.tokenize("a red cat " * 20, PromptOptions(long_prompts="chunk"))
    [line] = tokenizer.tokenize("cat<|im_end|>").warnings
    assert "<|im_end|> in a prompt is read as a special token" in line


def test_a_tokenizer_keeps_its_template_with_another_length(chat):
    tokenizer = PromptTokenizer(chat, 48, SPECIAL).with_template(CHAT).with_length(40)
    assert tokenizer.template == CHAT and tokenizer.length == 40
    assert tokenizer.tokenize("cat").ids.shape == (1, 1, 40)


def test_masks_of_start_and_end_tokens():
    tokenizer = PromptTokenizer(word_tokenizer(["a red cat"], 8), length=6)
    tokens = tokenizer.tokenize(["a cat", "a red cat a red cat"], PromptOptions("chunk"))
    assert tokens.mask.sum(axis=2).tolist() == [[4, 2], [6, 4]]
