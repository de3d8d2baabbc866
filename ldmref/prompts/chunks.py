"""Chunks of the text encoder's length, into which the tokens of a long prompt are split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from ldmref.errors import CorruptModelError

BREAK = " BREAK "  # between the sections of a parsed prompt


class TokenGroup(NamedTuple):
    """Tokens that stay in one chunk: a single one, or all vectors of an added word."""

    ids: tuple[int, ...]
    weight: float
    position: int  # of the first character of its word in the parsed prompt
    end: int  # after its own last character


Chunk = list[TokenGroup]


def split_into_chunks(sections: Sequence[Sequence[TokenGroup]], size: int) -> list[Chunk]:
    """Split token groups into chunks of at most `size` ids; each section begins a new chunk.

    An empty last chunk is dropped.
    """
    chunks: list[Chunk] = []
    for section in sections:
        chunks.append([])
        free = size
        for group in section:
            if len(group.ids) > free:
                chunks.append([])
                free = size
            chunks[-1].append(group)
            free -= len(group.ids)
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def count_ids(groups: Sequence[TokenGroup]) -> int:
    """Count the ids of some token groups."""
    return sum(len(group.ids) for group in groups)


def describe_cut(sections: Sequence[Sequence[TokenGroup]], rest: str, unit: str, room: int) -> str:
    """Return a line about a prompt of some sections whose `rest` is left out.

    Args:
        sections: The groups of the whole prompt.
        rest: The text that is left out.
        unit: What the tokens are: "words" or "tokens".
        room: The number of tokens that the model reads.
    """
    count = count_ids([group for section in sections for group in section])
    rest = rest.removesuffix(BREAK).strip()
    return (
        f"the prompt has {count} {unit}, the model reads {room}"
        f"{', and BREAK needs long_prompts=chunk' if len(sections) > 1 else ''}; "
        f"left out: {rest if len(rest) <= 200 else rest[:200] + ' ...'}"
    )


def find_multi_vector_ids(tokenizer: Tokenizer, limit: int) -> dict[int, tuple[int, ...]]:
    """Find all ids of each added word with several vectors, keyed by the id of the word itself.

    Its tokens are word, word_1, ..., as diffusers names them.

    Raises:
        CorruptModelError: A word has more vectors than `limit`, the ids of a chunk.
    """
    added = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}
    result = {}
    for word, id in added.items():
        ids = [id]
        while (next_id := added.get(f"{word}_{len(ids)}")) is not None:
            ids.append(next_id)
            if len(ids) > limit:
                message = (
                    f"the tokenizer's word {word!r} has more vectors than the {limit} of a chunk"
                )
                raise CorruptModelError(message, code="E-TOKENIZER")
        if len(ids) > 1:
            result[id] = tuple(ids)
    return result
