"""An image from a segmentation map."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from ldmref.errors import ImageError
from ldmref.io.images.arrays import host_array, is_array
from ldmref.io.images.pil import Source, open_image
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import Segmentation, SuperresParameters
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.start import Start


def plan_seg2img(config: ModelConfig, values: dict[str, Any]) -> Plan:
    labels = read_labels(values["segmentation"])
    height, width = labels.shape
    request = resolve(config, "seg2img", values | {"width": width, "height": height})
    if labels.min() < 0 or labels.max() >= config.segmentation_classes:
        raise ImageError(
            f"the map has class {labels.max() if labels.min() >= 0 else labels.min()}, "
            f"{config.name!r} knows 0 to {config.segmentation_classes - 1}",
            code="E-CLASS",
        )

    def start(model: LatentDiffusion) -> Start:
        channels = model.backend.to_numpy(model.encode_segmentation(labels[None]))
        return Start(request.latents, channels=np.asarray(channels, np.float32))

    return Plan(request, start)


@mode(plan_seg2img)
def seg2img(
    model: LatentDiffusion,
    segmentation: Segmentation,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[SuperresParameters],
) -> Result:
    """Draw an image whose regions show the classes of a map (semantic synthesis).

    The map is one-hot encoded, resized to the latents and joined to them (Rombach et al. 2022,
    arXiv:2112.10752, section 4.3.2). It has the size of the image to draw. The model has `concat`
    "segmentation", such as the preset `ldm-semantic`.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        ImageError: the map cannot be read, is no map of classes, names a class that the model does
            not know, or has a size that the model cannot take.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    checked = plan("seg2img", model, segmentation=segmentation, **parameters)
    return checked.run(model, callback, cancel)


def read_labels(source: Source | np.ndarray) -> np.ndarray:
    """A map of classes as int64 (H, W).

    Raises:
        ImageError: it cannot be read, or is no map of classes.
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
