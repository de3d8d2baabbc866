"""CLIP's tokenizer: where its vocabulary comes from, padding, special tokens, cleaning, damage."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from ldmref.errors import BackendUnavailable, CorruptModelError, InputError, UsageError
from ldmref.prompts import clip_vocabulary
from ldmref.prompts.clip import END, START, Vocabulary, clip_tokenizer
from ldmref.prompts.clip_vocabulary import load_tokenizer, read_vocabulary
from ldmref.testing.clip import awkward_strings, small_vocabulary, write_bpe, write_tokenizer

VOCABULARY = small_vocabulary()
TOKENIZER = clip_tokenizer(VOCABULARY)
TEXT = "It's a Photo of the RED heart, 2024!"


def ids(tokenizer, text=TEXT):
    return tokenizer.encode([text])[0][0].tolist()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No installed package and an empty cache."""
    monkeypatch.setattr(clip_vocabulary, "PACKAGES", ())
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def test_words_become_their_pieces():
    pieces = [TOKENIZER.tokenizer.id_to_token(i) for i in ids(TOKENIZER, "It's the dog'S x 12")]
    assert pieces[:10] == [
        START,
        "it</w>",
        "'s</w>",
        "the</w>",
        "dog</w>",
        "'s</w>",
        "x</w>",
        "1</w>",
        "2</w>",
        END,
    ]
    assert len(pieces) == 77 and set(pieces[10:]) == {END}


