"""How captions condition Z-Image: Qwen3's hidden states of a chat, without the padding."""

from __future__ import annotations

from dataclasses import replace

from ldmref.models.config import ModelConfig
from ldmref.prompts.prompt_template import PromptTemplate

CHAT = PromptTemplate("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", cut="end")


def with_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of a caption."""
    text = replace(config.text_encoder, max_position_embeddings=length)
    return replace(config, text_encoder=text)
