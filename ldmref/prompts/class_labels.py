"""Prompts of class-conditional and unconditional models: a class label, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ldmref.errors import UsageError, did_you_mean
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer, SpecialTokens, Tokens


def find_class(prompt: str, classes: int, names: Sequence[str] = ()) -> int:
    """The class that a prompt names, 0 to classes - 2; an empty prompt is the null class, the last.

    Prompts are numbers or, where the classes have names, one of these (a number may be one, too).

    Raises:
        UsageError: the prompt is neither the number nor the name of a class.
    """
    text = prompt.strip()
    null = classes - 1
    if not text:
        return null
    if text in names:
        return names.index(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) < null):
        message = f"this model draws classes 0 to {null - 1}, not {prompt[:80]!r}"
        hint = 'give the number of a class, such as "207", or "" for none'
        if names:
            hint = f"give its number or its name, or an empty prompt; {did_you_mean(text, names)}"
        raise UsageError(message, code="E-CLASS", hint=hint)
    return int(text)


def check_prompt(prompt: str, classes: int, names: Sequence[str] = ()) -> None:
    """Refuse a prompt that such a model cannot follow; `classes` is 0 if it is unconditional.

    Raises:
        UsageError: the message states which prompts are valid.
    """
    if classes:
        find_class(prompt, classes, names)
    elif prompt.strip():
        message = f"this model takes no prompt, but was given {prompt[:80]!r}"
        raise UsageError(message, code="E-PROMPT", hint='give "" as prompt')


class ClassLabelTokenizer(PromptTokenizer):
    """Tokenizer with a single token per prompt, the class label.

    Args:
        classes: rows of the class embedding table, the null class included; 0: unconditional.
        names: of the classes but the null class, in their order; none if they have no names.
    """

    def __init__(self, classes: int, names: Sequence[str] = ()):
        labels = [str(i) for i in range(max(1, classes))]
        vocabulary = {label: i for i, label in enumerate(labels)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=labels[-1]))
        super().__init__(tokenizer, 1, SpecialTokens(*[labels[-1]] * 4))
        self.classes = classes
        self.names = tuple(names)

    def tokenize(self, prompts: Sequence[str], options: PromptOptions | None = None) -> Tokens:
        """Ids (n, chunks, 1), the same in every chunk.

        Raises:
            UsageError: a prompt names no class.
        """
        for prompt in prompts:
            check_prompt(prompt, self.classes, self.names)
        chunks = max(1, (options or PromptOptions()).chunks)
        labels = [0] * len(prompts)
        if self.classes:
            labels = [find_class(prompt, self.classes, self.names) for prompt in prompts]
        ids = np.repeat(np.asarray(labels, np.int64)[:, None, None], chunks, axis=1)
        n = len(labels)
        return Tokens(ids, np.ones(ids.shape, np.float32), [1] * n, [0] * n, [])
