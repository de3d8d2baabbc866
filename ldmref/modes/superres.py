"""A larger picture from a small one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import ImageError
from ldmref.io.pictures.images import read_image, to_array
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.picture import Source
from ldmref.modes.request import Request, resolve
from ldmref.modes.result import Result


def superres(
    model: LatentDiffusion,
    image: Source,
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
    """Draw a picture that is `model.config.vae.factor` times as wide and high as `image`.

    The small picture has the size of the latents and is joined to them as it is (Rombach et al.
    2022, arXiv:2112.10752, section 4.4).

    Args:
        model: with `concat` "low_resolution", such as the preset `ldm-superres`.
        image: path, open file or Pillow picture, whose sides the U-Net can halve; not resized.

    The other arguments, the result and the errors are those of `txt2img`; besides:

    Raises:
        ImageError: the picture cannot be read, or has a size that the model cannot take.
    """
    request, picture = planned(
        model.config, image, steps=steps, sampler=sampler, schedule=schedule, seed=seed,
        count=count, eta=eta, rng=rng, batch_size=batch_size, tile=tile,
    )  # fmt: skip
    start = Start(channels=to_array([picture]))
    return generate(model, request, start, latents=latents, callback=callback, cancel=cancel)


def planned(config: ModelConfig, image: Source, **asked: Any) -> tuple[Request, Image.Image]:
    """Every argument of `superres` checked, and the small picture; weights are not needed.

    Raises:
        UsageError, ResourceError, ImageError: as `superres`.
    """
    picture, f = read_image(image), config.vae.factor
    m = config.size_multiple // f
    if config.concat == "low_resolution" and (picture.width % m or picture.height % m):
        raise ImageError(
            f"cannot enlarge a picture of {picture.width} x {picture.height}: width and height "
            f"must be multiples of {m}",
            code="E-SIZE",
            hint="cut or resize it first",
        )
    request = resolve(
        config, "superres", "", width=f * picture.width, height=f * picture.height, **asked
    )
    return request, picture
