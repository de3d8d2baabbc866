"""Build networks of ComfyUI on the CPU, and load weights into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.cli_args
import torch

comfy.cli_args.args.cpu = True  # before a module asks for a graphics card
from comfy.ops import disable_weight_init  # noqa: E402

MADE: Mapping[str, Any] = {
    "dtype": torch.float32, "device": "cpu", "operations": disable_weight_init
}  # fmt: skip


def tensor(x: Any) -> torch.Tensor:
    """Return an array as a tensor in float32."""
    return torch.as_tensor(x).float()


def load_weights(net: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Load weights by the makers' names; every parameter needs one, and none is left over."""
    named = {name.replace("_norm.scale", "_norm.weight"): tensor(x) for name, x in weights.items()}
    net.load_state_dict(named)
    net.requires_grad_(False)
