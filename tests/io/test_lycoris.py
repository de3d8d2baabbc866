"""LoHa, LoKr, DoRA, Tucker kernels and differences against LyCORIS' own forward passes.

`scripts/make_lycoris_golden.py` computed the numbers, in float64.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import Lora
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS

TINY = PRESETS["tiny"]
ULPS = 64 * 32 * 9  # a sum over the inputs of a kernel, of products of at most three sums
LAYERS = {
    "linear": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "kernel": "up_blocks.1.resnets.1.conv1",
    "point": "up_blocks.1.resnets.1.conv_shortcut",
    "norm": "down_blocks.0.resnets.0.norm1",
}
with np.load(Path(__file__).with_name("golden_lycoris.npz")) as golden:
    ARRAYS = {name: golden[name] for name in golden.files}
CASES = sorted({name.partition("/")[0] for name in ARRAYS})


def merged_layer(case: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the arrays of a case, and weight and bias of the layer as we merge them."""
    arrays = {n.partition("/")[2]: x for n, x in ARRAYS.items() if n.startswith(f"{case}/")}
    path = LAYERS[case.split("-")[1]]
    name = "lora_unet_" + path.replace(".", "_")
    tensors = {
        f"{name}.{part.removeprefix('file/')}": x
        for part, x in arrays.items()
        if part.startswith("file/")
    }
    flat = {n: np.zeros(shape) for n, shape in flatten(model_spec(TINY)).items()}
    weight, bias = (arrays[part].astype(np.float64) for part in ("weight", "bias"))
    flat[f"unet.{path}.weight"] = weight
    if f"unet.{path}.bias" in flat:
        flat[f"unet.{path}.bias"] = bias
    merged = apply_loras(TINY, flat, [Lora("style", tensors, float(arrays["multiplier"]))])
    return arrays, merged[f"unet.{path}.weight"], merged.get(f"unet.{path}.bias", bias)


@pytest.mark.parametrize("case", CASES)
def test_the_layer_computes_what_lycoris_computes(case):
    arrays, weight, bias = merged_layer(case)
    x, y = (arrays[name].astype(np.float64) for name in "xy")
    if case.startswith("norm"):
        got = np.stack([weight, bias])
    elif x.ndim == 2:
        got = x @ weight.T + bias
    else:
        ops = get_backend("numpy", dtype="float64")
        got = ops.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    assert np.abs(got - y).max() <= ULPS * np.finfo(np.float64).eps * np.abs(y).max()
