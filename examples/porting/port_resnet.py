"""A residual block in plain NumPy, as a port to another language would begin; it dumps .npy files.

    ldmref convert emoji model
    ldmref trace "red heart" --seed 1 --steps 1 --layers "mid_block.resnets.0*" -o golden
    python port_resnet.py model golden port
    ldmref diff golden port

Only NumPy is needed. A fourth argument sets eps of the group norms, for trying a fault.
"""

import json
import sys
from pathlib import Path

import numpy as np

LAYER = "mid_block.resnets.0"
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_tensors(path):
    """Read a safetensors file: the header's length, the header in JSON, the values."""
    data = Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if entry.get("dtype") in TYPES:
            first, end = entry["data_offsets"]
            values = np.frombuffer(data[begin + first : begin + end], TYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"]).astype(np.float32)
    return tensors


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, weight, bias, eps, groups=32):
    n = x.shape[0]
    parts = x.reshape(n, groups, -1)
    mean = parts.mean(axis=2, keepdims=True)
    parts = (parts - mean) / np.sqrt(parts.var(axis=2, keepdims=True) + eps)
    return parts.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def conv3x3(x, weight, bias):
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    parts = [np.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[:, :, i : i + h, j : j + w])
             for i, j in shifts]  # fmt: skip
    return sum(parts) + bias[:, None, None]


def resnet_block(x, emb, p, eps, dump):
    """Compute the block, and dump the input and the output of each layer."""

    def layer(name, function, x, *args):
        weights = (p[f"unet.{LAYER}.{name}.{part}"] for part in ("weight", "bias"))
        y = function(x, *weights, *args)
        dump(f"{LAYER}.{name}", x, y)
        return y

    h = layer("conv1", conv3x3, silu(layer("norm1", group_norm, x, eps)))
    time = layer("time_emb_proj", lambda e, weight, bias: e @ weight.T + bias, silu(emb))
    h = layer("norm2", group_norm, h + time[:, :, None, None], eps)
    return x + layer("conv2", conv3x3, silu(h))


def main(model, golden, port, eps=1e-5):
    folder = Path(port)
    folder.mkdir(exist_ok=True)

    def dump(layer, x, y, **inputs):
        arrays = {"input": x, "output": y} | {f"input.{role}": v for role, v in inputs.items()}
        for role, array in arrays.items():
            np.save(folder / f"unet.000__{layer}__{role}.npy", array)

    given = read_tensors(Path(golden, "unet.000.safetensors"))
    x = given[f"unet.000/{LAYER}/input"]
    emb = given[f"unet.000/{LAYER}/input.emb"]
    y = resnet_block(x, emb, read_tensors(Path(model, "model.safetensors")), float(eps), dump)
    dump(LAYER, x, y, emb=emb)
    return np.abs(y - given[f"unet.000/{LAYER}.add/output"]).max()


if __name__ == "__main__":
    print(f"largest difference from the golden output: {main(*sys.argv[1:]):.1e}")