def test_every_format_holds_the_same_vocabulary(tmp_path):
    folder = write_tokenizer(tmp_path / "checkpoint" / "tokenizer", VOCABULARY)
    packed = write_bpe(tmp_path / "bpe.txt.gz", VOCABULARY)
    (tmp_path / "json").mkdir()
    TOKENIZER.tokenizer.save(str(tmp_path / "json" / "tokenizer.json"))
    old = json.loads((tmp_path / "json" / "tokenizer.json").read_text())
    old["model"]["merges"] = [" ".join(pair) for pair in old["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(old), "utf-8")
    for source in (
        folder,
        folder.parent,
        packed,
        tmp_path / "json",
        str(tmp_path / "tokenizer.json"),
    ):
        vocabulary = read_vocabulary(source)
        assert dict(vocabulary.vocab) == dict(VOCABULARY.vocab)
        assert [tuple(m) for m in vocabulary.merges] == list(VOCABULARY.merges)
        assert ids(load_tokenizer(source)) == ids(TOKENIZER)


def test_an_installed_package_is_used_without_importing_it(nowhere, monkeypatch):
    package = nowhere / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_bpe(package / clip_vocabulary.BPE_FILE, VOCABULARY)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.setattr(clip_vocabulary, "PACKAGES", ("open_clip",))
    assert ids(load_tokenizer()) == ids(TOKENIZER)
    assert "open_clip" not in sys.modules


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_local_cache_is_used(nowhere, monkeypatch, variable):
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(nowhere / "c"))
    hub = {"HF_HUB_CACHE": "c", "HF_HOME": "c/hub", "XDG_CACHE_HOME": "c/huggingface/hub"}[variable]
    snapshots = nowhere / hub / clip_vocabulary.REPOSITORY / "snapshots"
    (snapshots / "0000").mkdir(parents=True)  # weights only
    write_tokenizer(snapshots / "1234", VOCABULARY)
    assert ids(load_tokenizer()) == ids(TOKENIZER)


def test_without_a_vocabulary_the_error_says_where_to_get_it(nowhere):
    with pytest.raises(InputError, match="no CLIP vocabulary is installed") as caught:
        load_tokenizer()
    assert caught.value.code == "E-TOKENIZER-FILES"
    assert "vocab.json" in caught.value.hint and "open_clip_torch" in caught.value.hint
    for source in (nowhere, nowhere / "missing.txt.gz"):
        with pytest.raises(InputError, match="no CLIP vocabulary in"):
            load_tokenizer(source)


def test_padding_is_the_familys(tmp_path):
    assert TOKENIZER.pad == TOKENIZER.end  # Stable Diffusion 1
    two = clip_tokenizer(VOCABULARY, pad=0)  # Stable Diffusion 2, OpenCLIP
    row = ids(two, "a heart")
    assert row[3] == two.end and set(row[4:]) == {0} and row[:4] == ids(TOKENIZER, "a heart")[:4]
    with pytest.raises(UsageError, match="no token 99999"):
        clip_tokenizer(VOCABULARY, pad=99999)
    # as transformers decides: special_tokens_map.json, then tokenizer_config.json, then the end
    cases = [
        ({"tokenizer_config": {"pad_token": "!"}}, 0),
        ({"special_tokens_map": {"pad_token": {"content": "!"}}}, 0),
        ({"special_tokens_map": {"pad_token": "!"}, "tokenizer_config": {"pad_token": END}}, 0),
        ({"special_tokens_map": {"pad_token": END}, "tokenizer_config": {"pad_token": "!"}}, None),
    ]
    for i, (files, pad) in enumerate(cases):
        folder = write_tokenizer(tmp_path / str(i), VOCABULARY, **files)
        assert load_tokenizer(folder).pad == (TOKENIZER.end if pad is None else pad), files
    assert load_tokenizer(tmp_path / "3", pad=0).pad == 0


def test_saved_and_loaded_it_is_the_same(tmp_path):
    two = clip_tokenizer(VOCABULARY, 20, pad=0)
    (tmp_path / "tokenizer.json").write_text(two.tokenizer.to_str(), "utf-8")
    again = load_tokenizer(tmp_path / "tokenizer.json", 20)
    texts = awkward_strings()
    assert again.pad == 0 and (again.encode(texts)[0] == two.encode(texts)[0]).all()


@pytest.mark.parametrize("token", [END, START])
def test_a_literal_special_token_is_text_with_a_warning(token):
    row, warnings = TOKENIZER.encode([f"a {token} heart"])
    inner = row[0].tolist()[1 : row[0].tolist().index(TOKENIZER.end)]
    name = token.strip("<|>")
    assert inner == [i for i in ids(TOKENIZER, f"a <| {name} |> heart")[1:] if i != TOKENIZER.end]
    assert TOKENIZER.start not in inner and len(warnings) == 1 and token in warnings[0]


def test_text_clean_openai_resolves_entities_after_ftfy(monkeypatch):
    fake = types.SimpleNamespace(fix_text=lambda text: text.replace("ï¬", "&amp;lt;"))
    monkeypatch.setitem(sys.modules, "ftfy", fake)
    openai = clip_tokenizer(VOCABULARY, text_clean="openai")
    assert ids(openai, "  a &amp;amp; b &lt; ï¬ ") == ids(TOKENIZER, "a & b < <")
    assert ids(TOKENIZER, "&lt;") != ids(TOKENIZER, "<")
    # to openai/CLIP and open_clip no text is padding, also where 0, the token "!", pads
    texts = ("x!", "!", "wow!! a")
    zero = clip_tokenizer(VOCABULARY, pad=0)
    plain = clip_tokenizer(VOCABULARY, pad=0, text_clean="openai")
    for text in texts:
        n = ids(TOKENIZER, text).index(TOKENIZER.end) + 1
        assert ids(plain, text)[:n] == ids(TOKENIZER, text)[:n] != ids(zero, text)[:n]


def test_text_clean_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(BackendUnavailable, match="needs ftfy"):
        clip_tokenizer(VOCABULARY, text_clean="openai")
    with pytest.raises(UsageError, match="unknown text_clean 'opnai'") as caught:
        clip_tokenizer(VOCABULARY, text_clean="opnai")
    assert "'openai'" in caught.value.hint


def test_words_that_a_checkpoint_added_are_kept(tmp_path):
    size = len(VOCABULARY.vocab)
    added = {"<cat>": size, "<cat>_1": size + 1}
    folder = write_tokenizer(tmp_path, VOCABULARY, added_tokens=added)
    tokenizer = load_tokenizer(folder)
    assert ids(tokenizer, "a <Cat>")[1:5] == [ids(TOKENIZER, "a")[1], size, size + 1, TOKENIZER.end]
    (tmp_path / "tokenizer.json").write_text(tokenizer.tokenizer.to_str(), "utf-8")
    assert ids(load_tokenizer(tmp_path / "tokenizer.json"), "<cat>") == ids(tokenizer, "<cat>")
    write_tokenizer(tmp_path, VOCABULARY, added_tokens={"<cat>": size + 7})
    with pytest.raises(CorruptModelError, match="cannot have the id"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b"{}"),
        ("vocab.json", b"not json"),
        ("vocab.json", b'{"a": "b"}'),
        ("merges.txt", b"#version: 0.2\nnot a merge of three\n"),
        ("merges.txt", b"#version: 0.2\nqqq zzz\n"),
        ("merges.txt", b"\xff\xfe"),
        ("added_tokens.json", b"[1]"),
        ("special_tokens_map.json", b"{"),
        ("special_tokens_map.json", b'{"pad_token": "no such token"}'),
    ],
)
def test_damaged_folders_are_refused(tmp_path, name, content):
    write_tokenizer(tmp_path, VOCABULARY)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptModelError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"model": 1}', '{"model": {"vocab": {}}}'])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(CorruptModelError):
            load_tokenizer(source)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08broken", b"# no merges\n", b"#\na b c\n"])
