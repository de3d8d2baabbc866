"""The latents of a pipeline of diffusers in the layout of ldmref, also if it passes tokens."""

from __future__ import annotations

from typing import Any

import torch

from ldmref.models.family import Family
from ldmref.ports.port import port_of
from ldmref.trace.torch_values import find_tensors


class LatentLayout:
    """Returns latents (n, c, h, w) of the arrays that a pipeline passes.

    Pipelines that pass tokens make the positions of these, (l, 3), together with the first latents;
    or the family reads the latents of each call.

    Args:
        family: The family of the pipeline. None: it is not known, and nothing changes.
    """

    def __init__(self, family: Family | None):
        self._unpack = None if family is None else port_of(family).unpack
        self._refers = family is not None and family.references is not None
        self._grid = (0, 0)

    def note(self, prepared: object, height: object = None, width: object = None) -> None:
        """Note rows and columns of the tokens.

        They follow from height and width of the image and the number of tokens. Without these, they
        are the largest positions in the result of `prepare_latents`.

        Args:
            prepared: The result of `prepare_latents`.
            height, width: The size of the image in pixels, if it is known.
        """
        if self._unpack is None:
            return
        arrays = [x for _, x in find_tensors(prepared, "")]
        lengths = [x.shape[1] for x in arrays if x.ndim == 3]
        if lengths and isinstance(height, int) and isinstance(width, int) and height and width:
            cells = lengths[0] / (height * width)
            rows, columns = round(height * cells**0.5), round(width * cells**0.5)
            if rows * columns == lengths[0]:
                self._grid = (rows, columns)
                return
        for x in arrays:
            if x.ndim == 2 and x.shape[1] == 3:
                self._grid = (int(x[:, 1].max()) + 1, int(x[:, 2].max()) + 1)

    def note_sample(self, latents: object) -> None:
        """Note rows and columns of the latents (n, c, h, w) of a call of the denoiser."""
        if isinstance(latents, torch.Tensor) and latents.ndim == 4:
            self._grid = (latents.shape[2], latents.shape[3])

    def convert(self, x: object) -> Any:
        """Return an array as latents if it holds tokens; anything else as it is.

        Tokens of reference images, which follow those of the image, are left out.
        """
        rows, columns = self._grid
        if self._unpack is None or not isinstance(x, torch.Tensor) or x.ndim != 3:
            return x
        length = rows * columns
        more = self._refers and 0 < length < x.shape[1]
        return self._unpack(x[:, :length], rows, columns) if more or x.shape[1] == length else x

    def convert_all(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Return arrays by name, each as `convert` does."""
        return {name: self.convert(x) for name, x in arrays.items()}
