"""The words of captions that a model cannot read."""

from __future__ import annotations

from collections.abc import Callable

from ldmref.errors import abbreviated
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.training.data import Dataset
from ldmref.training.progress import WARNING


def warn_of_unknown_words(
    data: Dataset, tokenizer: PromptTokenizer, say: Callable[[str], None]
) -> None:
    """Say which words of the captions the vocabulary lacks; training goes on without them."""
    unknown: set[str] = set()
    for caption in set(data.vocabulary()):
        encoding = tokenizer.tokenizer.encode(caption, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        unknown |= {caption[start:end] for id, (start, end) in pairs if id == tokenizer.unknown}
    if unknown:
        words = abbreviated(sorted(unknown))
        say(f"{WARNING}words of the captions that the model does not know: {words}")
