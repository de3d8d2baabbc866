"""Write tests/io/golden_lycoris.npz: what layers with LyCORIS' modules compute.

The file was written with lycoris-lora 4.1.3 (needs torch, einops and toml):

    pip install --no-deps --target /tmp/lycoris lycoris-lora einops toml
    PYTHONPATH=/tmp/lycoris python scripts/make_lycoris_golden.py

Each case has the tensors that LyCORIS saves, the weight of the layer, an input and the output of
LyCORIS' own forward pass in float64. Its `get_merged_weight` of LoHa and LoKr is not asked, since
4.1.3 multiplies by alpha / rank twice there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule

TARGET = Path(__file__).parent.parent / "tests" / "io" / "golden_lycoris.npz"
ALGORITHMS = {"lora": LoConModule, "loha": LohaModule, "lokr": LokrModule}
LAYERS = {  # as in the preset `tiny`
    "linear": lambda: torch.nn.Linear(32, 16),
    "kernel": lambda: torch.nn.Conv2d(32, 16, 3, padding=1),
    "point": lambda: torch.nn.Conv2d(32, 16, 1),
}
ROWS = {"weight_decompose": True}
COLUMNS = {"weight_decompose": True, "wd_on_out": False}
CASES = [  # algorithm, layer, multiplier, options
    *((name, layer, 0.7, {}) for name in ALGORITHMS for layer in LAYERS),
    *((name, "kernel", -1.5, {"use_tucker": True}) for name in ALGORITHMS),
    *((name, "linear", 0.7, {"rs_lora": True, "lora_dim": 4, "factor": 2}) for name in ALGORITHMS),
    *((name, "linear", 1.0, wd) for name in ALGORITHMS for wd in (ROWS, COLUMNS)),
    *((name, "kernel", 1.0, wd | {"use_tucker": True}) for name in ALGORITHMS
      for wd in (ROWS, COLUMNS)),
    ("lokr", "linear", 0.7, {"full_matrix": True}),
    ("lokr", "kernel", 0.7, {"full_matrix": True}),
    ("lokr", "linear", 0.7, {"decompose_both": True, "lora_dim": 1}),
    ("lokr", "kernel", 0.7, {"decompose_both": True, "lora_dim": 1}),
    ("lokr", "linear", 0.7, {"factor": 2}),
    ("lokr", "kernel", 1.0, {"factor": 8, "unbalanced_factorization": True} | ROWS),
]  # fmt: skip


def draw(*parameters: torch.Tensor) -> None:
    """Fill tensors with normal numbers that float16 holds, so that the file stays small."""
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
        parameter.data.copy_(parameter.data.half())


def shorten(x: np.ndarray) -> np.ndarray:
    """Return an array in float16 if nothing is lost."""
    short = x.astype(np.float16)
    return short if np.array_equal(short, x) else x


def run(algorithm: str, layer: str, multiplier: float, options: dict) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    base = LAYERS[layer]().double()
    draw(*base.parameters())
    weight, bias = (x.detach().numpy().copy() for x in (base.weight, base.bias))
    options = {"lora_dim": 2, "alpha": 1.5} | options
    module = ALGORITHMS[algorithm]("name", base, multiplier, **options).double().eval()
    for name, parameter in module.named_parameters():
        draw(parameter)
        if name == "dora_scale":
            parameter.data.abs_()
    saved = {name: x.detach().numpy() for name, x in module.custom_state_dict().items()}
    module.apply_to()
    shape = (5, 32) if layer == "linear" else (2, 32, 4, 4)
    x = torch.empty(shape, dtype=torch.float64)
    draw(x)
    output = base(x).detach().numpy()
    return {"weight": weight, "bias": bias, "x": x.numpy(), "y": output} | {
        f"file/{name}": x for name, x in saved.items()
    }


def run_full(multiplier: float) -> dict[str, np.ndarray]:
    """Return the arrays of a layer whose kernel and bias have differences."""
    base = LAYERS["kernel"]().double()
    module = FullModule("name", base, multiplier).double().eval()
    draw(*base.parameters(), module.weight, module.bias)
    module._org_weight = [base.weight.detach()]
    module.org_bias = [base.bias.detach()]
    merged, bias = module.get_merged_weight(multiplier)
    x = torch.empty(2, 32, 4, 4, dtype=torch.float64)
    draw(x)
    arrays = {
        "weight": base.weight, "bias": base.bias, "x": x,
        "y": torch.nn.functional.conv2d(x, merged, bias, padding=1),
        "file/diff": module.weight, "file/diff_b": module.bias,
    }  # fmt: skip
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


def run_norm(multiplier: float) -> dict[str, np.ndarray]:
    """Return the arrays of a group norm with differences; `y` is its weight, then its bias."""
    base = torch.nn.GroupNorm(4, 16).double()
    module = NormModule("name", base, multiplier).double().eval()
    draw(*base.parameters(), module.w_norm, module.b_norm)
    merged = torch.stack(module.make_weight(multiplier)[:2]).detach().numpy()
    return {
        "weight": base.weight.detach().numpy(), "bias": base.bias.detach().numpy(),
        "x": np.zeros(0), "y": merged,
        "file/w_norm": module.w_norm.detach().numpy(),
        "file/b_norm": module.b_norm.detach().numpy(),
    }  # fmt: skip


def main() -> None:
    """Compute every case and write the file."""
    torch.manual_seed(0)
    arrays: dict[str, np.ndarray] = {}
    for algorithm, layer, multiplier, options in CASES:
        words = "-".join(f"{key}={value}" for key, value in options.items()) or "plain"
        case = f"{algorithm}-{layer}-{words}"
        found = run(algorithm, layer, multiplier, options) | {"multiplier": np.asarray(multiplier)}
        arrays |= {f"{case}/{name}": x for name, x in found.items()}
    for case, function in (("full-kernel-plain", run_full), ("norm-norm-plain", run_norm)):
        found = function(0.7) | {"multiplier": np.asarray(0.7)}
        arrays |= {f"{case}/{name}": x for name, x in found.items()}
    np.savez_compressed(TARGET, **{name: shorten(x) for name, x in arrays.items()})


if __name__ == "__main__":
    main()
