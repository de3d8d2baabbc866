"""Masks that cover image and text together, of which ldmref's networks read the text's part.

Programs that join image and text may have one mask of all tokens. Where the text's part begins, the
recording says: all tokens of the image are read, and the rest may fill the sequence up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ldmref.locate.recorded.conventions import Convention
from ldmref.locate.recorded.names import read_array
from ldmref.locate.replay.networks import with_one_width
from ldmref.math.tokens import PATCH
from ldmref.models.declared import DeclaredNetwork, NetworkInput, TextAttention
from ldmref.ports.arguments import names_of
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry

MASK_AXES = 2  # images, tokens


def find_text_masks(network: DeclaredNetwork, port: Trace, call: TraceCall) -> Iterator[Convention]:
    """Yield where the text may be in a mask (n, m) of image and text, the likely places first.

    Nothing is yielded if the mask has as many tokens as the text, or not enough for both.

    Args:
        network: A denoiser that may join image and text.
        port: The trace.
        call: One of its calls.
    """
    attention = network.text_attention
    masks = [x for x in network.inputs if x.content == "mask"]
    texts = [x for x in network.inputs if x.argument in network.of_tokens and x not in masks]
    if attention is None or "image" not in attention.tokens or not masks or not texts:
        return
    mask = _read(network, port, call, masks[0])
    text = _read(network, port, call, texts[0])
    latents = _read(network, port, call, network.inputs[0])
    channels = network.inputs[0].shape[1]
    if mask is None or text is None or latents is None or not isinstance(channels, int):
        return
    if mask.ndim != MASK_AXES:
        return
    length, tokens = with_one_width(texts[0], text).shape[-2], mask.shape[1]
    image = latents.size // (len(mask) * channels * PATCH**2)
    subject = f"mask of {tokens} tokens, {length} of them of the text"
    roles = names_of(network, masks[0])

    def concerns(entry: TraceEntry, side: str, role: str) -> bool:
        if entry.layer or side != "input" or role not in roles:
            return False
        other = _read(network, port, entry.call, texts[0])
        return other is not None and with_one_width(texts[0], other).shape[-2] == length

    words = f"one mask of {length} tokens of the text and {tokens - length} others"
    known: set[bytes] = set()
    more = tokens - length - image  # tokens that fill the sequence up, wherever they are
    for begin in (0, image, more, image + more) if more >= 0 and tokens > length else ():
        others = np.delete(mask, np.s_[begin : begin + length], axis=1)
        part = mask[:, begin : begin + length].tobytes()
        if part not in known and _reads_image(attention, others, image):
            known.add(part)
            turn = partial(_cut, begin, begin + length, tokens)
            yield Convention(subject, words, turn, concerns)


def _reads_image(attention: TextAttention, others: np.ndarray, image: int) -> bool:
    """Return whether a mask may be that of all tokens but the text's: those of the image are read.

    Args:
        attention: Where the denoiser attends to the text.
        others: The mask, (n, m).
        image: The number of the image's tokens.
    """
    counts = np.count_nonzero(others, axis=1)
    if "references" in attention.tokens:
        return bool((counts >= image).all())
    filled = -(-image // attention.multiple) * attention.multiple
    return bool(((counts == image) | (counts == filled)).all())


def _read(
    network: DeclaredNetwork, port: Trace, call: TraceCall, x: NetworkInput
) -> np.ndarray | None:
    """Return what was recorded of an input of a call under one of its names; None: nothing."""
    entry = port.find(call)
    recorded = {} if entry is None else entry.inputs
    role = next((name for name in names_of(network, x) if name in recorded), None)
    return None if role is None else np.asarray(read_array(port, recorded[role]))


def _cut(begin: int, end: int, tokens: int, x: np.ndarray) -> np.ndarray:
    """Return the part of a mask of so many tokens, (n, m); others as they are."""
    return x[:, begin:end] if x.ndim == MASK_AXES and x.shape[1] == tokens else x
