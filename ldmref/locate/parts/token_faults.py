"""Known faults of the token ids of a text, and of the mask of its padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.faults.masks import masks_of_other_rows, moved_masks


def mask_faults(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what ports make of the mask of a batch of texts, (n, l): in words, and the mask.

    >>> [words for words, x in mask_faults(np.array([[1, 1, 0]])) if x.tolist() == [[0, 1, 1]]]
    ['the mask is one token late', 'the mask is that of padding on the other side']
    """
    yield "the mask is inverted", 1 - mask
    yield "padding is not masked", np.ones_like(mask)
    yield "everything is masked", np.zeros_like(mask)
    yield from moved_masks(mask)
    longer = np.insert(mask[:, :-1], 0, 1, axis=1)
    yield "the mask has one token too many", longer
    yield "the mask has one token too few", np.insert(mask[:, 1:], mask.shape[1] - 1, 0, axis=1)
    if mask.shape[0] > 1:
        yield "rows of the mask are exchanged", mask[::-1]
    yield from masks_of_other_rows(mask, 2)
    yield "the mask is that of padding on the other side", mask[:, ::-1]


def explain(got: np.ndarray, expected: np.ndarray, prompt: str) -> tuple[str, str]:
    """Return the cause of wrong ids, "" if it is not known, and where they begin.

    >>> explain(np.array([1, 5, 2, 2]), np.array([1, 5, 2, 0]), "cat")
    ('padded with id 2 instead of 0', "first at token 3 of 'cat': id 2 instead of 0")
    """
    wrong = np.flatnonzero(got != expected)
    first = int(wrong[0])
    note = (
        f"first at token {first} of {prompt!r}: id {int(got[first])} instead of "
        f"{int(expected[first])}"
    )
    tail = expected[first:]
    padding = len(set(tail.tolist())) == 1 and first > 0
    if padding and len(set(got[first:].tolist())) == 1:
        return f"padded with id {int(got[first])} instead of {int(tail[0])}", note
    for shift, text in ((1, "the first token is missing"), (-1, "one token too many at the start")):
        rolled = np.roll(expected, -shift)
        inner = slice(0, -1) if shift > 0 else slice(1, None)
        if np.array_equal(rolled[inner], got[inner]):
            return text, note
    difference = np.unique(got.astype(np.int64) - expected.astype(np.int64))
    if difference.size == 1:
        return f"all ids differ by {int(difference[0])}", note
    if wrong.size == 1:
        return f"a single token: id {int(got[first])} instead of {int(expected[first])}", note
    return "", note
