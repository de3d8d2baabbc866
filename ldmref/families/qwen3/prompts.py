"""The chat, length, hidden states and rules of the families whose text encoder is Qwen3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.models.config import ModelConfig
from ldmref.models.family import TextPath
from ldmref.prompts.prompt_template import PromptTemplate

USER = "<|im_start|>user\n"  # before a message
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"  # after it, where the model would answer
CHAT = PromptTemplate(USER, ANSWER, cut="end")
"""A chat of one message, the prompt."""


def with_system(message: str) -> str:
    """Return the text before a prompt in a chat that a message of the system begins.

    >>> with_system("Be brief.")
    '<|im_start|>system\\nBe brief.<|im_end|>\\n<|im_start|>user\\n'
    """
    return f"<|im_start|>system\n{message}<|im_end|>\n{USER}"


def with_length(config: ModelConfig, length: int, dropped: int = 0) -> ModelConfig:
    """Return the configuration of a model that reads prompts of another number of tokens.

    Args:
        config: The configuration.
        length: The number of tokens, those of the template included.
        dropped: The number of leading tokens of the template that `length` does not count.
    """
    text = replace(config.text_encoder, max_position_embeddings=length + dropped)
    return replace(config, text_encoder=text)


def read_chat(template: PromptTemplate, **more: Any) -> TextPath:
    """Return the way of a family from prompts to hidden states: a chat that one Qwen3 reads.

    Args:
        template: The chat.
        more: Further attributes of `TextPath`, or others in place of these.
    """
    chat = TextPath(with_length=with_length, templates=lambda config: {"text_encoder": template})
    return replace(chat, **more)


def choose_layers(text: Qwen3Config, usual: tuple[int, ...]) -> tuple[int, ...]:
    """Return the layers that a family reads: those that the encoder's file says, or the usual ones.

    >>> choose_layers(Qwen3Config(num_hidden_layers=29), (9, 18, 27))
    (9, 18, 27)
    >>> choose_layers(Qwen3Config(num_hidden_layers=4, hidden_layers=(1, 2, 3)), (9, 18, 27))
    (1, 2, 3)
    """
    return usual if text.hidden_layers == Qwen3Config.hidden_layers else text.hidden_layers


def broken_text_rules(config: ModelConfig, width: str = "") -> Iterator[str]:
    """Yield the rules that the text encoder breaks: it is one Qwen3, and its states fit.

    Args:
        config: The configuration of a model.
        width: The field of the transformer that is the width of all hidden states of a token. "":
            there is none.
    """
    text = config.text_encoder
    if not isinstance(text, Qwen3Config) or len(config.text_encoders) != 1:
        yield "the text encoder must be Qwen3's"
    elif width and text.hidden_size * len(text.hidden_layers) != getattr(config.denoiser, width):
        yield f"transformer.{width} must be the width of all hidden_layers of the text encoder"
