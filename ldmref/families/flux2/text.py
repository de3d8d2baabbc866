"""The text encoder of FLUX.2: three layers of Qwen3, after a chat whose answer has no thoughts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ldmref.backends.base import Backend
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import ANSWER, USER, choose_layers
from ldmref.models.config import TextConfig
from ldmref.models.text import EncodedText, encode_tokens
from ldmref.prompts.prompt_template import PromptTemplate
from ldmref.prompts.tokens import Tokens

LAYERS = (9, 18, 27)  # whose outputs the transformer reads, of any number
LENGTH = 512  # tokens of a prompt, with those of the template
CHAT = PromptTemplate(USER, f"{ANSWER}<think>\n\n</think>\n\n", cut="end")


def encode_prompts(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode tokenized prompts; the arguments are those of `encode_tokens`.

    The text encoder does not read padding, but the transformer reads the states of all tokens: it
    gets no mask, and nothing is cut.
    """
    text = encode_tokens(ops, configs, tokens, compile_network, clip_skip, weighted)
    return replace(text, more={})


def as_text_encoder(text: Qwen3Config) -> Qwen3Config:
    """Return a language model's configuration as the text encoder of FLUX.2."""
    return replace(
        text,
        max_position_embeddings=LENGTH,
        hidden_layers=choose_layers(text, LAYERS),
        final_norm=False,
    )
