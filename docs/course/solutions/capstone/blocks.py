"""Piece 1 of the capstone: residual and attention blocks, and the U-Net that is made of them.

Weights have diffusers' names. Images and latents are (n, channels, height, width), and the tokens
of a transformer (n, tokens, width).
"""

import json
import math
from pathlib import Path

import numpy as np


class Weights:
    """Weights by name; `at` returns those below a name."""

    def __init__(self, tensors, prefix=""):
        self.tensors = tensors
        self.prefix = prefix

    def at(self, name):
        """Return the weights whose names begin with this name."""
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __contains__(self, name):
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.tensors)

    def __getitem__(self, name):
        return self.tensors[self.prefix + name]

    def count(self, name):
        """Return how many numbered parts there are below a name."""
        return next(i for i in range(100) if f"{name}.{i}" not in self)


def read_weights(path):
    """Read a safetensors file: the length of the header, the header as JSON, the values."""
    data = Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    types = {"F32": "<f4", "F16": "<f2"}
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = (begin + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[first:last], types[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"]).astype(np.float32)
    return Weights(tensors)


def silu(x):
    """Return x sigmoid(x)."""
    return x / (1.0 + np.exp(-x))


def group_norm(x, weight, bias, groups, eps):
    """Normalise groups of channels of each example; x: (n, c, ...)."""
    parts = x.reshape(len(x), groups, -1)
    centred = parts - parts.mean(axis=2, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + eps)
    normed = normed.reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        normed = normed * weight.reshape(shape)
    return normed if bias is None else normed + bias.reshape(shape)


def layer_norm(x, weight, bias, eps):
    """Normalise the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    if weight is not None:
        normed = normed * weight
    return normed if bias is None else normed + bias


def gelu(x):
    """Return x times the normal distribution function of x."""
    return 0.5 * x * (1.0 + _ERF(x / math.sqrt(2.0)).astype(x.dtype))


_ERF = np.vectorize(math.erf, otypes=[float])


def softmax(x, axis=-1):
    """Return e^x over its sum, with the largest x moved to 0."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def timestep_embedding(t, dim, max_period=10000.0, *, flip_sin_to_cos=True, freq_shift=0):
    """Return cosines and sines of t, (n, dim)."""
    half = dim // 2
    powers = np.arange(half, dtype=t.dtype) / (half - freq_shift)
    angles = t[:, None] * np.exp(-math.log(max_period) * powers)
    waves = [np.cos(angles), np.sin(angles)]
    return np.concatenate(waves if flip_sin_to_cos else waves[::-1], axis=1)


def upsample_nearest(x, factor=2):
    """Repeat rows and columns."""
    return x.repeat(factor, axis=2).repeat(factor, axis=3)


def linear(p, x):
    """Return W x + b for the rows of x; b may be missing."""
    y = x @ p["weight"].T
    return y + p["bias"] if f"{p.prefix}bias" in p.tensors else y


def conv(p, x, stride=1, pad=1):
    """Convolve with a window of 3 x 3 or 1 x 1, with zeros around the image."""
    weight = p["weight"]
    size = weight.shape[2]
    if size == 3 and pad:
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, c, height, width = x.shape
    h, w = (height - size) // stride + 1, (width - size) // stride + 1
    y = np.zeros((n, len(weight), h * w), x.dtype)
    for i in range(size):
        for j in range(size):
            shifted = x[:, :, i : i + stride * h : stride, j : j + stride * w : stride]
            y += weight[:, :, i, j] @ shifted.reshape(n, c, h * w)
    return y.reshape(n, -1, h, w) + p["bias"][:, None, None]


def normed(p, x, groups, eps):
    """Return GroupNorm and SiLU with the weights p."""
    return silu(group_norm(x, p["weight"], p["bias"], groups, eps))


def residual_block(p, x, emb, groups, eps):
    """Return x plus two convolutions of it; the time is added between them."""
    h = conv(p.at("conv1"), normed(p.at("norm1"), x, groups, eps))
    if emb is not None:
        h = h + linear(p.at("time_emb_proj"), silu(emb))[:, :, None, None]
    h = conv(p.at("conv2"), normed(p.at("norm2"), h, groups, eps))
    return h + (conv(p.at("conv_shortcut"), x) if "conv_shortcut" in p else x)


def scaled_dot_product_attention(q, k, v, causal=False, mask=None):
    """Return the mean of the rows of v with the weights softmax(q k^T / sqrt(d))."""
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    allowed = np.ones(scores.shape[-2:], bool) if mask is None else np.asarray(mask)
    if causal:
        allowed = np.tril(allowed)
    scores = np.where(allowed, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(highest), highest, 0.0))
    total = powers.sum(axis=-1, keepdims=True)
    return powers / np.where(total > 0, total, 1.0) @ v


def attention(p, x, context, heads):
    """Return attention of x over the context, each head with its share of the channels."""

    def split(name, states):
        y = linear(p.at(name), states)
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = split("to_q", x), split("to_k", context), split("to_v", context)
    y = scaled_dot_product_attention(q, k, v).transpose(0, 2, 1, 3)
    return linear(p.at("to_out.0"), y.reshape(*x.shape[:2], -1))


def transformer_block(p, x, context, heads):
    """Return x plus self-attention, plus cross-attention, plus an MLP with a gate."""
    norms = [p.at(f"norm{i}") for i in (1, 2, 3)]
    h = layer_norm(x, norms[0]["weight"], norms[0]["bias"], 1e-5)
    x = x + attention(p.at("attn1"), h, h, heads)
    h = layer_norm(x, norms[1]["weight"], norms[1]["bias"], 1e-5)
    x = x + attention(p.at("attn2"), h, context, heads)
    h = layer_norm(x, norms[2]["weight"], norms[2]["bias"], 1e-5)
    value, gate = np.split(linear(p.at("ff.net.0.proj"), h), 2, axis=-1)
    return x + linear(p.at("ff.net.2"), value * gelu(gate))


def tokens_of(x):
    """Return the positions of (n, c, h, w) as tokens, (n, h w, c)."""
    return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)


