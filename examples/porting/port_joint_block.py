r"""A joint block of Stable Diffusion 3 and Euler's steps on its flow in plain NumPy.

    ldmref trace "a red heart" -m sd3-model --seed 1 --steps 3 --layers "transformer_blocks.0*" \
        -o sd3-golden
    python port_joint_block.py sd3-model sd3-golden sd3-port
    ldmref diff sd3-golden sd3-port -m sd3-model

Only NumPy is needed. A fourth argument exchanges shift and scale of the norms: a fault to find.
"""

import math
import sys
from pathlib import Path

import numpy as np
from port_resnet import read_tensors, silu

BLOCK = "transformer_blocks.0"


def normalize(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(1e-6))


def gelu_tanh(x):
    c = np.float32(math.sqrt(2 / math.pi))
    return x / 2 * (1 + np.tanh(c * (x + np.float32(0.044715) * x**3)))


def attend(q, k, v, heads):
    split = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in (q, k, v))
    q, k, v = split
    scores = q @ k.swapaxes(2, 3) / np.float32(math.sqrt(q.shape[3]))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


class JointBlock:
    """The block: p has its parameters, and dump(layer, inputs, outputs) writes a layer."""

    def __init__(self, p, heads, dump, exchanged=False):
        self.p, self.heads, self.dump, self.exchanged = p, heads, dump, exchanged

    def linear(self, name, x):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def adaptive_norm(self, name, x, emb):
        """Return x scaled and shifted; gate; shift, scale and gate of the feed-forward layer."""
        shift, scale, *others = np.split(self.linear(f"{name}.linear", silu(emb))[:, None], 6, 2)
        if self.exchanged:
            shift, scale = scale, shift
        outputs = normalize(x) * (1 + scale) + shift, *others
        self.dump(name, {"": x, "emb": emb}, outputs)
        return outputs

    def attention(self, x, context):
        own = [self.linear(f"attn.to_{n}", x) for n in "qkv"]
        added = [self.linear(f"attn.add_{n}_proj", context) for n in "qkv"]
        pairs = zip(own, added, strict=True)  # the image comes first
        joined = attend(*(np.concatenate(p, axis=1) for p in pairs), self.heads)
        image, text = np.split(joined, [x.shape[1]], axis=1)
        outputs = self.linear("attn.to_out.0", image), self.linear("attn.to_add_out", text)
        self.dump("attn", {"": x, "context": context}, outputs)
        return outputs

    def feed_forward(self, name, x, shift, scale, gate):
        h = normalize(x) * (1 + scale) + shift
        y = self.linear(f"{name}.net.2", gelu_tanh(self.linear(f"{name}.net.0.proj", h)))
        self.dump(name, {"": h}, [y])
        return x + gate * y

    def __call__(self, x, context, emb):
        h, gate, *of_mlp = self.adaptive_norm("norm1", x, emb)
        text, text_gate, *of_text_mlp = self.adaptive_norm("norm1_context", context, emb)
        h, text = self.attention(h, text)
        image = self.feed_forward("ff", x + gate * h, *of_mlp)
        context_next = context + text_gate * text
        outputs = self.feed_forward("ff_context", context_next, *of_text_mlp), image
        self.dump("", {"": x, "context": context, "emb": emb}, outputs)
        return outputs


def flow_times(steps, shift, total=1000):
    """Return the levels of SD3: evenly spaced, shifted twice at the lower end, and 0."""

    def shifted(s):
        return shift * s / (1 + (shift - 1) * s)

    return np.append(shifted(np.linspace(1, shifted(1 / total), steps)), 0)


def main(model, golden, port, exchanged=""):
    folder = Path(port)
    folder.mkdir(exist_ok=True)

    def save(call, layer, inputs, outputs):
        arrays = {f"input.{role}" if role else "input": x for role, x in inputs.items()}
        several = len(outputs) > 1
        arrays |= {f"output.{i}" if several else "output": y for i, y in enumerate(outputs)}
        for role, array in arrays.items():
            name = f"{call}__{layer}__{role}" if layer else f"{call}__{role}"
            np.save(folder / f"{name}.npy", array)

    start = f"transformer.{BLOCK}."
    weights = read_tensors(Path(model, "model.safetensors"))
    p = {name.removeprefix(start): x for name, x in weights.items() if name.startswith(start)}
    given = read_tensors(Path(golden, "transformer.000.safetensors"))
    roles = ("sample", "timestep", "encoder_hidden_states", "pooled_projections")
    save("transformer.000", "", {r: given[f"transformer.000//input.{r}"] for r in roles}, [])
    inputs = (given[f"transformer.000/{BLOCK}/input{role}"] for role in ("", ".context", ".emb"))

    def dump(layer, inputs, outputs):
        save("transformer.000", f"{BLOCK}.{layer}".rstrip("."), inputs, outputs)

    found = JointBlock(p, 2, dump, exchanged)(*inputs)
    steps = sorted(Path(golden).glob("sampler.*.safetensors"))
    sigmas = flow_times(len(steps), 3.0)
    np.save(folder / "schedule__output.sigmas.npy", sigmas)
    for path, sigma, after in zip(steps, sigmas, sigmas[1:], strict=False):
        call = path.stem
        given_step = read_tensors(path)
        x, v = (given_step[f"{call}//input.{role}"] for role in ("x", "prediction"))
        levels = {"sigma": np.float32(sigma), "sigma_next": np.float32(after)}
        moved = x + np.float32(after - sigma) * v  # the velocity is eps - x0
        save(call, "", {"x": x, "prediction": v, **levels}, [moved])
    expected = given[f"transformer.000/{BLOCK}/output.1"]  # the image; output.0 is the text
    return np.abs(found[1] - expected).max()


if __name__ == "__main__":
    print(f"largest difference from the golden output: {main(*sys.argv[1:]):.1e}")
