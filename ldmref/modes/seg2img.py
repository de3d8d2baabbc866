"""An image from a segmentation map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ldmref.errors import ImageError
from ldmref.io.images.arrays import host_array, is_array
from ldmref.io.images.pil import Source, open_image
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.initial import InitialState
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Seg2Img
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan


def plan_seg2img(config: ModelConfig, request: Seg2Img) -> Plan:
    """Check a request; the map is joined to the latents."""
    labels = read_labels(request.segmentation)
    request = replace(request, segmentation=labels)
    height, width = labels.shape
    job = resolve(config, "seg2img", request, width=width, height=height)
    if labels.min() < 0 or labels.max() >= config.segmentation_classes:
        raise ImageError(
            f"the map has class {labels.max() if labels.min() >= 0 else labels.min()}, "
            f"{config.name!r} knows 0 to {config.segmentation_classes - 1}",
            code="E-CLASS",
        )

    def start(model: LatentDiffusion) -> InitialState:
        channels = model.backend.to_numpy(model.encode_segmentation(labels[None]))
        return InitialState(job.latents, channels=np.asarray(channels, np.float32))

    return Plan(request, job, start)


@dataclass(frozen=True, eq=False, repr=False)
class Seg2ImgArguments(Watched, Seg2Img):
    """The arguments of `seg2img` after the model."""


@mode(plan_seg2img, Seg2ImgArguments)
def seg2img(model: LatentDiffusion, request: Seg2Img, watched: Watched) -> Result:
    """Generate an image whose regions show the classes of a map (semantic synthesis).

    The map is one-hot encoded, resized to the latents and joined to them (Rombach et al. 2022,
    arXiv:2112.10752, section 4.3.2). It has the size of the image to generate. The model has
    `concat` "segmentation", such as the preset `ldm-semantic`.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError: An argument is wrong; nothing was computed.
        ImageError: The map cannot be read, does not hold classes, has a class that the model does
            not know, or has a size that the model cannot take.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import numpy as np
        >>> from ldmref.models import PRESETS
        >>> from ldmref.modes import plan
        >>> sea = np.full((256, 256), 154)
        >>> plan("seg2img", PRESETS["ldm-semantic"], segmentation=sea).params["width"]
        256
        >>> seg2img(model, sea, seed=7)[0].save("sea.png")  # doctest: +SKIP
    """
    return plan_seg2img(model.config, request).run(model, watched.callback, watched.cancel)


def read_labels(source: Source | np.ndarray) -> np.ndarray:
    """Return a map of classes as int64 (H, W).

    Raises:
        ImageError: The source cannot be read, or does not hold a map of classes.
    """
    if is_array(source):
        labels = host_array(source)
    else:
        image = open_image(source)
        if image.mode not in ("L", "P", "I") and not image.mode.startswith("I;16"):
            raise ImageError(
                f"a map of classes is a grey or palette image, not {image.mode}",
                code="E-IMAGE",
                hint="save the numbers of the classes as 8-bit grey values",
            )
        labels = np.asarray(image)
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise ImageError(
            f"a map of classes is an integer array (H, W), not {labels.dtype} {labels.shape}",
            code="E-IMAGE",
        )
    return labels.astype(np.int64)
