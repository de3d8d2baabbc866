"""A tokenizer of whole words, for the models that are trained with ldmref.

Only the words of a `tokenizer.json` are used. Its other parts are compared with those that ldmref
writes and are never run: a file could name replacements that let a prompt grow without bound, or
regular expressions that never end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ldmref.errors import CorruptModelError
from ldmref.prompts.clip import add_words
from ldmref.prompts.emoji import with_emoji_names
from ldmref.prompts.text_checks import MAX_VALUES, check_id_table
from ldmref.prompts.tokenizer import END, PAD, START, UNKNOWN, PromptTokenizer, errors_as_corrupt
from ldmref.support.files import parse_json, read_json

SPECIAL = (PAD, START, END, UNKNOWN)  # the first ids
# for a text encoder that is pooled at its end token: in transformers' configurations the id 2
# stands for the token with the largest id, which is a word here
SPECIAL_POOLED = (PAD, START, UNKNOWN, END)
POOLED_END = SPECIAL_POOLED.index(END)
PIPELINE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # run on text


def word_tokenizer(captions: Iterable[str], max_words: int, pooled: bool = False) -> Tokenizer:
    """Build a tokenizer of whole words from the most frequent words in `captions`.

    Text is lower-cased and stripped of accents. A word is a run of letters or digits, or one of
    the characters # * ! &; everything else separates words.

    Args:
        captions: Texts, in which frequent words occur more often.
        max_words: The largest size of the vocabulary, with the special tokens.
        pooled: Whether a text encoder is pooled at the end token. Its id is then 3 instead of 2,
            which has another meaning in the configuration of a text encoder (`eos_token_id`).

    Returns:
        A tokenizer of the package tokenizers, for `PromptTokenizer`.

    >>> from ldmref.prompts import word_tokenizer
    >>> tokenizer = word_tokenizer(["a red cat", "a red hat"], 6)
    >>> sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    ['<pad>', '<start>', '<end>', '<unknown>', 'a', 'red']
    """
    tokenizer = _build_tokenizer({UNKNOWN: 0})
    frequency = Counter(word for caption in captions for word in split_words(tokenizer, caption))
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))
    tokens = [*(SPECIAL_POOLED if pooled else SPECIAL), *ranked][:max_words]
    return _build_tokenizer({token: id for id, token in enumerate(tokens)})


def _build_tokenizer(ids: Mapping[str, int]) -> Tokenizer:
    """Build a word tokenizer with this vocabulary of ids by token."""
    tokenizer = Tokenizer(models.WordLevel(dict(ids), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    word_pattern = Regex(r"[\p{L}\p{N}]+|[#*!&]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(word_pattern, behavior="removed", invert=True)
    marks = [(token, ids.get(token, SPECIAL.index(token))) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=marks
    )
    return tokenizer


def holds_words(path: Path) -> bool:
    """Return whether a file is the `tokenizer.json` of a tokenizer of whole words.

    Raises:
        InputError: It cannot be read.

    >>> from ldmref.io import find_model
    >>> from ldmref.prompts.words import holds_words
    >>> holds_words(find_model("emoji") / "tokenizer.json")
    True
    """
    if path.suffix != ".json" or not path.is_file():
        return False
    data = read_json(path, "E-TOKENIZER", MAX_VALUES)
    model = data.get("model") if isinstance(data, dict) else None
    return isinstance(model, dict) and model.get("type") == "WordLevel"


def load_word_tokenizer(path: Path, length: int) -> PromptTokenizer:
    """Read the `tokenizer.json` of a tokenizer of whole words.

    Args:
        path: The file `tokenizer.json`.
        length: The number of tokens per chunk, including the start and end token.

    Returns:
        The tokenizer.

    Raises:
        InputError: It cannot be read.
        CorruptModelError: It is damaged, as for `build_from_json`, or lacks a special token.

    >>> from ldmref.io import find_model
    >>> from ldmref.prompts import load_word_tokenizer
    >>> tokenizer = load_word_tokenizer(find_model("emoji") / "tokenizer.json", 16)
    >>> tokenizer.encode(["a red heart"])[0].shape
    (1, 16)
    """
    tokenizer = build_from_json(read_json(path, "E-TOKENIZER", MAX_VALUES), path.name)
    return PromptTokenizer(tokenizer, length)


def parse_word_tokenizer(text: str, name: str) -> Tokenizer:
    """Build a word tokenizer from JSON in `text`; `name` is the file's name, for errors.

    Raises:
        CorruptModelError: It is not JSON, or is damaged as for `build_from_json`.
    """
    return build_from_json(parse_json(text, name, "E-TOKENIZER", most=MAX_VALUES), name)


def build_from_json(data: Any, name: str) -> Tokenizer:
    """Build a word tokenizer from the vocabulary and the added words of its parsed JSON.

    Raises:
        CorruptModelError: It is damaged, or does not split text as `word_tokenizer` does.
    """
    with errors_as_corrupt(f"{name} is not a tokenizer"):
        model = data["model"]
        tokenizer = _build_tokenizer(check_id_table(model["vocab"]))
        ours = json.loads(tokenizer.to_str())
        added = check_id_table({t["content"]: t["id"] for t in data.get("added_tokens") or ()})
        others = [part for part in PIPELINE if data.get(part) != ours[part]]
        if (model.get("type"), model.get("unk_token")) != ("WordLevel", UNKNOWN):
            others.append("model")
    if others:
        message = (
            f"{name} is not a tokenizer of whole words as ldmref writes it: its {others[0]} differs"
        )
        hint = "a folder of ldmref holds the tokenizer.json that training or convert wrote"
        raise CorruptModelError(message, code="E-TOKENIZER", hint=hint)
    add_words(tokenizer, sorted(added, key=lambda word: added[word]))
    if any(tokenizer.token_to_id(word) != id for word, id in added.items()):
        raise CorruptModelError(f"{name}: its added words have unexpected ids", code="E-TOKENIZER")
    return tokenizer


def split_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """Split `text` into words as a word tokenizer does; an emoji becomes its name."""
    text = tokenizer.normalizer.normalize_str(with_emoji_names(text))
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
