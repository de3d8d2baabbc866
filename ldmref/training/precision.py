"""The type of activations that a device computes fast in."""

from __future__ import annotations

import torch


def activation_dtype(dtype: str, device: str) -> str:
    """The dtype; for "auto" bfloat16 where the device multiplies in it, and else float32.

    Processors without it emulate bfloat16, at a fraction of the speed of float32.
    """
    if dtype != "auto":
        return dtype
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in PyTorch 2.9
        fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if fast else "float32"
