"""How prompts condition Qwen-Image 2.1: Qwen3-VL's hidden states, without the system message."""

from __future__ import annotations

from dataclasses import replace

from ldmref.models.config import ModelConfig
from ldmref.prompts.prompt_template import PromptTemplate

LENGTH = 512  # tokens of a text, with those of the template
SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
SYSTEM_TOKENS = 14  # of Qwen's vocabulary
CHAT = PromptTemplate(
    SYSTEM + "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    dropped=SYSTEM_TOKENS,
    prepare=("blank",),
)


def with_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of a text."""
    text = replace(config.text_encoder, max_position_embeddings=length)
    return replace(config, text_encoder=text)
