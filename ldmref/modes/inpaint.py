"""Repaint the white part of a mask, keep the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.event import Callback, CancelFlag
from ldmref.modes.generate import Start, generate
from ldmref.modes.masked import (
    crop,
    filled,
    in_hole,
    paste_region,
    picture_and_size,
    region_of,
)
from ldmref.modes.networks import encode_array, encode_picture, hole_of
from ldmref.modes.picture import (
    Source,
    latent_keep,
    latent_mask,
    mask_of,
    masked_picture,
    paste,
)
from ldmref.modes.request import resolve
from ldmref.modes.result import Result


def inpaint(
    model: LatentDiffusion,
    prompt: str | Sequence[str],
    image: Source,
    mask: Source,
    strength: float | None = 1.0,
    mask_blur: float = 0,
    *,
    fill: str = "original",
    only_masked: bool = False,
    padding: int = 32,
    resample: tuple[int, int] | None = None,
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
    """Redraw the white part of `mask`; black pixels come back bit for bit.

    After every step the latents outside the mask are replaced by the known ones at the new noise
    level, with one fixed noise (Lugmayr et al. 2022, arXiv:2201.09865, eq. 8; with `resample` also
    its algorithm 1).
    They are the mean of the picture's posterior, or, with `rng="torch"`, a sample, as in diffusers.
    A latent cell is outside if none of its pixels is white, or, with `rng="torch"`, if its first
    pixel is black, as in diffusers, which leaves white pixels along the mask's edge as they were.

    Args:
        image: path, open file, Pillow picture or uint8 array (H, W, 3), at a size that the model
            can take: both sides multiples of the autoencoder's factor.
        mask: of the same size; its transparency if that varies, else its luminance, is cut at one
            half. White repaints, black keeps.
        strength: 1 starts the white part from pure noise; less starts from the picture; None is 1.
        mask_blur: standard deviation in pixels by which the repainted part fades out beyond the
            white; pixels farther out (where the mask is 0) are kept exactly.
        fill: what is below the mask before noise is added, which matters below strength 1:
            `original`, the picture; `noise`, the seed's own first draw; `fill`, the colours around;
            `nothing`, latents of 0.
        only_masked: draw the region around the mask alone, scaled to width x height (None: the
            model's own size), and paste it back. The picture may then have any size.
        padding: pixels of the picture around the mask that the region shows the model.
        resample: (jump length, times), such as (10, 10): walk each stretch of that many steps that
            often, so that the repainted part fits the rest better, at as many times the cost.

    The other arguments, the result and the errors are those of `txt2img`; besides:

    Raises:
        ImageError: picture or mask cannot be read, have different sizes, or a size that the model
            cannot take (it is not resized: the kept pixels would not be yours).
    """
    original, size = picture_and_size(model.config, image, only_masked is True, width, height)
    request = resolve(
        model.config, "inpaint", prompt, negative_prompt=negative_prompt, steps=steps,
        cfg_scale=cfg_scale, sampler=sampler, schedule=schedule, seed=seed, count=count,
        width=size[0], height=size[1], eta=eta, clip_skip=clip_skip, rng=rng,
        batch_size=batch_size, strength=strength, mask_blur=mask_blur,
        long_prompts=long_prompts, prompt_weights=prompt_weights, control=control, tile=tile,
        fill=fill, only_masked=only_masked, padding=padding, resample=resample,
    )  # fmt: skip
    whole = mask_of(mask, original, request.mask_blur or 0.0)
    warnings, box = [], (0, 0, *original.size)
    picture, soft = original, whole
    if only_masked:
        box = region_of(whole, request.padding or 0, size)
        picture, soft = crop(original, whole, box, size)
    low, high = soft.getextrema()
    if high == 0:
        warnings.append("the mask is all black: nothing to repaint")
    known = encode_picture(model, picture)
    start = Start(known, request.first_step == 0)
    keep = latent_keep(soft, model.config.vae.factor, nearest=request.rng == "torch")
    if model.config.image_channels:  # the network is told what to keep, and needs no constraint
        hidden = masked_picture(picture, soft, hole_of(model.config))
        small = latent_mask(soft, model.config.vae.factor)
        start = replace(start, mask=small, masked=encode_array(model, hidden))
    elif low == 0:
        start = replace(start, keep=keep)
    if fill != "original":
        if start.from_noise:
            warnings.append(f"fill={fill} changes nothing at strength 1, which starts from noise")
        hole = 1.0 - keep
        if fill == "noise":
            start = replace(start, noisy=hole)
        else:
            content = encode_picture(model, filled(picture, soft)) if fill == "fill" else None
            start = replace(start, known=in_hole(known, hole, content))
    extra = {"latents": latents, "callback": callback, "cancel": cancel, "warnings": warnings}
    result = generate(model, request, start, **extra)
    if request.strength == 0:
        whole = whole.point(lambda value: 0)
    if only_masked:
        images = [paste_region(drawn, original, whole, box) for drawn in result.images]
    else:
        images = [paste(drawn, original, whole) for drawn in result.images]
    return replace(result, images=images)
