"""Text to image."""

from __future__ import annotations

from typing import Any, Unpack

from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.draw import Callback, CancelFlag
from ldmref.modes.parameters import Prompt, Txt2ImgParameters
from ldmref.modes.plan import Plan, plan
from ldmref.modes.registry import mode
from ldmref.modes.request import resolve
from ldmref.modes.result import Result
from ldmref.modes.start import Start


def plan_txt2img(config: ModelConfig, values: dict[str, Any]) -> Plan:
    request = resolve(config, "txt2img", values)
    return Plan(request, lambda model: Start(noise=request.latents))


@mode(plan_txt2img)
def txt2img(
    model: LatentDiffusion,
    prompt: Prompt,
    *,
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
    **parameters: Unpack[Txt2ImgParameters],
) -> Result:
    """Draw images from words.

    Parameters that are left out, or None, are as the model says. The result holds the images,
    their latents and seeds, the resolved parameters, and warnings, such as words of the prompt that
    did not fit.

    Raises:
        UsageError, ResourceError: an argument is wrong; nothing was computed.
        Cancelled, NumericError: see `ldmref.errors`.
    """
    return plan("txt2img", model, prompt=prompt, **parameters).run(model, callback, cancel)
