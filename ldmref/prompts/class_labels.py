"""Prompts of models that know classes and no words: the number of a class, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ldmref.errors import UsageError
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, SpecialTokens, Tokens


def class_number(prompt: str, classes: int) -> int:
    """The class that a prompt names, from 0 to classes - 2; the empty prompt is the last, which
    means no class.

    Raises:
        UsageError: the prompt is no number, or there is no such class.
    """
    text, last = prompt.strip(), classes - 1
    if not text:
        return last
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) < last):
        raise UsageError(
            f"this model draws classes 0 to {last - 1}, not {prompt[:80]!r}",
            code="E-CLASS",
            hint='give the number of a class, such as "207", or "" for none',
        )
    return int(text)


def check_prompt(prompt: str, classes: int) -> None:
    """Refuse a prompt that a model without words cannot follow; `classes` is 0 without classes.

    Raises:
        UsageError: says what it can.
    """
    if classes:
        class_number(prompt, classes)
    elif prompt.strip():
        raise UsageError(
            f"this model takes no prompt, but was given {prompt[:80]!r}",
            code="E-PROMPT",
            hint='give "" as prompt',
        )


class ClassNumbers(PromptTokenizer):
    """The tokenizer of such models: one token, the number of the class.

    Args:
        classes: rows of the table of classes, the last meaning no class; 0: no prompt at all.
    """

    def __init__(self, classes: int):
        names = [str(i) for i in range(max(1, classes))]
        vocabulary = {name: i for i, name in enumerate(names)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=names[-1]))
        super().__init__(tokenizer, 1, SpecialTokens(*[names[-1]] * 4))
        self.classes = classes

    def read(self, prompts: Sequence[str], reading: PromptOptions | None = None) -> Tokens:
        """Ids (n, chunks, 1), the same in every chunk.

        Raises:
            UsageError: a prompt is no number of a class.
        """
        for prompt in prompts:
            check_prompt(prompt, self.classes)
        chunks = max(1, (reading or PromptOptions()).chunks)
        numbers = [class_number(prompt, self.classes) if self.classes else 0 for prompt in prompts]
        ids = np.repeat(np.asarray(numbers, np.int64)[:, None, None], chunks, axis=1)
        return Tokens(ids, np.ones(ids.shape, np.float32), [1] * len(numbers), [])
