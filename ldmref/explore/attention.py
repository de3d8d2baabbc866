r"""Maps of attention to the text: how much each place of the latents attends to each word.

A layer of attention with queries q_p of place p and keys k_t of token t has the weights

.. math:: A_{pt} = \frac{\exp(q_p \cdot k_t / \sqrt{d})}{\sum_s \exp(q_p \cdot k_s / \sqrt{d})}

which sum to 1 over the tokens; a bias of the layer is added in the exponents. The map of a word is
the sum of the weights of its tokens, averaged over all heads and over all layers in which the image
attends to the text, each resized to the largest map (linearly, which keeps sums). In a U-Net these
layers are its cross-attention, whose tokens are those of the text; in a transformer of image and
text they are all its blocks, whose tokens are those of the image and of reference images as well.
The maps of all words sum to at most 1 at every place; the rest belongs to the start, end and
padding tokens, and to the images. Only the conditional half is used.
`DeclaredNetwork.text_attention` tells the layers of a family, and the order of their tokens.

Source: Hertz et al. 2022, arXiv:2208.01626, section 3; averaged as in Tang et al. 2022,
arXiv:2210.04885 (DAAM), there over steps as well. Joint attention: Esser et al. 2024,
arXiv:2403.03206, section 4.
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
from ldmref.math.attention import attention_map, softmax
from ldmref.models.model import LatentDiffusion
from ldmref.prompts.prompt_words import PromptWord
from ldmref.samplers.predictions import TEXTS, read_prediction

AVERAGE = "sum over the tokens of a word, mean over heads and layers, conditional half"


class LayerMaps(NamedTuple):
    """The attention of one call of a layer to each word, a mean over its heads.

    Attributes:
        layer: The name of the layer.
        heads: The number of its heads.
        weights: (n, places, words) float64, on the host; without n if chosen for one row.
    """

    layer: str
    heads: int
    weights: np.ndarray


class AttentionBackend(TracedBackend):
    """A backend that keeps how much the image attends to each word while `watching` is set.

    Operations are those of the inner backend, so results do not change.

    Args:
        model: The model, whose denoiser declares where it attends to the text.
        words: The words.
    """

    def __init__(self, model: LatentDiffusion, words: Sequence[PromptWord]):
        params = model.params[model.denoiser.params]
        super().__init__(model.backend, layer_of=layer_names(params))
        self.words = words
        self.text = model.denoiser.text_attention
        self.patch = model.config.denoiser.token_side
        self.size = 0, 0
        self.references = 0
        self.watching = False
        self.calls: dict[str, list[LayerMaps]] = {}

    def watch(self, size: tuple[int, int], references: int = 0) -> None:
        """Keep the calls of each layer in an evaluation.

        Args:
            size: Height and width of the latents.
            references: The number of tokens of reference images.
        """
        self.size = size
        self.references = references
        self.watching = True

    def operate(self, call: LayerCall, arrays: list[Array]) -> Array:
        """Compute an operation; keep how much its queries attend to each word."""
        found = self.text is not None and self.text.holds(call.layer)
        image = not call.attributes.get("causal")  # a text reads itself so
        if self.watching and call.kind == "attention" and found and image:
            maps = LayerMaps(call.layer, arrays[0].shape[1], self._attend(call, *arrays[:2]))
            self.calls.setdefault(call.layer, []).append(maps)
        return call.compute(call.inputs)

    def take(self, names: Sequence[str]) -> list[LayerMaps]:
        """Return what every layer computed for the prompt since `watch`, and forget all.

        Args:
            names: The predictions of the evaluation. Nothing is returned if none reads the prompt.
        """
        calls, self.calls, self.watching = self.calls, {}, False
        place = find_prompt(names)
        if place is None:
            return []
        number, row = place
        every = (of_layer[number] for of_layer in calls.values() if len(of_layer) > number)
        return [maps._replace(weights=maps.weights[row]) for maps in every]

    def _attend(self, call: LayerCall, q: Array, k: Array) -> np.ndarray:
        """Return the attention of the image to each word, (n, places, words) float64.

        q is (n, heads, l, d) and k is (n, heads, m, d); a bias and a scale are those of the call.
        """
        bias = call.inputs.get("bias")
        assert self.text is not None
        pixels = math.prod(side // self.patch for side in self.size)
        starts = self.text.find_starts(k.shape[2], pixels, self.references)
        if "image" in starts:
            begin = starts["image"] - (k.shape[2] - q.shape[2])  # queries are the last tokens
            q = q[:, :, begin : begin + pixels, :]
            if bias is not None and bias.shape[2] > 1:
                bias = bias[:, :, begin : begin + pixels, :]
        columns = np.zeros((k.shape[2], len(self.words)))
        for i, word in enumerate(self.words):
            columns[[starts["text"] + token for token in word.tokens], i] = 1.0
        scale = call.attributes.get("scale")
        maps = []
        for row in range(q.shape[0]):
            added = None if bias is None else bias[row if bias.shape[0] > 1 else 0]
            maps.append(mean_weights(self.inner, q[row], k[row], columns, added, scale))
        return np.stack(maps)


class WordMaps(NamedTuple):
    """The maps of one evaluation, (words, h, w) float32, and the layers that they average."""

    maps: np.ndarray
    layers: list[dict[str, Any]]


def find_prompt(names: Sequence[str]) -> tuple[int, int] | None:
    """Return which call of the network reads the prompt, and in which row; None if none does.

    The predictions with texts alone are one call, in their order; each of the others is a call
    after it. One that is guided in attention reads the negative prompt, then the prompt.

    >>> find_prompt(["uncond", "cond"]), find_prompt(["uncond", "attended_5.0_2.5"])
    ((0, 1), (1, 1))
    """
    plain = [name for name in names if name in TEXTS]
    if "cond" in plain:
        return 0, plain.index("cond")
    others = [name for name in names if name not in TEXTS]
    for number, name in enumerate(others, len(plain[:1])):
        prediction = read_prediction(name)
        if prediction is not None and len(prediction.texts) > 1 and "cond" in prediction.texts:
            return number, prediction.texts.index("cond")
    return None


def average_maps(calls: Sequence[LayerMaps], size: tuple[int, int]) -> WordMaps:
    """Return the map of each word, averaged over heads and layers.

    Args:
        calls: One call per layer, with the weights of one row, (places, words).
        size: Height and width of the latents.
    """
    layers = []
    maps = []
    for call in calls:
        h, w = find_size(call.weights.shape[0], size)
        maps.append(np.reshape(call.weights.T, (-1, h, w)))
        layers.append({"name": call.layer, "heads": call.heads, "size": [h, w]})
    h, w = max((m.shape[1:] for m in maps), key=math.prod)
    resized = np.stack([resize(m, h, w) for m in maps])
    return WordMaps(np.asarray(resized.mean(axis=0), np.float32), layers)


def mean_weights(
    ops: Backend,
    q: Array,
    k: Array,
    columns: np.ndarray,
    bias: Array | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Return the mean over heads of softmax(s q k^T + b) times `columns`, on the host.

    q is (heads, l, d), k is (heads, m, d), b is (heads or 1, l or 1, m), s is 1 / sqrt(d) by
    default and `columns` is (m, words); the result is (l, words) float64. One head after the other,
    because the weights of all take heads * l * m numbers.
    """
    of_words = ops.asarray(columns, ops.state_dtype)
    total: Array | float = 0.0
    for head in range(q.shape[0]):
        queries, keys = (ops.cast(x[head], ops.state_dtype) for x in (q, k))
        if bias is None and scale is None:
            weights = attention_map(queries, keys)
        else:
            factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
            scores = (queries * factor) @ ops.xp.matrix_transpose(keys)
            if bias is not None:
                scores = scores + ops.cast(bias[min(head, bias.shape[0] - 1)], ops.state_dtype)
            weights = softmax(scores)
        total = total + weights @ of_words
    return np.asarray(ops.to_numpy(total / q.shape[0]), np.float64)


def find_size(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a level of the network with this number of pixels.

    Every level of a U-Net halves the sides of the latents, rounded up, and so do patches.
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
