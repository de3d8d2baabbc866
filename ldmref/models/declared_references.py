"""How a family reads reference images, as FLUX.2, Flux.1 Kontext and Qwen-Image-Edit do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldmref.math.arrays import Array


@dataclass(frozen=True)
class DeclaredReferences:
    """The reference images of a family, which its denoiser reads as tokens or channels.

    The denoiser has an argument for each array, whose default is None: without references, it is
    called without them. `CallSize("references")` is the number of tokens of all references in the
    shape of an input; estimates then count the pixels of references as those of the image.

    Attributes:
        encode: `encode(model, images, size)` returns the arrays of the references, (1, ...), by the
            argument of the denoiser that takes them: latents, positions. `model` is a
            `LatentDiffusion`; `images` are arrays of its backend in the order of the request, each
            (1, 3, h, w) in [-1, 1]; `size` is the width and height of the generated images in
            pixels. All images of a run, and all predictions, share the arrays.
        most: The largest number of references of a request.
        fit: `fit(width, height)` returns the width and height to which a reference of this size is
            scaled and cropped before it is encoded. None: `prepare` says what is done.
        prepare: `prepare(image, count)` returns an RGB image of Pillow as it is encoded, where more
            is done than to scale and crop, or where it depends on the number of references. None:
            `fit` says all.

    >>> DeclaredReferences(lambda model, images, size: {}, most=4, fit=lambda w, h: (w, h)).most
    4
    """

    encode: Callable[[Any, Sequence[Array], tuple[int, int]], Mapping[str, Array]]
    most: int
    fit: Callable[[int, int], tuple[int, int]] | None = None
    prepare: Callable[[Any, int], Any] | None = None

    def prepared(self, image: Any, count: int, crop: Callable[[Any, tuple[int, int]], Any]) -> Any:
        """Return an image as it is encoded.

        Args:
            image: A reference, an RGB image of Pillow.
            count: The number of references of the request.
            crop: `crop(image, size)` scales and crops an image to another size.
        """
        if self.prepare is not None:
            return self.prepare(image, count)
        size = image.size if self.fit is None else self.fit(*image.size)
        return image if image.size == size else crop(image, size)
