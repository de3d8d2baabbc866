"""Text of any length costs little: it is refused at once, or read in linear time."""

from __future__ import annotations

import pytest
from cheap import stays_cheap

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.prompts.clip import clip_tokenizer
from ldmref.prompts.text_checks import MAX_TEXT
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.prompts.weights import parse_prompt_weights
from ldmref.testing.clip import small_vocabulary

PATTERNS = {
    "one word": "a", "spaces": " ", "emoji": "\U0001f600", "words": "red ", "open": "(",
    "brackets": "[a]", "weights": "(a:1.3)", "colons": ":", "breaks": "BREAK ", "nul": "\0",
    "accents": "e\u0301", "backslashes": "\\", "joiners": "\u200d", "marks": "!", "nested": "(a",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_a_megabyte_is_refused_at_once(model, pattern):
    text = pattern * (10**6 // len(pattern))
    with stays_cheap(), pytest.raises(UsageError) as caught:
        modes.plan("txt2img", model.config, prompt=text)
    assert caught.value.code == "E-PROMPT-LENGTH"
    with stays_cheap(), pytest.raises(UsageError) as caught:
        model.encode_text([text])
    assert caught.value.code == "E-PROMPT-LENGTH" and len(str(caught.value)) < 200


@pytest.mark.parametrize("options", [PromptOptions(), PromptOptions("chunk", "a1111")])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_the_longest_text_is_read_in_little_time(model, pattern, options):
    text = pattern * (MAX_TEXT // len(pattern))
    for tokenizer in (model.tokenizer, clip_tokenizer(small_vocabulary())):
        if pattern == "(a" and options.prompt_weights == "a1111":
            with stays_cheap(), pytest.raises(UsageError):  # weights of 1.1^5000
                tokenizer.tokenize([text], options)
        else:
            with stays_cheap():
                tokens = tokenizer.tokenize([text], options)
            assert tokens.ids.shape[0] == 1


def test_a_number_that_never_ends_is_text():
    with stays_cheap():
        [[span]] = parse_prompt_weights("x:" + "1" * MAX_TEXT)
    assert span.weight == 1.0


def test_white_space_around_break_goes_and_no_other():
    sections = parse_prompt_weights(" a  \n BREAK \t b BREAKx  c BREAK")
    assert [[span.text for span in spans] for spans in sections] == [[" a"], ["b BREAKx  c"], [""]]


def test_a_lone_surrogate_is_refused_by_the_tokenizer_too(model):
    with pytest.raises(UsageError) as caught:
        model.encode_text(["a \ud800"])
    assert caught.value.code == "E-PROMPT"
