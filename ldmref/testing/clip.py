"""A small CLIP vocabulary in the file formats of checkpoints, and strings hard to tokenize."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE

from ldmref.prompts.clip import END, START, WORD_END, Vocabulary
from ldmref.prompts.clip_vocabulary import byte_letters

CORPUS = [
    "a photo of a red heart on the table, it's the dog's hat and they're happy",
    "the quick brown fox jumps over the lazy dog; don't, I'll, we've, she'd, I'm",
    "photograph photographs painting painter paint highly detailed artstation 1234 2024 8k",
    "naïve café über größe Здравствуй мир 日本語 こんにちは 🎉🎉 … -- !!! ((x)) [y]",
]


@cache
def small_vocabulary() -> Vocabulary:
    """About 400 merges of CLIP's byte letters; ids in CLIP's order, special tokens last."""
    trained = Tokenizer(BPE(end_of_word_suffix=WORD_END))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=900, end_of_word_suffix=WORD_END, show_progress=False)
    trained.train_from_iterator([line.lower() for line in CORPUS * 5], trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges)]
    tokens = list(dict.fromkeys(tokens))
    vocab = {token: id for id, token in enumerate([*tokens, START, END])}
    return Vocabulary(vocab, merges)


def write_tokenizer(folder: Path, vocabulary: Vocabulary, **files: object) -> Path:
    """Write a tokenizer folder: vocab.json, merges.txt and the JSON files in `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(dict(vocabulary.vocab)), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


def write_bpe(path: Path, vocabulary: Vocabulary) -> Path:
    """Write the vocabulary as openai/CLIP's gzipped list of merges."""
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *map(" ".join, vocabulary.merges), ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def awkward_strings() -> list[str]:
    """Unicode, white space, contractions, numbers, NUL, long text; no literal special tokens."""
    rng = random.Random(0)
    alphabets = [
        "abc dog's",
        "日本语ひらがな한국어",
        "é\u0301ñ\u0303ﬁ½①Ⅷ",
        "🎉\U0001f469\u200d🏳\ufe0f👍\U0001f3fd",
        " \t\n\r\x0b\x0c\x85\u2028\u3000",
        "\0\x01\x7f\u200b\ufeff\u00ad",
        "0123٤५Ⅳ²",
        "!?.,;:-_()[]{}<>|'\"`’“”",
        "ЖДİIıẞßΣς",
        "𝒜𝓫𐍈",
    ]
    mixed = ["".join(rng.choice(rng.choice(alphabets)) for _ in range(n)) for n in range(1, 120)]
    return [
        "",
        " ",
        "\n",
        "\0",
        "a\0b",
        "a",
        "A Photo OF a\tcat",
        "a  b\r\n c",
        "it's don't I'LL we'Ve 's",
        "dog's'll''s",
        "’s ‘quoted’ “text”",
        "3.14 1,000,000 8k 1st ½ ²",
        "café",
        "cafe\u0301",
        "ÀÉÎ İstanbul ẞ ΌΣΟΣ",
        "ﬁne ﬂag",
        "&amp; &lt;b&gt; &amp;amp;",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 🏳\ufe0f\u200d🌈 👍\U0001f3fd",
        "日本語のテキスト",
        "Здравствуй, мир!",
        "שלום العربية",
        "𝒻𝒶𝓃𝒸𝓎",
        "!!!???...",
        "a.b,c;d",
        "<b>bold</b> <|x|>",
        "<| endoftext |>",
        "\\(x\\) (red:1.3) [y]",
        "\u200bzero\u200bwidth\ufeff",
        "x" * 300,
        "word " * 200,
        "ab1 " * 2500,
        "e" + "\u0301" * 50,
        "\ud7ff\ue000\uffff",
        *mixed,
    ]
