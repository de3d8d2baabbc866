"""Small stand-ins for checkpoints of gigabytes and for the emoji font."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tokenizers import pre_tokenizers

from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.presets import PRESETS

MERGES = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("t", "o"), ("o", "y</w>")]
NAMES = ("red heart", "blue heart", "banana", "full moon face", "grapes", "snowflake")


def small_sd15() -> ModelConfig:
    """Stable Diffusion 1.5 as its files describe it, in tiny sizes."""
    tiny = PRESETS["tiny"]
    sd15 = PRESETS["sd15"]
    text = replace(
        sd15.text_encoder,
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    assert isinstance(sd15.vae, AutoencoderConfig)
    vae = replace(tiny.vae, scaling_factor=sd15.vae.scaling_factor)
    return replace(sd15, denoiser=tiny.unet, vae=vae, text_encoder=text, defaults=tiny.defaults)


def write_vocabulary(folder: Path) -> Path:
    """Write CLIP's vocabulary of single characters and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), *map("".join, MERGES)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    lines = ["#version: 0.2", *map(" ".join, MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def install() -> None:
    """Let `sd15` be small, and the emoji be six squares where the font is not installed."""
    PRESETS["sd15"] = small_sd15()
    from ldmref.datasets.emoji import emoji_dataset
    from ldmref.datasets.emoji import font as emoji_data

    if emoji_data.FONT.exists():
        return
    groups = ("heart", "heart", "food-fruit", "sky & weather", "food-fruit", "sky & weather")
    emoji = [emoji_data.Emoji("x", *pair) for pair in zip(NAMES, groups, strict=True)]
    emoji_data.check_font = lambda font_file="": None

    def render(e, size=emoji_data.CELL, font_file=""):
        return Image.new("RGB", (size, size), (40 * emoji.index(e), 100, 200))

    for module in (emoji_data, emoji_dataset):
        vars(module).update(emoji_list=lambda: emoji, render=render)
