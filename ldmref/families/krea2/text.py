"""How prompts condition Krea 2: hidden states of a chat of Qwen3-VL from twelve of its layers."""

from __future__ import annotations

from dataclasses import replace

from ldmref.models.config import ModelConfig
from ldmref.prompts.prompt_template import PromptTemplate

LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
LENGTH = 512  # tokens of a prompt with those after it
SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:"
)
CHAT = PromptTemplate(
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    padding="prompt",
    dropped=34,
)


def with_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration with another number of tokens of a prompt."""
    text = replace(config.text_encoder, max_position_embeddings=length + CHAT.dropped)
    return replace(config, text_encoder=text)
