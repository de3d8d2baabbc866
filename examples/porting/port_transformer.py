"""A joint block of Stable Diffusion 3 and Euler's steps on its flow, in plain NumPy.

    python port_transformer.py sd3-model sd3-golden

Only NumPy is needed. docs/port-a-layer.md makes the model and its golden values.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from port_resnet import read_tensors, silu

BLOCK = "transformer_blocks.0"


def normalize(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(1e-6))


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)))


def attend(q, k, v, heads):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.swapaxes(2, 3) / np.float32(q.shape[3] ** 0.5)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def adaptive_norm(p, name, x, emb):
    """Return x scaled and shifted, the gate, and shift, scale, gate of the feed-forward layer."""
    shift, scale, *others = np.split(linear(p, f"{name}.linear", silu(emb))[:, None], 6, 2)
    return normalize(x) * (1 + scale) + shift, *others


def attention(p, x, context, heads):
    own = [linear(p, f"attn.to_{n}", x) for n in "qkv"]
    added = [linear(p, f"attn.add_{n}_proj", context) for n in "qkv"]
    pairs = zip(own, added, strict=True)  # the image comes first
    image, text = np.split(attend(*(np.concatenate(a, 1) for a in pairs), heads), [x.shape[1]], 1)
    return linear(p, "attn.to_out.0", image), linear(p, "attn.to_add_out", text)


def feed_forward(p, name, x):
    return linear(p, f"{name}.net.2", gelu_tanh(linear(p, f"{name}.net.0.proj", x)))


def joint_block(p, x, context, emb, heads, layer=lambda name, function, *args: function(*args)):
    """Return the text and the image; `layer` computes each layer, and may look at it."""
    streams = []
    for end, tokens in (("", x), ("_context", context)):
        norm = partial(adaptive_norm, p, f"norm1{end}")
        streams.append((f"ff{end}", tokens, *layer(f"norm1{end}", norm, tokens, emb)))
    attended = layer("attn", partial(attention, p, heads=heads), streams[0][2], streams[1][2])
    outputs = []
    for (name, tokens, _, gate, shift, scale, last), h in zip(streams, attended, strict=True):
        tokens = tokens + gate * h
        h = normalize(tokens) * (1 + scale) + shift
        outputs.append(tokens + last * layer(name, partial(feed_forward, p, name), h))
    return outputs[1], outputs[0]


def flow_times(steps, shift=3.0, total=1000):
    """Return the levels of SD3: evenly spaced, shifted twice at the lower end, and 0."""
    low = shift / total / (1 + (shift - 1) / total)
    s = np.linspace(1, low, steps)
    return np.append(shift * s / (1 + (shift - 1) * s), 0)


def euler(x, velocity, s, s_next):
    return x + np.float32(s_next - s) * velocity  # the velocity is eps - x0


def read_parameters(model):
    start = f"transformer.{BLOCK}."
    weights = read_tensors(Path(model, "model.safetensors"))
    return {name.removeprefix(start): x for name, x in weights.items() if name.startswith(start)}


def main(model, golden):
    """Return the largest differences of the block and of the steps from the golden values."""
    known = read_tensors(Path(golden, "transformer.000.safetensors"))
    x, context, emb, text, image = (
        known[f"transformer.000/{BLOCK}/{role}"]
        for role in ("input", "input.context", "input.emb", "output.0", "output.1")
    )
    found = joint_block(read_parameters(model), x, context, emb, heads=2)
    block = max(np.abs(a - b).max() for a, b in zip(found, (text, image), strict=True))
    paths = sorted(Path(golden).glob("sampler.*.safetensors"))
    times = flow_times(len(paths))
    errors = []
    for path, s, s_next in zip(paths, times, times[1:], strict=False):
        step = {name.rpartition("/")[2]: x for name, x in read_tensors(path).items()}
        moved = euler(step["input.x"], step["input.prediction"], s, s_next)
        expected = step.get("output", step["input.x0"])  # the last state is x0: stored once
        errors.append(np.abs(moved - expected).max())
    return float(block), float(max(errors))


if __name__ == "__main__":
    print("largest difference of the block: {:.1e}, of a step: {:.1e}".format(*main(*sys.argv[1:])))
