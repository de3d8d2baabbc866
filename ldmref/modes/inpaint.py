"""Repaint the white part of a mask, keep the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Callback, CancelFlag, Start, encode_picture, generate
from ldmref.modes.picture import Source, exact_picture, latent_keep, mask_of, paste
from ldmref.modes.request import resolve
from ldmref.modes.result import Result


def inpaint(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    image: Source,
    mask: Source,
    strength: float = 1.0,
    mask_blur: float = 0,
    *,
    negative_prompt: str | Sequence[str] = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    count: int = 1,
    eta: float | None = None,
    clip_skip: int | None = None,
    rng: str = "philox",
    latents: np.ndarray | None = None,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    batch_size: int = 1,
) -> Result:
    """Redraw the white part of `mask`; black pixels come back bit for bit.

    After every step the latents outside the mask are replaced by the known ones at the new noise
    level, with one fixed noise (Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, without resampling).

    Args:
        image: path, open file or Pillow picture, at a size that the model can take.
        mask: of the same size; its transparency if that varies, else its luminance, is cut at one
            half. White repaints, black keeps.
        strength: 1 starts the white part from pure noise; less starts from the picture.
        mask_blur: standard deviation in pixels by which the repainted part fades out beyond the
            white; pixels farther out (where the mask is 0) are kept exactly.

    The other arguments, the result and the errors are those of `txt2img`; besides:

    Raises:
        ImageError: picture or mask cannot be read, have different sizes, or a size that the model
            cannot take (it is not resized: the kept pixels would not be yours).
    """
    picture = exact_picture(model.config, image)
    request = resolve(
        model.config, "inpaint", prompt, negative_prompt=negative_prompt, steps=steps,
        cfg_scale=cfg_scale, sampler=sampler, schedule=schedule, seed=seed, count=count,
        width=picture.width, height=picture.height, eta=eta, clip_skip=clip_skip, rng=rng,
        batch_size=batch_size, strength=strength, mask_blur=mask_blur,
    )  # fmt: skip
    soft = mask_of(mask, picture, request.mask_blur or 0.0)
    low, high = soft.getextrema()
    warnings = []
    if high == 0:
        warnings.append("the mask is all black: nothing to repaint")
    keep = latent_keep(soft, model.config.vae.factor) if low == 0 else None
    start = Start(encode_picture(model, picture), request.first_step == 0, keep)
    extra = {"latents": latents, "callback": callback, "cancel": cancel, "warnings": warnings}
    result = generate(model, request, start, **extra)
    if request.strength == 0:
        soft = soft.point(lambda value: 0)
    return replace(result, images=[paste(drawn, picture, soft) for drawn in result.images])
