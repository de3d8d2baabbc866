r"""Maps of cross-attention: how much each pixel of the latents attends to each word.

A cross-attention layer with queries q_p of pixel p and keys k_t of token t has the weights

.. math:: A_{pt} = \frac{\exp(q_p \cdot k_t / \sqrt{d})}{\sum_s \exp(q_p \cdot k_s / \sqrt{d})}

which sum to 1 over the tokens. The map of a word is the sum of the weights of its tokens, averaged
over all heads and all cross-attention layers of the U-Net, each resized to the largest map
(linearly, which keeps sums). The maps of all words sum to at most 1 at every pixel; the rest
belongs to the start, end and padding tokens. Only the conditional half is used.

Source: Hertz et al. 2022, arXiv:2208.01626, section 3; averaged as in Tang et al. 2022,
arXiv:2210.04885 (DAAM), there over steps as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.named import LayerCall
from ldmref.backends.traced import TracedBackend, layer_names
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion
from ldmref.prompts.prompt_words import PromptWord

CROSS_ATTENTION = ".attn2"  # the end of the names of the layers, as in diffusers
AVERAGE = "sum over the tokens of a word, mean over heads and layers, conditional half"


class AttentionCall(NamedTuple):
    """Queries (n, heads, l, d) and keys (n, heads, m, d) of one call of a layer."""

    layer: str
    q: Array
    k: Array


class AttentionBackend(TracedBackend):
    """A backend that keeps the queries and keys of cross-attention while `watching` is set.

    Operations are those of the inner backend, so results do not change.
    """

    def __init__(self, model: LatentDiffusion):
        super().__init__(model.backend, layer_of=layer_names(model.params["unet"]))
        self.watching = False
        self.calls: list[AttentionCall] = []

    def operate(self, call: LayerCall, arrays: list[Array]) -> Array:
        """Compute an operation; keep what attention compares."""
        if self.watching and call.kind == "attention" and call.layer.endswith(CROSS_ATTENTION):
            self.calls.append(AttentionCall(call.layer, *arrays[:2]))
        return call.compute(call.inputs)

    def take(self) -> list[AttentionCall]:
        """Return the first call of every layer since the last time, and forget all."""
        first: dict[str, AttentionCall] = {}
        for call in self.calls:
            first.setdefault(call.layer, call)
        self.calls = []
        return list(first.values())


class WordMaps(NamedTuple):
    """The maps of one evaluation, (words, h, w) float32, and the layers that they average."""

    maps: np.ndarray
    layers: list[dict[str, Any]]


def average_maps(
    ops: Backend,
    calls: Sequence[AttentionCall],
    row: int,
    words: Sequence[PromptWord],
    size: tuple[int, int],
) -> WordMaps:
    """Return the map of each word, averaged over heads and layers.

    Args:
        ops: The backend of the calls.
        calls: One call per layer.
        row: The row of the batch with the prompt.
        words: The words.
        size: Height and width of the latents.
    """
    layers = []
    maps = []
    for call in calls:
        weights = mean_weights(ops, call.q[row], call.k[row])
        h, w = find_size(weights.shape[0], size)
        of_words = [weights[:, list(word.tokens)].sum(axis=1) for word in words]
        maps.append(np.reshape(of_words, (len(words), h, w)))
        layers.append({"name": call.layer, "heads": call.q.shape[1], "size": [h, w]})
    h, w = max((m.shape[1:] for m in maps), key=math.prod)
    resized = np.stack([resize(m, h, w) for m in maps])
    return WordMaps(np.asarray(resized.mean(axis=0), np.float32), layers)


def mean_weights(ops: Backend, q: Array, k: Array) -> np.ndarray:
    """Return the mean over heads of softmax(q k^T / sqrt(d)), (l, m) float64, on the host.

    q is (heads, l, d) and k is (heads, m, d).
    """
    xp = ops.xp
    q = ops.cast(q, ops.state_dtype)
    k = ops.cast(k, ops.state_dtype)
    scores = xp.matmul(q, xp.permute_dims(k, (0, 2, 1))) * (q.shape[-1] ** -0.5)
    weights = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    return np.asarray(ops.to_numpy(xp.mean(weights, axis=0)), np.float64)


def find_size(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a level of the U-Net with this number of pixels.

    Every level halves the sides of the latents, rounded up.
    """
    h, w = size
    while h * w > pixels:
        h, w = math.ceil(h / 2), math.ceil(w / 2)
    if h * w != pixels:
        raise ValueError(f"no level of {size[0]} x {size[1]} latents has {pixels} pixels")
    return h, w


def resize(maps: np.ndarray, h: int, w: int) -> np.ndarray:
    """Resize maps (n, h', w') linearly to (n, h, w); sums over the maps do not change."""
    rows = interpolation(maps.shape[1], h)
    columns = interpolation(maps.shape[2], w)
    return np.einsum("ai,nij,bj->nab", rows, maps, columns)


def interpolation(n_in: int, n_out: int) -> np.ndarray:
    """Return the matrix, (n_out, n_in), of linear interpolation between the centres of pixels."""
    centres = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    basis = np.eye(n_in)
    columns = [np.interp(centres, np.arange(n_in), basis[i]) for i in range(n_in)]
    return np.stack(columns, axis=1)
