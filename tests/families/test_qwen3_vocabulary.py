"""Qwen's vocabularies: which file is read, the marks after it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ldmref.errors import CorruptModelError, InputError
from ldmref.families.qwen3 import tokens
from ldmref.families.qwen3.encoder import QWEN3, Qwen3Config

FIRST = 151643  # of the marks, in Qwen3's tokenizer_config.json, by their numbers there
PUBLISHED = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646, "<|object_ref_end|>": 151647, "<|box_start|>": 151648,
    "<|box_end|>": 151649, "<|quad_start|>": 151650, "<|quad_end|>": 151651,
    "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655, "<|video_pad|>": 151656, "<tool_call>": 151657,
    "</tool_call>": 151658, "<|fim_prefix|>": 151659, "<|fim_middle|>": 151660,
    "<|fim_suffix|>": 151661, "<|fim_pad|>": 151662, "<|repo_name|>": 151663,
    "<|file_sep|>": 151664, "<tool_response>": 151665, "</tool_response>": 151666,
    "<think>": 151667, "</think>": 151668,
}  # fmt: skip
PIECES = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "c": 4}


def write_both(folder, merges="#version: 0.2\na b\n\n"):
    """Write a vocabulary and its merges; return the first file."""
    (folder / "vocab.json").write_text(json.dumps(PIECES))
    (folder / "merges.txt").write_text(merges)
    return folder / "vocab.json"


def write_one(folder, **changes):
    """Write a tokenizer.json; return it."""
    added = [{"content": "<end>", "id": 5}, {"content": "<begin>", "id": "6"}]
    vocab = {**PIECES, "<end>": 5}
    data = {"model": {"vocab": vocab, "merges": ["a b"]}, "added_tokens": added} | changes
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder / "tokenizer.json"


# -- files ----------------------------------------------------------------------------------------


PLACES = ("tokenizer.json", "vocab.json", "tokenizer/tokenizer.json", "tokenizer/vocab.json")


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_the_first_file_of_a_folder_is_read(tmp_path, first):
    """A tokenizer.json comes before a vocab.json, and the folder before the one within."""
    (tmp_path / "tokenizer").mkdir()
    for name in PLACES[first:]:
        (tmp_path / name).write_text("{}")
    assert tokens.find_vocabulary(tmp_path) == tmp_path / PLACES[first]
    assert tokens.find_vocabulary(str(tmp_path)) == tmp_path / PLACES[first]


def test_a_file_may_be_named_itself(tmp_path):
    path = tmp_path / "any.json"
    path.write_text("{}")
    assert tokens.find_vocabulary(path) == path


def test_a_folder_without_a_vocabulary_is_named(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(InputError, match=repr(tmp_path.name)):
        tokens.find_vocabulary(tmp_path)
    with pytest.raises(InputError, match=r"vocabulary of Qwen(\n|$)"):
        tokens.find_vocabulary(None)


def test_files_have_a_size_at_most(tmp_path, monkeypatch):
    path = tmp_path / "vocab.json"
    path.write_text("é", "utf-8")
    assert tokens.read_text(path) == "é"
    asked = []

    def read(*arguments):
        asked.append(arguments)
        return b"\xff"

    monkeypatch.setattr(tokens, "read_file", read)
    with pytest.raises(CorruptModelError, match="vocab"):
        tokens.read_text(path)
    assert asked == [(path, 2**26, "E-TOKENIZER")]


# -- contents -------------------------------------------------------------------------------------


def test_marks_follow_a_vocabulary_and_its_merges(tmp_path):
    vocab, merges, added = tokens.read_vocabulary(write_both(tmp_path))
    assert vocab == PIECES and merges == [("a", "b")]
    assert {mark: number - 5 + FIRST for mark, number in added.items()} == PUBLISHED
    assert tokens.SPECIAL == ("", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")


def test_merges_need_no_version(tmp_path):
    write_both(tmp_path, "a b\n# c\n#version x\nab c")
    _, merges, _ = tokens.read_vocabulary(tmp_path / "vocab.json")
    assert merges == [("a", "b"), ("#", "c"), ("ab", "c")]


def test_a_tokenizer_says_its_added_tokens(tmp_path):
    vocab, merges, added = tokens.read_vocabulary(write_one(tmp_path))
    assert vocab == PIECES and merges == [("a", "b")] and added == {"<end>": 5, "<begin>": 6}
    pairs = {"vocab": {"a": "0", "b": 1}, "merges": [["a", "b"]]}
    vocab, merges, _ = tokens.read_vocabulary(write_one(tmp_path, model=pairs))
    assert vocab == {"a": 0, "b": 1} and merges == [("a", "b")]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {}},
        {"model": None},
        {"model": {"vocab": [], "merges": []}},
        {"model": {"vocab": {"a": "x"}, "merges": []}},
        {"model": {"vocab": {"a": 0}, "merges": ["a b c"]}},
        {"added_tokens": [{}]},
        {"added_tokens": [None]},
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, changes):
    path = write_one(tmp_path, **changes)
    with pytest.raises(CorruptModelError, match=r"tokenizer\.json") as caught:
        tokens.read_vocabulary(path)
    assert caught.value.code == "E-TOKENIZER"


def test_a_vocabulary_without_merges_is_refused(tmp_path):
    path = write_both(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(InputError):
        tokens.read_vocabulary(path)
    path.write_text("[")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CorruptModelError, match=r"vocab\.json"):
        tokens.read_vocabulary(path)


# -- the tokenizer --------------------------------------------------------------------------------


def build(added):
    return tokens.build_tokenizer(dict(PIECES), [("a", "b")], added)


def test_added_tokens_are_special_and_found_in_text():
    built = build({"<two>": 6, "<one>": 5})
    stored = json.loads(built.to_str())
    assert [(x["id"], x["content"]) for x in stored["added_tokens"]] == [(5, "<one>"), (6, "<two>")]
    assert all(x["special"] and not x["normalized"] for x in stored["added_tokens"])
    assert built.encode("ab<two>a").ids == [2, 6, 0]
    assert built.decode([2, 6, 0]) == "aba"
    assert built.decode([2, 6, 0], skip_special_tokens=False) == "ab<two>a"


def test_added_tokens_that_are_in_the_vocabulary_keep_their_numbers():
    assert build({"c": 4, "<one>": 5}).token_to_id("c") == 4


@pytest.mark.parametrize("added", [{"<one>": 6}, {"<one>": 5, "<two>": 7}, {"a": 3}])
def test_added_tokens_must_have_the_next_number(added):
    with pytest.raises(CorruptModelError, match="not the next one"):
        build(added)


def test_merges_of_unknown_pieces_are_refused():
    with pytest.raises(CorruptModelError, match="damaged"):
        tokens.build_tokenizer({"a": 0}, [("a", "b")], {})


def test_text_is_split_as_qwen_splits_it():
    built = build({})
    stored = json.loads(built.to_str())
    assert stored["normalizer"] == {"type": "NFC"} and stored["decoder"]["type"] == "ByteLevel"
    split, letters = stored["pre_tokenizer"]["pretokenizers"]
    assert split["behavior"] == "Isolated" and not split["invert"]
    assert not letters["add_prefix_space"] and not letters["use_regex"]
    words = [word for word, _ in built.pre_tokenizer.pre_tokenize_str("We'll 12 a\n !?\n  b")]
    assert words == ["We", "'ll", "Ġ", "1", "2", "Ġa", "Ċ", "Ġ!?Ċ", "Ġ", "Ġb"]
    assert built.encode("ab ab").ids == [2, 3, 2]


def test_the_length_is_that_of_the_configuration(tmp_path):
    config = Qwen3Config(max_position_embeddings=7)
    made = QWEN3.tokenizer(config, write_both(tmp_path), None)
    found = made.tokenize(["ab"])
    assert found.ids.shape == (1, 1, 7) and found.ids[0, 0].tolist() == [2] + [5] * 6
    assert found.mask[0, 0].tolist() == [1, 1] + [0] * 5  # its end, too
    other = QWEN3.tokenizer(replace(config, max_position_embeddings=9), tmp_path, None)
    assert other.tokenize(["a"]).ids.shape == (1, 1, 9)


def test_the_small_vocabulary_has_all_bytes_and_six_merges(tmp_path):
    made = tokens.small_vocabulary()
    assert [*made] == ["vocab.json", "merges.txt"]
    vocab = json.loads(made["vocab.json"])
    assert len(vocab) == 262 and [*vocab.values()] == [*range(262)]
    assert [*vocab][:256] == sorted([*vocab][:256]) and len(min(vocab)) == 1
    assert [*vocab][256:] == ["ed", "red", "at", "he", "Ġred", "Ġhe"]
    lines = ["#version: 0.2", "e d", "r ed", "a t", "h e", "Ġ red", "Ġ he", ""]
    assert made["merges.txt"].split("\n") == lines