def test_damaged_lists_of_merges_are_refused(tmp_path, content):
    path = tmp_path / ("bpe.txt.gz" if content[:1] == b"\x1f" else "bpe.txt")
    path.write_bytes(content)
    with pytest.raises(CorruptModelError):
        load_tokenizer(path)


def test_a_vocabulary_without_special_tokens_is_refused():
    vocab = {token: id for token, id in VOCABULARY.vocab.items() if token != START}
    with pytest.raises(CorruptModelError, match="startoftext"):
        clip_tokenizer(Vocabulary(vocab, VOCABULARY.merges))


def test_ten_thousand_characters():
    tokens = TOKENIZER.tokenize(["ab1 " * 2500])
    assert tokens.ids.shape == (1, 1, 77) and tokens.ids.dtype == np.int64
    assert len(tokens.warnings) == 1 and len(tokens.warnings[0]) < 400


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor", "decoder"])
def test_only_words_and_merges_of_a_published_file_are_used(tmp_path, part):
    """Published files have parts of many versions, none of which is run."""
    hostile = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 12,
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(x+x+)+y"},
            "behavior": "Removed",
            "invert": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "pair": [],
            "special_tokens": {},
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 9,
        },
        "decoder": {"type": "Fuse"},
    }
    data = json.loads(TOKENIZER.tokenizer.to_str()) | {part: hostile[part]}
    data["model"] |= {"dropout": 0.9, "byte_fallback": True, "ignore_merges": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = load_tokenizer(source)
        for text in (TEXT, "a" * 60, "x" * 60):
            assert ids(tokenizer, text) == ids(TOKENIZER, text)


def test_a_word_with_more_vectors_than_a_prompt_has_room_for_is_refused(tmp_path):
    size = len(VOCABULARY.vocab)
    room = TOKENIZER.length - 2
    for vectors in (room, room + 1):
        names = ["<cat>", *(f"<cat>_{i}" for i in range(1, vectors))]
        write_tokenizer(
            tmp_path, VOCABULARY, added_tokens={n: size + i for i, n in enumerate(names)}
        )
        if vectors == room:
            assert ids(load_tokenizer(tmp_path), "<cat>")[1:-1] == list(range(size, size + room))
    with pytest.raises(CorruptModelError, match="more vectors") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "E-TOKENIZER"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_vocabularies_have_a_limit(tmp_path, monkeypatch, name):
    write_tokenizer(tmp_path, VOCABULARY)
    sizes = {file: (tmp_path / file).stat().st_size for file in ("vocab.json", "merges.txt")}
    monkeypatch.setattr(clip_vocabulary, "MAX_BYTES", max(sizes.values()))
    assert ids(load_tokenizer(tmp_path)) == ids(TOKENIZER)
    with (tmp_path / name).open("ab") as file:
        file.write(b" " * max(sizes.values()))
    with pytest.raises(CorruptModelError, match=f"{name} is larger than") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "E-TOKENIZER"
