"""Qwen's tokenizer against transformers' of the same files."""

from __future__ import annotations

import json

import pytest

from ldmref.apps.server.inside_tasks import show_piece
from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import CHAT
from ldmref.families.qwen3.tokens import qwen_tokenizer, small_vocabulary
from ldmref.prompts import PromptOptions

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import qwen_golden
import transformers
from qwen3_networks import write_vocabulary

TEXTS = [
    "", "a red cat", "A Red  CAT's 12345 \n\n\t x", "日本語 の猫", "\u00e9 e\u0301 \U0001f600",
    "<|im_end|>", "<|endoftext|> after", "  two spaces ", "don't WE'LL it's", "a\r\nb",
]  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("tokenizer"))


def make(source, length=64):
    """Return our tokenizer, which surrounds prompts with a chat."""
    config = Qwen3Config(max_position_embeddings=length)
    return qwen_tokenizer(config, source, None).with_template(CHAT)


@pytest.mark.parametrize("length", [64, 16])
def test_ids_are_those_of_transformers(vocabulary, length):
    """Of the chat, cut at its end and padded, and which of them are no padding."""
    theirs = transformers.AutoTokenizer.from_pretrained(vocabulary)
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
    written = [theirs.apply_chat_template(chat, **options) for chat in chats]
    want = theirs(written, padding="max_length", max_length=length, truncation=True)
    found = make(vocabulary, length).tokenize(TEXTS)
    assert found.ids[:, 0, :].tolist() == want["input_ids"]
    assert found.mask[:, 0, :].tolist() == want["attention_mask"]


@pytest.fixture(scope="module")
def table():
    return json.loads(qwen_golden.TABLE.read_text("utf-8"))


def test_ids_of_awkward_prompts(table, tmp_path):
    """They are those of the table, alone and in the chat of a family."""
    folder = qwen_golden.write_vocabulary(table, tmp_path)
    plain = qwen_tokenizer(Qwen3Config(), folder, None)
    chats = make(folder, 128)
    around = [plain.tokenizer.encode(text).ids for text in (CHAT.before, CHAT.after)]
    assert len(table["prompts"]) == 20
    for row in table["prompts"]:
        assert plain.tokenizer.encode(row["text"]).ids == row["ids"], row["text"]
        found = chats.tokenize([row["text"]])
        kept = found.ids[0, 0][found.mask[0, 0] == 1].tolist()
        if not row["text"].endswith((" ", "\n")):  # no token reaches over the ends of the prompt
            assert kept == [*around[0], *row["ids"], *around[1]], row["text"]


def test_the_table_is_that_of_transformers(table):
    """Of its class for Qwen, whose rules are its own."""
    assert table["prompts"] == [
        {"text": text, "ids": ids}
        for text, ids in zip(qwen_golden.PROMPTS, qwen_golden.encode_all(table), strict=True)
    ]


def test_vocab_and_merges_are_read(vocabulary, tmp_path):
    data = json.loads((vocabulary / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(data["model"]["vocab"]))
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]
    ]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    one, two = make(vocabulary), make(tmp_path)
    assert one.tokenize(TEXTS).ids.tolist() == two.tokenize(TEXTS).ids.tolist()


def test_what_is_cut_is_said(vocabulary):
    tokenizer = make(vocabulary, 32)
    long = "a red cat on a table " * 10
    found = tokenizer.tokenize([long])
    assert found.truncated[0] > 0 and "left out" in found.warnings[0]
    with pytest.raises(UsageError, match="left out"):
        tokenizer.tokenize([long], PromptOptions(strict=True))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="needs the vocabulary"):
        make(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}')
    with pytest.raises(CorruptModelError, match="not a vocabulary of Qwen"):
        make(tmp_path)


def test_the_small_vocabulary_is_one(tmp_path):
    for name, content in small_vocabulary().items():
        (tmp_path / name).write_text(content, "utf-8")
    tokenizer = make(tmp_path)
    found = tokenizer.tokenize(["a red heart"])
    kept = found.ids[0, 0][found.mask[0, 0] == 1]
    text = tokenizer.tokenizer.decode(kept.tolist(), skip_special_tokens=False)
    assert text == CHAT.before + "a red heart" + CHAT.after


def test_tokens_are_shown_as_words(table, tmp_path):
    """Whole letters where a token has them, and otherwise what the vocabulary has."""
    tokenizer = make(qwen_golden.write_vocabulary(table, tmp_path)).tokenizer
    shown = [show_piece(tokenizer, number) for number in tokenizer.encode("a red é 🐈\n").ids]
    assert shown[:2] == ["a", "red"] and "é" in shown and shown[-1] == "Ċ"
    assert "\ufffd" not in "".join(shown)
    assert show_piece(tokenizer, tokenizer.token_to_id("<|im_end|>")) == "<|im_end|>"
