"""Build networks of ComfyUI on the CPU, and load weights into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.cli_args
import torch
from judged import KitInputs, distance, judge

import ldmref

comfy.cli_args.args.cpu = True  # before a module asks for a graphics card
from comfy.ops import disable_weight_init  # noqa: E402

MADE: Mapping[str, Any] = {
    "dtype": torch.float32, "device": "cpu", "operations": disable_weight_init
}  # fmt: skip
CALLS = ("transformer.000", "transformer.003")  # of the kit's run


def tensor(x: Any) -> torch.Tensor:
    """Return an array as a tensor in float32."""
    return torch.as_tensor(x).float()


def load_weights(net: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Load weights by the makers' names; every parameter needs one, and none is left over."""
    named = {name.replace("_norm.scale", "_norm.weight"): tensor(x) for name, x in weights.items()}
    net.load_state_dict(named)
    net.requires_grad_(False)


def judge_batches(network: str, kit: KitInputs, net: torch.nn.Module, roles: Sequence[str]) -> None:
    """Run whole batches at two times, and print what ldmref says.

    Args:
        network: What runs.
        kit: Its kit.
        net: The network, which takes latents, a time in 0..1 and other inputs.
        roles: The roles of these in the kit's run.
    """
    errors = {}
    with ldmref.recording(net, call="transformer") as run:
        for call in CALLS:
            x, expected = kit.call(call)
            more = (tensor(x[role]) for role in roles)
            y = net(tensor(x["sample"]), tensor(x["timestep"]) / 1000.0, *more)
            errors[call] = distance(y, expected)
    judge(network, run.trace, kit, errors)


def judge_images(network: str, kit: KitInputs, net: torch.nn.Module, counts: bool = False) -> None:
    """Run each image of a batch by itself, whose text has no padding, and print what ldmref says.

    Args:
        network: What runs.
        kit: Its kit.
        net: The network, which takes latents, a time in 0..1, a text, and perhaps its length.
        counts: Whether it takes the length.
    """
    errors = {}
    with ldmref.recording(net, call="transformer") as run:
        for call in CALLS:
            x, expected = kit.call(call)
            for row, mask in enumerate(x["encoder_attention_mask"] > 0):
                latents, time = (tensor(x[role][row : row + 1]) for role in ("sample", "timestep"))
                text = tensor(x["encoder_hidden_states"][row : row + 1, mask])
                more = (text, text.shape[1]) if counts else (text,)
                y = net(latents, time / 1000.0, *more)
                errors[f"{call} {row}"] = distance(y[0], expected[row])
    judge(network, run.trace, kit, errors)
