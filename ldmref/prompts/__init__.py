"""Prompts: tokenizers, prompt weights, long prompts, and textual inversion.

Public and stable are the names that this package exports; import them from here. Its modules are
internal and may change in any version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.prompts.clip import Vocabulary as Vocabulary
    from ldmref.prompts.clip import clip_tokenizer as clip_tokenizer
    from ldmref.prompts.clip_vocabulary import load_tokenizer as load_tokenizer
    from ldmref.prompts.clip_vocabulary import read_vocabulary as read_vocabulary
    from ldmref.prompts.prompt_template import PromptTemplate as PromptTemplate
    from ldmref.prompts.templates import PromptStyle as PromptStyle
    from ldmref.prompts.templates import Wildcards as Wildcards
    from ldmref.prompts.templates import read_styles as read_styles
    from ldmref.prompts.templates import read_wildcards as read_wildcards
    from ldmref.prompts.textual_inversion import Embedding as Embedding
    from ldmref.prompts.tokenizer import PromptOptions as PromptOptions
    from ldmref.prompts.tokenizer import PromptTokenizer as PromptTokenizer
    from ldmref.prompts.tokens import SpecialTokens as SpecialTokens
    from ldmref.prompts.tokens import Tokens as Tokens
    from ldmref.prompts.unigram import unigram_tokenizer as unigram_tokenizer
    from ldmref.prompts.weights import WeightedText as WeightedText
    from ldmref.prompts.weights import emphasize as emphasize
    from ldmref.prompts.weights import parse_prompt_weights as parse_prompt_weights
    from ldmref.prompts.wordpiece import wordpiece_tokenizer as wordpiece_tokenizer
    from ldmref.prompts.words import load_word_tokenizer as load_word_tokenizer
    from ldmref.prompts.words import word_tokenizer as word_tokenizer

__getattr__, __dir__, __all__ = export_lazily(__name__)
