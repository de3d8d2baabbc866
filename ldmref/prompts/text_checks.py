"""Checks of texts and vocabularies: length, ids, and notation that is read as text."""

from __future__ import annotations

import re
from typing import Any

from ldmref.errors import UsageError

MAX_CHARACTERS = 4000  # of a prompt in a request
MAX_TEXT = 10_000  # characters that a tokenizer takes

_WEIGHTED = re.compile(r"\([^()]{1,80}:\s{0,9}[+-]?[0-9.]{1,9}\)")
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
        ValueError: It is not.
    """
    rows = data.items() if isinstance(data, dict) else [("", None)]
    if not all(isinstance(token, str) and type(id) is int and id >= 0 for token, id in rows):
        raise ValueError("not a table of tokens and ids")
    return data


def is_text(text: str) -> bool:
    """Return whether a string is valid Unicode, without lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def find_unread_notation(prompt: str, prompt_weights: str) -> list[str]:
    """Return warnings about A1111's notations in a prompt that are read as text."""
    warnings = []
    if extra := _EXTRA_NETWORK.search(prompt):
        warnings.append(
            f"{extra[0]} in a prompt is read as text: load(lora=) and --lora apply LoRAs"
        )
    if prompt_weights == "none" and (weighted := _WEIGHTED.search(prompt)):
        warnings.append(f"{weighted[0]} is read as text: prompt_weights=a1111 reads weights")
    return warnings
