"""Prompts of class-conditional and unconditional models: a class label, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ldmref.errors import UsageError, did_you_mean
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.prompts.tokens import SpecialTokens, Tokens


def find_class(prompt: str, classes: int, names: Sequence[str] = ()) -> int:
    """Find the class that a prompt names, from 0 to classes - 2.

    Prompts are numbers or, if the classes have names, one of the names (which may also be a
    number). An empty prompt is the null class, classes - 1.

    Raises:
        UsageError: The prompt is neither the number nor the name of a class.
    """
    text = prompt.strip()
    null = classes - 1
    if not text:
        return null
    if text in names:
        return names.index(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) < null):
        message = f"this model generates classes 0 to {null - 1}, not {prompt[:80]!r}"
        hint = 'give the number of a class, such as "207", or "" for no class'
        if names:
            hint = f"give its number or its name, or an empty prompt; {did_you_mean(text, names)}"
        raise UsageError(message, code="E-CLASS", hint=hint)
    return int(text)


def check_prompt(prompt: str, classes: int, names: Sequence[str] = ()) -> None:
    """Refuse a prompt that such a model cannot follow; `classes` is 0 if it is unconditional.

    Raises:
        UsageError: The message states which prompts are valid.
    """
    if classes:
        find_class(prompt, classes, names)
    elif prompt.strip():
        message = f"this model takes no prompt, but was given {prompt[:80]!r}"
        raise UsageError(message, code="E-PROMPT", hint='give "" as the prompt')


class ClassLabelTokenizer(PromptTokenizer):
    """A tokenizer with a single token per prompt, the class label.

    Args:
        classes: The number of rows of the class embedding table, including the null class; 0 for
            unconditional models.
        names: The names of all classes except for the null class, in order; empty without names.
    """

    def __init__(self, classes: int, names: Sequence[str] = ()):
        labels = [str(i) for i in range(max(1, classes))]
        vocabulary = {label: i for i, label in enumerate(labels)}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=labels[-1]))
        super().__init__(tokenizer, 1, SpecialTokens(*[labels[-1]] * 4))
        self.classes = classes
        self.names = tuple(names)

    def tokenize(
        self, prompts: str | Sequence[str], options: PromptOptions | None = None
    ) -> Tokens:
        """Return ids (n, chunks, 1), the same in every chunk.

        Raises:
            UsageError: A prompt names no class.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        for prompt in prompts:
            check_prompt(prompt, self.classes, self.names)
        chunks = max(1, (options or PromptOptions()).chunks)
        labels = [0] * len(prompts)
        if self.classes:
            labels = [find_class(prompt, self.classes, self.names) for prompt in prompts]
        ids = np.repeat(np.asarray(labels, np.int64)[:, None, None], chunks, axis=1)
        n = len(labels)
        weights = np.ones(ids.shape, np.float32)
        return Tokens(ids, weights, np.ones_like(ids), [1] * n, [0] * n, [])
