"""Text to image."""

from __future__ import annotations

from dataclasses import dataclass

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.initial import InitialState
from ldmref.modes.job import list_asked
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Txt2Img
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.upscale import plan_second_pass
from ldmref.modes.upscale_parameters import UpscaleParameters


def plan_txt2img(config: ModelConfig, request: Txt2Img) -> Plan:
    """Check a request; the initial state is pure noise."""
    job = resolve(config, "txt2img", request)
    plan = Plan(request, job, lambda model: InitialState(noise=job.latents))
    if list_asked(request, UpscaleParameters):
        return plan_second_pass(config, request, plan)
    return plan


@dataclass(frozen=True, eq=False, repr=False)
class Txt2ImgArguments(Watched, Txt2Img):
    """The arguments of `txt2img` after the model."""


@mode(plan_txt2img, Txt2ImgArguments)
def txt2img(model: LatentDiffusion, request: Txt2Img, watched: Watched) -> Result:
    """Generate images from prompts.

    With `upscale`, the result of the first pass is enlarged and changed by a second one, which is
    img2img at the larger size with the same prompts, sampler and seeds. It takes `upscale_steps`
    steps: the last ones of a schedule of int(upscale_steps / upscale_strength), as A1111's hires
    fix does. The width and height of the request are those of the first pass; the sides of the
    result are rounded down to multiples that the model can generate.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings, for example
        about words of the prompt that were truncated.

    Raises:
        UsageError, ResourceError: An argument is wrong; nothing was computed.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> result = txt2img(ldmref.random_model("tiny"), "a red heart", steps=2, seed=7)
        >>> result[0].size, result.seeds
        ((16, 16), [7])
    """
    return plan_txt2img(model.config, request).run(model, watched.callback, watched.cancel)
