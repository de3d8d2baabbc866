"""The residual stream of a module that is followed: it continues with what the port recorded.

A norm reads the stream, which the sums behind it read as well. Where the port recorded the input of
a norm and the computed one differs, the tensor itself gets the recorded values: one wrong gate or
residual is then one row, and what follows is judged by itself.
"""

from __future__ import annotations

import numpy as np
import torch

from ldmref.locate.modules.arrays import to_tensor

MARK = "ldmref_recorded"  # an attribute of tensors that have the values of a recorded output


def mark(x: torch.Tensor, recorded: bool = True) -> None:
    """Mark a tensor as one with the values of a recorded output, or as one without."""
    setattr(x, MARK, recorded)


def is_marked(x: torch.Tensor) -> bool:
    """Return whether a tensor, or the one of which it is a part, has recorded values."""
    base = x._base
    return getattr(x, MARK, False) or (base is not None and getattr(base, MARK, False))


class ResidualStream:
    """The tensors of a run into which recorded values may be written.

    Args:
        network: The network, whose parameters and buffers are never written.
    """

    def __init__(self, network: torch.nn.Module):
        own = [*network.parameters(), *network.buffers()]
        self._own = {x.untyped_storage().data_ptr() for x in own}

    def write(self, x: torch.Tensor, recorded: np.ndarray) -> bool:
        """Write values into a tensor; return whether it can be written."""
        if tuple(x.shape) != recorded.shape or not x.is_floating_point() or x.is_inference():
            return False
        shared = any(n > 1 and not step for n, step in zip(x.shape, x.stride(), strict=True))
        if shared or x.untyped_storage().data_ptr() in self._own:
            return False
        x.copy_(to_tensor(recorded, x))
        return True
