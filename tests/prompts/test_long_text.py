"""Text of any length costs little: it is refused at once, or read in linear time."""

from __future__ import annotations

import time

import pytest

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
LIMIT = 5.0  # seconds of this process; the answer takes some hundredths, spaces once took minutes


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_a_megabyte_is_refused_at_once(model, pattern):
    text = pattern * (10**6 // len(pattern))
    start = time.process_time()
    with pytest.raises(UsageError) as caught:
        modes.plan("txt2img", model.config, prompt=text)
    assert caught.value.code == "E-PROMPT-LENGTH"
    with pytest.raises(UsageError) as caught:
        model.encode_text([text])
    assert caught.value.code == "E-PROMPT-LENGTH"
    assert len(str(caught.value)) < 200 and time.process_time() - start < LIMIT


@pytest.mark.parametrize("options", [PromptOptions(), PromptOptions("chunk", "a1111")])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=list(PATTERNS))
def test_the_longest_text_is_read_in_little_time(model, pattern, options):
    text = pattern * (MAX_TEXT // len(pattern))
    for tokenizer in (model.tokenizer, clip_tokenizer(small_vocabulary())):
        start = time.process_time()
        if pattern == "(a" and options.prompt_weights == "a1111":
            with pytest.raises(UsageError):  # weights of 1.1^5000
                tokenizer.tokenize([text], options)
        else:
            assert tokenizer.tokenize([text], options).ids.shape[0] == 1
        assert time.process_time() - start < LIMIT


def test_a_number_that_never_ends_is_text():
    start = time.process_time()
    [[span]] = parse_prompt_weights("x:" + "1" * MAX_TEXT)
    assert span.weight == 1.0 and time.process_time() - start < LIMIT


def test_white_space_around_break_goes_and_no_other():
    sections = parse_prompt_weights(" a  \n BREAK \t b BREAKx  c BREAK")
    assert [[span.text for span in spans] for spans in sections] == [[" a"], ["b BREAKx  c"], [""]]


def test_a_lone_surrogate_is_refused_by_the_tokenizer_too(model):
    with pytest.raises(UsageError) as caught:
        model.encode_text(["a \ud800"])
    assert caught.value.code == "E-PROMPT"
