"""The text encoder of Qwen-Image 2.1: Qwen3-VL's last states, without the system message."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import ANSWER, with_system
from ldmref.prompts.prompt_template import PromptTemplate

LENGTH = 512  # tokens to which texts are filled up, with the template's; longer ones stay whole
IMAGE_START = "image_start"  # the place of images on the first axis
SYSTEM = "Comprehend and analyze the provided prompt."
CHAT = PromptTemplate(with_system(SYSTEM), ANSWER, dropped=14, prepare=("blank",))


def as_text_encoder(text: Qwen3Config) -> Qwen3Config:
    """Return a language model's configuration as the text encoder of Qwen-Image 2.1."""
    return replace(text, max_position_embeddings=LENGTH, hidden_layers=(-1,), final_norm=False)
