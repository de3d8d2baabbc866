"""Cases of tokenizers: text to ids, with small vocabularies that belong to the suite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ldmref.cases.described_folder import WriteFile
from ldmref.cases.values import NamedArrays, ValueCase
from ldmref.prompts.clip import END, START, WORD_END
from ldmref.prompts.clip_vocabulary import byte_letters, load_tokenizer
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.prompts.wordpiece import wordpiece_tokenizer
from ldmref.prompts.words import word_tokenizer

LENGTH = 12
TEXTS = (
    "a red heart",
    "",
    "A  Red\tHEART,  on a table!",
    "don't stop: it's 1984",
    "naïve café in München",
    "a heart\u2019s 😀 smile",
    "hearts hearts hearts hearts hearts hearts hearts hearts",
)
WEIGHTED = ("a (red:1.3) heart", "((smile)) [table]", "a \\(red\\) heart", "a heart BREAK a table")
WORDS = ("heart", "red", "table", "smile", "stop", "it", "on", "in", "an")
PIECES = (
    "[PAD] [UNK] [CLS] [SEP] a red heart ##s on table don ' t stop it s 19 ##84 naive cafe in "
    "smile ! , :"
).split()
VOCABULARIES = "values/vocabularies"


def tokenizer_cases(write: WriteFile) -> Iterator[ValueCase]:
    """Write the vocabularies, and yield cases of CLIP's, BERT's and ldmref's tokenizer.

    Args:
        write: Function `write(path, data)` that writes a file of the suite.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in vocabulary_files().items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
            write(f"{VOCABULARIES}/{path}", text.encode())
        clip = load_tokenizer(folder / "clip", LENGTH)
        padded = load_tokenizer(folder / "clip", LENGTH, pad=0)
        bert = wordpiece_tokenizer(folder / "bert", LENGTH)
    words = word_tokenizer(["a red heart on a table ! # 1984 smile"], 20)
    write(f"{VOCABULARIES}/words/tokenizer.json", words.to_str(pretty=True).encode())
    names: dict[str, tuple[PromptTokenizer, str]] = {
        "clip": (clip, "clip"),
        "clip_pad_0": (padded, "clip"),
        "bert": (bert, "bert"),
        "words": (PromptTokenizer(words, LENGTH), "words"),
    }
    for label, (tokenizer, vocabulary) in names.items():
        for number, text in enumerate(TEXTS):
            yield _case(f"{label}.{number}", tokenizer, vocabulary, text, PromptOptions())
        chunked = PromptOptions(long_prompts="chunk")
        yield _case(f"{label}.chunks", tokenizer, vocabulary, TEXTS[-1] + " " + TEXTS[0], chunked)
    weighted = PromptOptions(prompt_weights="a1111", long_prompts="chunk")
    for number, text in enumerate(WEIGHTED):
        yield _case(f"clip.weights.{number}", clip, "clip", text, weighted)


def _case(
    label: str, tokenizer: PromptTokenizer, vocabulary: str, text: str, options: PromptOptions
) -> ValueCase:
    def compute(inputs: NamedArrays) -> NamedArrays:
        tokens = tokenizer.tokenize([str(inputs["text"])], options)
        outputs = {"ids": tokens.ids[0]}
        if options.prompt_weights != "none":
            outputs["weights"] = tokens.weights[0].astype(np.float64)
        return outputs

    attributes = {
        "vocabulary": f"{VOCABULARIES}/{vocabulary}",
        "length": LENGTH,
        "pad": tokenizer.pad,
        "long_prompts": options.long_prompts,
        "prompt_weights": options.prompt_weights,
    }
    return ValueCase(
        f"tokenizers.{label}",
        "tokenizers",
        vocabulary,
        attributes,
        {"text": np.asarray(text)},
        compute,
        2.0**30,
        perturb=False,
    )


def vocabulary_files() -> dict[str, str]:
    """Return a vocabulary of CLIP's and one of BERT's kind, by path."""
    clip = byte_pair_files(byte_letters(), WORDS)
    return {f"clip/{name}": text for name, text in clip.items()} | {
        "bert/vocab.txt": word_piece_file()
    }


def byte_pair_files(letters: Iterable[str], words: Iterable[str]) -> dict[str, str]:
    """Return the files of a vocabulary of CLIP's kind, in which some words are one token."""
    letters = list(letters)
    tokens = [*letters, *(letter + WORD_END for letter in letters)]
    merges = []
    for word in words:
        parts = [*word[:-1], word[-1] + WORD_END]
        while len(parts) > 1:
            merge = parts[0], parts[1]
            if merge not in merges:
                merges.append(merge)
                tokens.append("".join(merge))
            parts = ["".join(merge), *parts[2:]]
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False, indent=0),
        "merges.txt": "\n".join(lines) + "\n",
    }


def unigram_file(letters: Iterable[str], words: Iterable[str]) -> str:
    """Return the file tokenizer.json of a vocabulary of T5's kind: words, and single letters.

    A word is more probable than its letters.
    """
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"\u2581{word}", -2.0) for word in words]
    pieces += [("\u2581", -4.0), *((letter, -4.0) for letter in letters)]
    known = list(dict(marks + pieces).items())
    model = {"type": "Unigram", "unk_id": 2, "vocab": known}
    return json.dumps({"model": model}, ensure_ascii=False, indent=0)


def word_piece_file() -> str:
    """Return the file vocab.txt of a vocabulary of BERT's kind."""
    return "\n".join(PIECES) + "\n"
