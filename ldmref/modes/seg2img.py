"""A picture from a map of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.errors import ImageError
from ldmref.io.pictures.images import open_image
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.picture import Source
from ldmref.modes.request import Request, resolve
from ldmref.modes.result import Result


def seg2img(
    model: LatentDiffusion,
    segmentation: Source | np.ndarray,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    count: int = 1,
    eta: float | None = None,
    rng: str = "philox",
    latents: np.ndarray | None = None,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    batch_size: int = 1,
    tile: int | None = None,
) -> Result:
    """Draw a picture whose regions show the classes of a map (semantic synthesis).

    The map becomes a picture per class, 1 where the class is and 0 elsewhere; these are brought to
    the latents' size and joined to them (Rombach et al. 2022, arXiv:2112.10752, section 4.3.2).

    Args:
        model: with `concat` "segmentation", such as the preset `ldm-semantic`.
        segmentation: numbers of classes, an integer array (H, W); or a picture whose grey values
            or palette indices are these numbers. It has the size of the picture to draw.

    The other arguments, the result and the errors are those of `txt2img`; besides:

    Raises:
        ImageError: the map cannot be read, is no map of classes, names a class that the model does
            not know, or has a size that the model cannot take.
    """
    request, labels = planned(
        model.config, segmentation, steps=steps, sampler=sampler, schedule=schedule, seed=seed,
        count=count, eta=eta, rng=rng, batch_size=batch_size, tile=tile,
    )  # fmt: skip
    channels = model.backend.to_numpy(model.encode_segmentation(labels[None]))
    start = Start(channels=np.asarray(channels, np.float32))
    return generate(model, request, start, latents=latents, callback=callback, cancel=cancel)


def planned(
    config: ModelConfig, segmentation: Source | np.ndarray, **asked: Any
) -> tuple[Request, np.ndarray]:
    """Every argument of `seg2img` checked, and the map as int64 (H, W); weights are not needed.

    Raises:
        UsageError, ResourceError, ImageError: as `seg2img`.
    """
    labels = read_labels(segmentation)
    height, width = labels.shape
    request = resolve(config, "seg2img", "", width=width, height=height, **asked)
    if labels.min() < 0 or labels.max() >= config.segmentation_classes:
        raise ImageError(
            f"the map has class {labels.max() if labels.min() >= 0 else labels.min()}, "
            f"{config.name!r} knows 0 to {config.segmentation_classes - 1}",
            code="E-CLASS",
        )
    return request, labels


def read_labels(source: Source | np.ndarray) -> np.ndarray:
    """A map of classes as int64 (H, W).

    Raises:
        ImageError: it cannot be read, or is no map of classes.
    """
    if isinstance(source, np.ndarray):
        found = source
    else:
        image = open_image(source)
        if image.mode not in ("L", "P", "I") and not image.mode.startswith("I;16"):
            raise ImageError(
                f"a map of classes is a grey or palette picture, not {image.mode}",
                code="E-IMAGE",
                hint="save the numbers of the classes as 8-bit grey values",
            )
        found = np.asarray(image)
    if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
        raise ImageError(
            f"a map of classes is an integer array (H, W), not {found.dtype} {found.shape}",
            code="E-IMAGE",
        )
    return found.astype(np.int64)