def attention_block(p, x, context, heads, groups):
    """Return x plus a transformer over its positions, between two 1 x 1 convolutions."""
    h = group_norm(x, p["norm.weight"], p["norm.bias"], groups, 1e-6)
    tokens = tokens_of(conv(p.at("proj_in"), h))
    for i in range(p.count("transformer_blocks")):
        tokens = transformer_block(p.at(f"transformer_blocks.{i}"), tokens, context, heads)
    return x + conv(p.at("proj_out"), tokens.transpose(0, 2, 1).reshape(x.shape))


def unet(p, config, x, t, context):
    """Return the prediction of the U-Net, in the shape of x."""
    groups, eps = config["norm_num_groups"], config["norm_eps"]
    heads = config["num_heads"]
    emb = timestep_embedding(t, config["block_out_channels"][0])
    emb = linear(p.at("time_embedding.linear_1"), emb)
    emb = linear(p.at("time_embedding.linear_2"), silu(emb))
    emb = emb + linear(p.at("class_embedding"), context[:, -1])

    def layer(block, i, x, heads):
        x = residual_block(block.at(f"resnets.{i}"), x, emb, groups, eps)
        if "attentions" in block:
            x = attention_block(block.at(f"attentions.{i}"), x, context, heads, groups)
        return x

    x = conv(p.at("conv_in"), x)
    skips = [x]
    levels = p.count("down_blocks")
    for level in range(levels):
        block = p.at(f"down_blocks.{level}")
        for i in range(block.count("resnets")):
            x = layer(block, i, x, heads[level])
            skips.append(x)
        if "downsamplers" in block:
            x = conv(block.at("downsamplers.0.conv"), x, stride=2)
            skips.append(x)
    middle = p.at("mid_block")
    x = layer(middle, 0, x, heads[-1])
    x = residual_block(middle.at("resnets.1"), x, emb, groups, eps)
    for level in range(levels):
        block = p.at(f"up_blocks.{level}")
        for i in range(block.count("resnets")):
            x = layer(block, i, np.concatenate([x, skips.pop()], axis=1), heads[-1 - level])
        if "upsamplers" in block:
            x = conv(block.at("upsamplers.0.conv"), upsample_nearest(x))
    return conv(p.at("conv_out"), normed(p.at("conv_norm_out"), x, groups, eps))
