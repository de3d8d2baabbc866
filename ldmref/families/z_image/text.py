"""The text encoder of Z-Image: Qwen3, whose last hidden state but one is read."""

from __future__ import annotations

from dataclasses import replace

from ldmref.families.qwen3.encoder import Qwen3Config

LENGTH = 512  # tokens of a caption, with those of the template, in diffusers' pipelines


def as_text_encoder(text: Qwen3Config) -> Qwen3Config:
    """Return a language model's configuration as the text encoder of Z-Image."""
    return replace(text, max_position_embeddings=LENGTH, hidden_layers=(-2,), final_norm=False)
