"""T5's tokenizer: its two files, damaged files, and prompts without a start token.

`t5/spiece.model` was trained by sentencepiece 0.2.3 on pages of the course, with a few rules of
normalization; `t5/tokenizer.json` is what transformers 5.24 made of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models import TextConfig
from ldmref.prompts import PromptOptions, unigram_tokenizer

FOLDER = Path(__file__).parent / "t5"
CONFIG = TextConfig(
    model_type="t5", hidden_act="gelu_new", vocab_size=420, max_position_embeddings=32
)
TEXTS = [
    "a photo of a red cat", "", "  Two\tlines\nand \u00a0 spaces ",
    "\uff21\uff22 \ufb01sh\u2026 cafe\u0301", "\u65e5\u672c\u8a9e x", "zero\u200bwidth",
    "<extra_id_3>hm", "a </s> b <pad> c", "\u2581under\u2581line",
]  # fmt: skip


@pytest.fixture(scope="module", params=["spiece.model", "tokenizer.json"])
def ours(request):
    return tokenizer_for(CONFIG, FOLDER / request.param)


def test_ids_are_those_of_transformers(ours):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5TokenizerFast.from_pretrained(str(FOLDER))
    options = {"padding": "max_length", "max_length": 32, "truncation": True}
    for texts in (TEXTS, ["a very long text about noise " * 20]):
        want = np.array(theirs(texts, **options)["input_ids"])
        assert (ours.encode(texts)[0] == want).all()


def test_the_end_token_is_the_only_one_around_a_prompt(ours):
    assert (ours.start, ours.end, ours.pad, ours.unknown, ours.room) == (None, 1, 0, 2, 31)
    ids = ours.tokenize(["", "a cat"]).ids[:, 0]
    assert ids[0].tolist() == [1] + [0] * 31
    assert ids[1, 5:].tolist() == [0] * 27 and ids[1, 4] == 1


def test_long_prompts_and_weights(ours):
    tokens = ours.tokenize(["noise " * 40, "(red:1.5) cat"], PromptOptions("chunk", "a1111"))
    assert tokens.ids.shape == (2, tokens.counts[0], 32) and tokens.counts[1] == 1
    assert (tokens.ids[0, :-1, -1] == 1).all() and (tokens.ids[0, :-1, :31] > 2).all()
    red = len(ours.tokenize(["red"]).ids[0, 0].nonzero()[0]) - 1
    assert tokens.weights[1, 0].tolist() == [1.5] * red + [1.0] * (32 - red)
    warnings = ours.tokenize(["noise " * 40 + "\u65e5"]).warnings
    assert "the model reads 31; left out:" in warnings[-1] and "never saw: \u65e5" in warnings[0]
    with pytest.raises(UsageError, match="the model reads 31"):
        ours.tokenize(["noise " * 40], PromptOptions(strict=True))


def test_the_written_file_is_read_again(ours, tmp_path):
    path = tmp_path / "tokenizer_2.json"
    path.write_text(ours.tokenizer.to_str(), "utf-8")
    again = tokenizer_for(CONFIG, path)
    assert (again.encode(TEXTS)[0] == ours.encode(TEXTS)[0]).all()


def test_a_folder_is_searched(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "spiece.model").write_bytes((FOLDER / "spiece.model").read_bytes())
    assert unigram_tokenizer(tmp_path, 8).tokenize(["a cat"]).ids.shape == (1, 1, 8)
    for source in (None, tmp_path / "t5"):
        with pytest.raises(InputError, match="vocabulary of T5"):
            unigram_tokenizer(source)
    with pytest.raises(CorruptModelError, match="up to number 419"):
        tokenizer_for(TextConfig(model_type="t5", vocab_size=400), FOLDER)


def test_damaged_models_have_one_clear_error(tmp_path):
    data = (FOLDER / "spiece.model").read_bytes()
    path = tmp_path / "spiece.model"
    bad = [data[:n] for n in (1, 7, 100, len(data) - 1)] + [b"\xff" * 20, b"", b"\x0b"]
    bad.append(data.replace(b"</s>", b"<\xff\xff>"))
    bad.append(data + b"\x12\x02\x18\x02")  # a second trainer_spec: BPE
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(CorruptModelError) as caught:
            unigram_tokenizer(path)
        assert caught.value.code == "E-TOKENIZER"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE"}},
        {"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Sequence"}},
        {"model": 3},
    ],
)
def test_damaged_json_has_one_clear_error(tmp_path, change):
    data = json.loads((FOLDER / "tokenizer.json").read_text("utf-8"))
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data | change), "utf-8")
    with pytest.raises(CorruptModelError) as caught:
        unigram_tokenizer(path)
    assert caught.value.code == "E-TOKENIZER"
