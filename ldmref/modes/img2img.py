"""Picture and text to picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.networks import encode_picture
from ldmref.modes.picture import Source, sized_picture
from ldmref.modes.request import resolve
from ldmref.modes.result import Result


def img2img(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    image: Source,
    strength: float | None = 0.75,
    *,
    resize: str = "crop",
    negative_prompt: str | Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    count: int = 1,
    width: int | None = None,
    height: int | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    rng: str = "philox",
    latents: np.ndarray | None = None,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    batch_size: int = 1,
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    control: Sequence[Control] = (),
    tile: int | None = None,
) -> Result:
    """Redraw a picture towards a prompt.

    The picture is encoded, noised to the level of grid step n - int(n strength), and denoised from
    there (Meng et al. 2021, arXiv:2108.01073). It is encoded to the mean of its posterior, or, with
    `rng="torch"`, to a sample of it, as diffusers does.

    Args:
        image: path or open file (PNG, JPEG, WebP), Pillow picture, or uint8 array (H, W, 3).
        strength: 0 gives the picture back, 1 ignores it; None is 0.75.
        resize: how a picture gets the given size: crop, stretch or fill (white).
        width, height: None keeps the picture's size, each side rounded down to a multiple of the
            autoencoder's factor, and stretches it by that little, as diffusers does; pictures too
            small for that, or of more than 16 times the area on which the model was trained, get
            the model's own size. Both are told in `warnings`.

    The other arguments, the result and the errors are those of `txt2img`; besides:

    Raises:
        ImageError: the picture cannot be read.
    """
    picture, resize, warnings = sized_picture(model.config, image, width, height, resize)
    request = resolve(
        model.config, "img2img", prompt, negative_prompt=negative_prompt, steps=steps,
        cfg_scale=cfg_scale, sampler=sampler, schedule=schedule, seed=seed, count=count,
        width=picture.width, height=picture.height, eta=eta, clip_skip=clip_skip, rng=rng,
        batch_size=batch_size, strength=strength, long_prompts=long_prompts,
        prompt_weights=prompt_weights,
        control=control, tile=tile,
    )  # fmt: skip
    known = encode_picture(model, picture)
    start = Start(known, from_noise=request.first_step == 0, facts={"resize": resize})
    extra = {"latents": latents, "callback": callback, "cancel": cancel, "warnings": warnings}
    result = generate(model, request, start, **extra)
    if request.strength == 0:
        return replace(result, images=[picture.copy() for _ in request.seeds])
    return result
