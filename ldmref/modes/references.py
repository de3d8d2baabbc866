"""Reference images: what a model of their family reads beside the prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import ImageError, UsageError
from ldmref.io.images.pil import read_image, to_array
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import LatentDiffusion
from ldmref.modes.sizing import resize_image

CODE = "E-REFERENCES"
MAX_REFERENCES = 16  # of a request for any model, before one of them is opened


@dataclass(frozen=True)
class Reference:
    """A reference image.

    Args:
        image: At the size to which the family fits it.
    """

    image: Image.Image

    @property
    def sha256(self) -> str:
        """The digest of the image as the model reads it."""
        head = f"{self.image.size} ".encode()
        return hashlib.sha256(head + np.asarray(self.image).tobytes()).hexdigest()


def list_references(name: str, value: object) -> tuple[Any, ...]:
    """Return the images of a request, each in the notation of its interface, as a tuple.

    Args:
        name: The parameter, for messages.
        value: A list of images, or one image.

    Raises:
        UsageError: There are more than any model reads.
    """
    images = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(images) > MAX_REFERENCES:
        message = f"{len(images)} images as {name}, the limit is {MAX_REFERENCES}"
        raise UsageError(message, code=CODE, hint="give fewer images")
    return images


def read_references(config: ModelConfig, sources: Sequence[Any]) -> tuple[Reference, ...]:
    """Return the reference images of a request, at the sizes to which the family fits them.

    Raises:
        UsageError: The model reads none, or fewer.
        ImageError: One cannot be read.
    """
    if not sources:
        return ()
    declared = family_of(config).references
    if declared is None:
        raise UsageError(
            f"{config.name!r} reads no reference images",
            code=CODE,
            hint="leave references (--reference) out; img2img changes a given image",
        )
    if len(sources) > declared.most:
        most = "1 reference image" if declared.most == 1 else f"{declared.most} reference images"
        raise UsageError(
            f"{len(sources)} images as references, and {config.name!r} reads at most {most}",
            code=CODE,
            hint="give fewer images",
        )
    crop = partial(resize_image, how="crop")
    found = []
    for number, source in enumerate(sources, 1):
        try:
            image = read_image(source)
        except ImageError as error:
            message = f"reference {number}: {error}"
            raise ImageError(message, code=error.code, hint=error.hint) from error
        found.append(Reference(declared.prepared(image, len(sources), crop)))
    return tuple(found)


def encode_references(
    model: LatentDiffusion, references: Sequence[Reference], size: tuple[int, int]
) -> dict[str, Array]:
    """Return the arrays of reference images, (1, ...), by the denoiser's argument.

    Args:
        model: The model that generates.
        references: From `read_references`. (): the result is empty.
        size: Width and height of the generated images.

    Raises:
        UsageError: The family returns an array that its denoiser does not take, or for several
            examples.
    """
    declared = model.family.references
    if not references or declared is None:
        return {}
    ops = model.backend
    images = [ops.asarray(to_array([reference.image])) for reference in references]
    arrays: Mapping[str, Array] = declared.encode(model, images, size)
    for name, array in arrays.items():
        if name not in model.denoiser.defaults:
            problem = f"no argument {name!r} for its reference images"
            raise UsageError(
                f"the denoiser of {model.config.name!r} has {problem}", code="E-FAMILY"
            )
        if array.shape[0] != 1:
            problem = f"{name!r} is {tuple(array.shape)}, not (1, ...)"
            raise UsageError(
                f"of the reference images of {model.config.name!r}, {problem}", code="E-FAMILY"
            )
    return {name: ops.own(name, array) for name, array in arrays.items()}
