"""Checks of texts and vocabularies: length, ids, and notation that is read as text."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ldmref.errors import UsageError

MAX_CHARACTERS = 4000  # of a prompt in a request
MAX_TEXT = 10_000  # characters that a tokenizer takes
MAX_PIECES = 2**19  # of a vocabulary; those of today's language models have half as many
MAX_PIECE = 1000  # characters of one; a trie of the library takes a stack frame for each byte
MAX_VALUES = 2**20  # of a vocabulary in JSON, in which a piece takes up to three

_WEIGHTED = re.compile(r"\([^()]{1,80}:\s{0,9}[+-]?[0-9.]{1,9}\)")
_BY_SIGNS = re.compile(r"((?<!\w)\w{2,40}|\([^()]{1,80}\))(\+\++|--+|(?<=\))[+-])(?=[\s,.;)]|$)")
_STEPS = re.compile(
    r"\[[^\[\]]{0,80}\|[^\[\]]{0,80}\]|\[(?:[^\[\]:]{0,80}:){1,2}\s{0,3}[0-9.]{1,9}\s{0,3}\]"
)
_CHOICE = re.compile(r"\{[^{}]{0,80}\|[^{}]{0,80}\}")
_EXTRA_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,80}>")


def check_text(what: str, text: str, limit: int = MAX_CHARACTERS) -> None:
    """Refuse a text that is too long or not valid Unicode.

    Args:
        what: The name of the text in messages.
        text: The text.
        limit: The maximum number of characters.

    Raises:
        UsageError: It has more characters, or a lone surrogate.
    """
    if len(text) > limit:
        raise UsageError(
            f"the {what} is too long: {len(text)} characters, the limit is {limit}",
            code="E-PROMPT-LENGTH",
            hint="shorten it; the model reads only its first words anyway",
        )
    if not is_text(text):
        raise UsageError(f"the {what} is not valid Unicode text", code="E-PROMPT")


def check_id_table(data: Any) -> dict[str, int]:
    """Return `data` if it is a table of ids by token.

    Raises:
        ValueError: It is not, or its tokens are too many or too long.
    """
    rows = data.items() if isinstance(data, dict) else [("", None)]
    if not all(isinstance(token, str) and type(id) is int and id >= 0 for token, id in rows):
        raise ValueError("not a table of tokens and ids")
    check_pieces(data)
    return data


def check_pieces(pieces: Collection[str]) -> None:
    """Refuse a vocabulary that the library `tokenizers` cannot take, before it is handed over.

    Args:
        pieces: Its tokens.

    Raises:
        ValueError: They are too many, or one of them is too long.
    """
    if len(pieces) > MAX_PIECES:
        raise ValueError(f"a vocabulary of {len(pieces):,} tokens; at most {MAX_PIECES:,} are read")
    longest = max(map(len, pieces), default=0)
    if longest > MAX_PIECE:
        raise ValueError(f"a token of {longest:,} characters; at most {MAX_PIECE:,} are read")


def check_lines(data: bytes) -> bytes:
    """Return a file with a token or a merge on each line, if it has as few and as short ones.

    Raises:
        ValueError: It has more, or longer ones, than `check_pieces` allows.
    """
    lines = data.count(b"\n")
    if lines > MAX_PIECES:
        raise ValueError(f"a vocabulary of {lines:,} lines; at most {MAX_PIECES:,} are read")
    longest = max(map(len, data.split(b"\n")))
    if longest > 8 * MAX_PIECE:  # two tokens of up to four bytes a character
        raise ValueError(f"a line of {longest:,} bytes; at most {8 * MAX_PIECE:,} are read")
    return data


def is_text(text: str) -> bool:
    """Return whether a string is valid Unicode, without lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def find_unread_notation(prompt: str, prompt_weights: str) -> list[str]:
    """Return warnings about other programs' notations in a prompt that are read as text.

    Args:
        prompt: The prompt.
        prompt_weights: How its weights are written: `none` or `a1111`.

    >>> find_unread_notation("a red++ cat", "none")
    ["red++ is read as text: compel's + and - are (red:1.21) with prompt_weights=a1111"]
    """
    warnings = []
    if extra := _EXTRA_NETWORK.search(prompt):
        warnings.append(
            f"{extra[0]} in a prompt is read as text: load(lora=) and --lora apply LoRAs"
        )
    if prompt_weights == "none" and (weighted := _WEIGHTED.search(prompt)):
        warnings.append(f"{weighted[0]} is read as text: prompt_weights=a1111 reads weights")
    if signs := _BY_SIGNS.search(prompt):
        words, sign = signs[1].strip("()"), signs[2]
        weight = (1.1 if sign[0] == "+" else 0.9) ** len(sign)
        meant = f"({words}:{weight:.3g}) with prompt_weights=a1111"
        warnings.append(f"{signs[0]} is read as text: compel's + and - are {meant}")
    if steps := _STEPS.search(prompt):
        how = "text" if prompt_weights == "none" else "text of weight 0.91"
        warnings.append(
            f"{steps[0]} is read as {how}: A1111 changes the prompt from step to step by it"
        )
    if choice := _CHOICE.search(prompt):
        warnings.append(
            f"{choice[0]} is read as text: other programs choose one of these at random"
        )
    return warnings
