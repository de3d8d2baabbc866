"""Prompts: tokenizers, prompt weights, long prompts, and textual inversion.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.prompts.clip import Vocabulary, clip_tokenizer
    from ldmref.prompts.clip_vocabulary import load_tokenizer, read_vocabulary
    from ldmref.prompts.textual_inversion import Embedding
    from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
    from ldmref.prompts.tokens import SpecialTokens, Tokens
    from ldmref.prompts.weights import WeightedText, emphasize, parse_prompt_weights
    from ldmref.prompts.wordpiece import wordpiece_tokenizer
    from ldmref.prompts.words import load_word_tokenizer, word_tokenizer

__all__ = [
    "Embedding",
    "PromptOptions",
    "PromptTokenizer",
    "SpecialTokens",
    "Tokens",
    "Vocabulary",
    "WeightedText",
    "clip_tokenizer",
    "emphasize",
    "load_tokenizer",
    "load_word_tokenizer",
    "parse_prompt_weights",
    "read_vocabulary",
    "word_tokenizer",
    "wordpiece_tokenizer",
]

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "Embedding": "textual_inversion",
        "PromptOptions": "tokenizer",
        "PromptTokenizer": "tokenizer",
        "SpecialTokens": "tokens",
        "Tokens": "tokens",
        "Vocabulary": "clip",
        "WeightedText": "weights",
        "clip_tokenizer": "clip",
        "emphasize": "weights",
        "load_tokenizer": "clip_vocabulary",
        "load_word_tokenizer": "words",
        "parse_prompt_weights": "weights",
        "read_vocabulary": "clip_vocabulary",
        "word_tokenizer": "words",
        "wordpiece_tokenizer": "wordpiece",
    },
)
