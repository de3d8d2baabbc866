"""The dtype of activations."""

from __future__ import annotations

import torch


def activation_dtype(dtype: str, device: str) -> str:
    """The dtype; for "auto" bfloat16 where the device multiplies in it, and else float32.

    Processors without it emulate bfloat16, at a fraction of the speed of float32.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: str) -> bool:
    """Whether the device multiplies in bfloat16 without emulating it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in PyTorch 2.6
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
