"""Piece 1 of the capstone in PyTorch: residual and attention blocks, and the U-Net of them.

Weights have diffusers' names. Images and latents are (n, channels, height, width), and the tokens
of a transformer (n, tokens, width).
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F


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

    def get(self, name):
        """Return a weight, or None if there is none of this name."""
        return self.tensors.get(self.prefix + name)

    def count(self, name):
        """Return how many numbered parts there are below a name."""
        return next(i for i in range(100) if f"{name}.{i}" not in self)


def read_weights(path):
    """Read a safetensors file: the length of the header, the header as JSON, the values."""
    data = bytearray(Path(path).read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    types = {"F32": torch.float32, "F16": torch.float16}
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = (begin + offset for offset in entry["data_offsets"])
            values = torch.frombuffer(data[first:last], dtype=types[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"]).float()
    return Weights(tensors)


def silu(x):
    """Return x sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x):
    """Return x times the normal distribution function of x."""
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def group_norm(x, weight, bias, groups, eps):
    """Normalise groups of channels of each example; x: (n, c, ...)."""
    return F.group_norm(x, groups, weight, bias, eps)


def layer_norm(x, weight, bias, eps):
    """Normalise the last axis."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def softmax(x, axis=-1):
    """Return e^x over its sum."""
    return torch.softmax(x, dim=axis)


def timestep_embedding(t, dim, max_period=10000.0, *, flip_sin_to_cos=True, freq_shift=0):
    """Return cosines and sines of t, (n, dim)."""
    half = dim // 2
    powers = torch.arange(half, dtype=t.dtype, device=t.device) / (half - freq_shift)
    angles = t[:, None] * torch.exp(-math.log(max_period) * powers)
    waves = [torch.cos(angles), torch.sin(angles)]
    return torch.cat(waves if flip_sin_to_cos else waves[::-1], dim=1)


def upsample_nearest(x, factor=2):
    """Repeat rows and columns."""
    return x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def scaled_dot_product_attention(q, k, v, causal=False, mask=None):
    """Return the mean of the rows of v with the weights softmax(q k^T / sqrt(d))."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    if mask is not None:
        allowed = torch.as_tensor(mask, device=q.device)
    if causal:
        allowed = torch.tril(allowed)
    weights = torch.softmax(scores.masked_fill(~allowed, -math.inf), dim=-1)
    somewhere = allowed.any(dim=-1, keepdim=True)
    return torch.where(somewhere, weights, torch.zeros_like(weights)) @ v


def linear(p, x):
    """Return W x + b for the rows of x; b may be missing."""
    return F.linear(x, p["weight"], p.get("bias"))


def conv(p, x, stride=1, pad=1):
    """Convolve with a window of 3 x 3 or 1 x 1, with zeros around the image."""
    weight = p["weight"]
    return F.conv2d(x, weight, p["bias"], stride, pad if weight.shape[2] == 3 else 0)


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


def attention(p, x, context, heads):
    """Return attention of x over the context, each head with its share of the channels."""

    def split(name, states):
        return linear(p.at(name), states).unflatten(2, (heads, -1)).transpose(1, 2)

    q, k, v = split("to_q", x), split("to_k", context), split("to_v", context)
    y = scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return linear(p.at("to_out.0"), y.flatten(2))


def transformer_block(p, x, context, heads):
    """Return x plus self-attention, plus cross-attention, plus an MLP with a gate."""

    def norm(i, x):
        return layer_norm(x, p[f"norm{i}.weight"], p[f"norm{i}.bias"], 1e-5)

    h = norm(1, x)
    x = x + attention(p.at("attn1"), h, h, heads)
    x = x + attention(p.at("attn2"), norm(2, x), context, heads)
    value, gate = linear(p.at("ff.net.0.proj"), norm(3, x)).chunk(2, dim=-1)
    return x + linear(p.at("ff.net.2"), value * gelu(gate))


def tokens_of(x):
    """Return the positions of (n, c, h, w) as tokens, (n, h w, c)."""
    return x.flatten(2).transpose(1, 2)


def attention_block(p, x, context, heads, groups):
    """Return x plus a transformer over its positions, between two 1 x 1 convolutions."""
    h = group_norm(x, p["norm.weight"], p["norm.bias"], groups, 1e-6)
    tokens = tokens_of(conv(p.at("proj_in"), h))
    for i in range(p.count("transformer_blocks")):
        tokens = transformer_block(p.at(f"transformer_blocks.{i}"), tokens, context, heads)
    return x + conv(p.at("proj_out"), tokens.transpose(1, 2).reshape(x.shape))


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
            x = layer(block, i, torch.cat([x, skips.pop()], dim=1), heads[-1 - level])
        if "upsamplers" in block:
            x = conv(block.at("upsamplers.0.conv"), upsample_nearest(x))
    return conv(p.at("conv_out"), normed(p.at("conv_norm_out"), x, groups, eps))
