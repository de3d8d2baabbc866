"""Text to image."""

from __future__ import annotations

from dataclasses import dataclass

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.initial import InitialState
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Txt2Img
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan


def plan_txt2img(config: ModelConfig, request: Txt2Img) -> Plan:
    """Check a request; the initial state is pure noise."""
    job = resolve(config, "txt2img", request)
    return Plan(request, job, lambda model: InitialState(noise=job.latents))


@dataclass(frozen=True, eq=False, repr=False)
class Txt2ImgArguments(Watched, Txt2Img):
    """The arguments of `txt2img` after the model."""


@mode(plan_txt2img, Txt2ImgArguments)
def txt2img(model: LatentDiffusion, request: Txt2Img, watched: Watched) -> Result:
    """Generate images from prompts.

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
