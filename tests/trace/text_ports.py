"""What ports of a text encoder share: its sizes, its weights, and the names of its layers.

The ports are the text encoder of the preset "tiny", written with the layers of MLX, Keras and Flax.
Queries, keys and values are one layer in each, as ports have them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import ldmref
from ldmref.locate import diff_traces
from ldmref.models import flatten

WIDTH, HIDDEN, HEADS, LAYERS, LENGTH, WORDS, EPS = 32, 64, 2, 2, 16, 512, 1e-5
CALL = "text_encoder"
LAYER = "text_model.encoder.layers.*"
ATTENTION = f"{LAYER}.self_attn"
NAMES = {
    "tokens": "text_model.embeddings.token_embedding",
    "blocks.*.norm1": f"{LAYER}.layer_norm1",
    "blocks.*.qkv": [f"{ATTENTION}.{name}_proj" for name in "qkv"],
    "blocks.*.out": f"{ATTENTION}.out_proj",
    "blocks.*.norm2": f"{LAYER}.layer_norm2",
    "blocks.*.fc1": f"{LAYER}.mlp.fc1",
    "blocks.*.act": f"{LAYER}.mlp.quick_gelu",
    "blocks.*.fc2": f"{LAYER}.mlp.fc2",
    "blocks.*": LAYER,
    "norm": "text_model.final_layer_norm",
}
IDS = np.arange(2 * LENGTH, dtype=np.int32).reshape(2, LENGTH) * 7 % WORDS


def make_model():
    """Return the model whose text encoder is ported."""
    return ldmref.random_model("tiny", seed=1)


def read_weights(model):
    """Return the weights of the text encoder by the ports' names; matrices are (out, in)."""
    ours = flatten(model.params["text_encoder"])
    found = {"positions": ours["text_model.embeddings.position_embedding.weight"]}
    for old, new in NAMES.items():
        for old_layer, new_layer in _numbered(old, new):
            for kind in ("weight", "bias"):
                listed = new_layer if isinstance(new_layer, list) else [new_layer]
                parts = [ours[f"{name}.{kind}"] for name in listed if f"{name}.{kind}" in ours]
                if parts:
                    found[f"{old_layer}.{kind}"] = np.concatenate(parts)
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


def _numbered(old, new):
    for i in range(LAYERS if "*" in old else 1):
        parts = [name.replace("*", str(i)) for name in ([new] if isinstance(new, str) else new)]
        yield old.replace("*", str(i)), parts


def judge(model, port, run_port, **options):
    """Record a port, and return the report and what it computed."""
    with ldmref.recording(port, call=CALL, names=NAMES, **options) as run:
        y = run_port(port)
    return diff_traces(run.trace, model), run.trace, y


def causes(report):
    """Return the cause of each layer that differs."""
    return {row.layer: row.cause for row in report.faults}


def run_example(word, capsys):
    """Run the block of the page on traces that imports something; compare what it prints."""
    page = (Path(__file__).parents[2] / "docs/traces.md").read_text("utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if word in text)
    exec(compile(block, word, "exec"), {"ldmref": ldmref})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^# (.*)$", block, re.M)
