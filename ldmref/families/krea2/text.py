"""The text encoder of Krea 2: twelve layers of Qwen3-VL, after a chat."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import ANSWER, with_system
from ldmref.prompts.prompt_template import PromptTemplate

LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)
LENGTH = 512  # tokens of a prompt with those after it
SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:"
)
CHAT = PromptTemplate(with_system(SYSTEM), ANSWER, padding="prompt", dropped=34)


def as_text_encoder(text: Qwen3Config) -> Qwen3Config:
    """Return a language model's configuration as the text encoder of Krea 2."""
    return replace(
        text,
        max_position_embeddings=LENGTH + CHAT.dropped,
        hidden_layers=LAYERS,
        final_norm=False,
        padding_position=-1,
    )
