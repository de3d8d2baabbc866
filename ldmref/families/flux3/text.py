"""The text encoder of FLUX.3: eight layers of Qwen3-VL, with a part of the padding.

Each prompt has a window, its tokens filled up to a multiple of 80. The transformer reads the whole
window, so its padding cannot be cut; the encoder gives that padding position 1 and does not read
it. In a batch each prompt keeps its own window: every image is as its prompt alone makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ldmref.backends.base import Backend
from ldmref.families.flux3.config import WINDOW
from ldmref.families.qwen3.encoder import Qwen3Config
from ldmref.families.qwen3.prompts import choose_layers
from ldmref.models.text import EncodedText, encode_tokens
from ldmref.models.text_config import TextConfig
from ldmref.prompts.tokens import Tokens

LAYERS = (4, 8, 12, 16, 20, 24, 28, 32)  # of Qwen3-VL, whose hidden states are read
LENGTH = 4096  # the makers' largest number of tokens; diffusers has 8192


def as_text_encoder(text: Qwen3Config) -> Qwen3Config:
    """Return a language model's configuration as the text encoder of FLUX.3."""
    return replace(
        text,
        max_position_embeddings=LENGTH,
        hidden_layers=choose_layers(text, LAYERS),
        final_norm=False,
        padding_position=1,
    )


def encode_prompts(
    ops: Backend,
    configs: Sequence[TextConfig],
    tokens: Sequence[Tokens],
    compile_network: Callable[[Callable, str], Callable],
    clip_skip: int = 0,
    weighted: bool = False,
) -> EncodedText:
    """Encode the windows of tokenized prompts; the arguments are those of `encode_tokens`.

    The `mask` of the result is that of the windows.
    """
    [part] = tokens
    windows = find_windows(part.mask)
    length = int(windows.sum(axis=2).max())
    ids, weights, mask = (x[:, :, :length] for x in (part.ids, part.weights, part.mask))
    cut = replace(part, ids=ids, weights=weights, mask=mask)
    encoded = encode_tokens(ops, configs, [cut], compile_network, clip_skip, weighted)
    kept = windows[:, :, :length].reshape(len(windows), -1)
    return replace(encoded, more={"mask": ops.asarray(kept)})


def find_windows(mask: np.ndarray) -> np.ndarray:
    """Return 1 for places in the window of a prompt, and 0 for others, (n, chunks, l) int64.

    `mask` is 1 for tokens, which come first.
    """
    counts = mask.sum(axis=2, keepdims=True)
    ends = np.maximum(-(-counts // WINDOW), 1) * WINDOW
    return (np.arange(mask.shape[2]) < ends).astype(np.int64)
