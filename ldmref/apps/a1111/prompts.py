"""How A1111 reads a prompt: networks, chunks, clip skip, and what ldmref reads differently.

Source: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/extra_networks.py, prompt_parser.py,
sd_hijack.py, sd_hijack_clip.py and sd_hijack_open_clip.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ldmref.models.clip import CLIP
from ldmref.models.config import ModelConfig, UNetConfig
from ldmref.models.text_kind import kind_of
from ldmref.modes.run import Run
from ldmref.modes.validation import check_integer
from ldmref.prompts.weights import parse_prompt_weights

OPENCLIP_WIDTH = 1024  # hidden size of the text encoder of Stable Diffusion 2
MOST_SKIPPED = 1000
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
_PROMPT_EDITING = re.compile(r"\[[^\[\]:|]*[:|][^\[\]]*\]|\bAND\b")
_BRACKETS = re.compile(r"\\.|[()\[\]]|\bBREAK\b")


def split_networks(text: str) -> tuple[str, list[str]]:
    """Return a prompt without the networks that it names, and these.

    >>> split_networks("a cat <lora:fur:0.5>")
    ('a cat', ['<lora:fur:0.5>'])
    """
    tags = _NETWORK.findall(text)
    return _NETWORK.sub("", text).strip() if tags else text, tags


def reads_chunks(config: ModelConfig) -> bool:
    """Return whether A1111 reads a prompt of any length, in chunks of the text encoder's length.

    It does with the transformers of CLIP and OpenCLIP, which `StableDiffusionModelHijack.hijack`
    in sd_hijack.py wraps into its `FrozenCLIPEmbedderWithCustomWordsBase`; other text encoders,
    such as latent diffusion's BERT, it leaves as they are. Models that take one token for the whole
    prompt read one chunk.
    """
    denoiser = config.denoiser
    whole = isinstance(denoiser, UNetConfig) and bool(denoiser.class_embed_type)
    return kind_of(config.text_encoder) is CLIP and not whole


def heeds_clip_skip(config: ModelConfig) -> bool:
    """Return whether clip skip has an effect in A1111: with the text encoder of Stable Diffusion 1.

    `opts.CLIP_stop_at_last_layers` is read in `encode_with_transformers` of
    `FrozenCLIPEmbedderWithCustomWords` in sd_hijack_clip.py. The class for SDXL takes
    `hidden_states[self.wrapped.layer_idx]`, unless the option `sdxl_clip_l_skip` is set, which is
    off by default. The classes in sd_hijack_open_clip.py, for Stable Diffusion 2 and for the second
    encoder of SDXL, do not read it.
    """
    text = config.text_encoder
    return (
        kind_of(text) is CLIP
        and text.hidden_size != OPENCLIP_WIDTH
        and config.text_encoder_2 is None
    )


def read_clip_skip(config: ModelConfig, stop: object, notes: list[str]) -> int:
    """Return the parameter `clip_skip` of A1111's clip skip, which counts from 1.

    Args:
        config: Configuration of the model that generates.
        stop: A1111's `CLIP_stop_at_last_layers`; 0 acts like 1.
        notes: List to which a note is appended if the text encoder has fewer layers.

    Raises:
        UsageError: It is not a whole number from 0 to 1000.
    """
    skipped = max(0, check_integer("clip_skip", stop, 0, MOST_SKIPPED) - 1)
    if not heeds_clip_skip(config):
        return 0
    most = config.max_clip_skip
    if skipped > most:
        notes.append(f"clip skip {stop}: the text encoder has fewer layers, {most + 1} is used")
    return min(skipped, most)


def prompt_notes(*prompts: str) -> Iterator[str]:
    """Yield notes on what A1111 reads in prompts, and ldmref does not or otherwise."""
    if any(_PROMPT_EDITING.search(words) for words in prompts):
        yield "A1111 reads [a:b:n], [a|b] and AND in a prompt, ldmref does not"
    if any(_break_in_brackets(words) for words in prompts):
        yield "BREAK within brackets is text in A1111, and a break here"


def chunk_notes(run: Run, made: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes on prompts of a prepared run that A1111 would split into other chunks.

    Args:
        run: The run, with its prompts encoded.
        made: The entry `a1111` of `reading.replay_parameters`.
    """
    encoded = run.text.encoded
    pairs = zip(run.text.prompts, run.text.negative_prompts, strict=True)
    for texts in dict.fromkeys(pairs):
        if not all(text in encoded for text in texts):
            continue
        counts = [encoded[text].tokens.counts[0] for text in texts]
        if counts[0] != counts[1] and not made["padded"]:
            yield (
                "prompt and negative prompt have a different number of chunks: the shorter one "
                "is padded, which A1111 does not do by default"
            )
        sections = [len(parse_prompt_weights(text)) for text in texts]
        cut = any(n > m for n, m in zip(counts, sections, strict=True))
        if cut and any("," in text for text in texts):
            yield (
                "a prompt is longer than a chunk: A1111 moves up to 20 tokens after the last "
                "comma to the next one"
            )


def _break_in_brackets(words: str) -> bool:
    depth = 0
    for token in _BRACKETS.findall(words):
        if token in "([":
            depth += 1
        elif token in ")]":
            depth = max(0, depth - 1)
        elif token == "BREAK" and depth:
            return True
    return False
