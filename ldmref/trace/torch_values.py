"""The tensors in the arguments and results of PyTorch modules."""

from __future__ import annotations

import torch

from ldmref.trace.values import ArraySearch

TENSORS = ArraySearch(
    (torch.Tensor,),
    (
        torch.dtype,
        torch.device,
        torch.layout,
        torch.memory_format,
        torch.Generator,
        torch.nn.Module,
    ),
)
find_tensors = TENSORS.find
replace_tensors = TENSORS.replace
find_unread = TENSORS.find_unread
attributes_of_object = TENSORS.attributes_of


def first_tensor(value: object) -> torch.Tensor | None:
    """Return the first tensor of a result."""
    return next((tensor for _, tensor in find_tensors(value, "output")), None)
