"""Describe, as data of families, how to build a pipeline of diffusers and ask it for an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.library_object import LibraryObject
from ldmref.models.text_config import TextConfig

CODE = "E-PASSPORT"
FLOW_SCHEDULERS = {
    "euler": "diffusers:FlowMatchEulerDiscreteScheduler",
    "heun": "diffusers:FlowMatchHeunDiscreteScheduler",
}
LINE = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")  # of the shift


def describe_flow_scheduler(config: ModelConfig, sampler: str) -> LibraryObject:
    """Return diffusers' scheduler of a model that was trained with flow matching.

    Args:
        config: The configuration of the model.
        sampler: The sampler of a run, a name in `SAMPLERS`.

    Raises:
        UsageError: diffusers has no such sampler for flows.

    >>> from ldmref.models import preset
    >>> describe_flow_scheduler(preset("sd3-medium"), "euler").settings["shift"]
    3.0
    """
    path = FLOW_SCHEDULERS.get(sampler)
    if path is None:
        message = f"diffusers has no scheduler of flows for the sampler {sampler!r}"
        raise UsageError(message, code=CODE, hint=f"it has {', '.join(FLOW_SCHEDULERS)}")
    flow = config.scheduler
    settings: dict[str, Any] = {"shift": flow.shift}
    if sampler == "euler":  # the only one with shifts that depend on the size
        settings |= {name: getattr(flow, name) for name in LINE}
        settings["use_dynamic_shifting"] = flow.dynamic_shift
        settings["shift_terminal"] = flow.shift_terminal or None
    return LibraryObject(path, settings)


class MakeRequest(Protocol):
    """Arguments of a call of a pipeline, from a configuration and a request of `txt2img`."""

    def __call__(self, config: ModelConfig, asked: Mapping[str, Any]) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class PipelineParts:
    """Describe how to build diffusers' pipeline of a model, and how to ask it for an image.

    Autoencoders and text encoders are made as their kinds say.

    Attributes:
        pipeline: Returns the pipeline of a configuration, with the arguments that are not networks.
        denoiser: Returns the denoiser of a configuration.
        scheduler: Returns the scheduler of a configuration and of a sampler, by its name.
        text_encoder: Returns a text encoder of a configuration, of a pipeline that does not take
            the one that its kind names. None: it does.
        request: Returns further arguments of a call, or others instead of those that all pipelines
            have, from the configuration and a request of `txt2img` by the names of its parameters.
            None is left out.
        takes_tokens: Whether a call takes latents as tokens, (n, l, c), as `PipelineCalls.unpack`
            reads them.
        adapt: Changes what a pipeline takes for given of the published model, such as the number of
            tokens of its chat.

    >>> from ldmref.models import preset
    >>> from ldmref.models.family import find_family
    >>> parts = find_family("sd3").diffusers.parts
    >>> parts.pipeline(preset("sd3-medium")).path
    'diffusers:StableDiffusion3Pipeline'
    """

    pipeline: Callable[[ModelConfig], LibraryObject]
    denoiser: Callable[[ModelConfig], LibraryObject]
    scheduler: Callable[[ModelConfig, str], LibraryObject] = describe_flow_scheduler
    text_encoder: Callable[[TextConfig], LibraryObject] | None = None
    request: MakeRequest = lambda config, asked: {}
    takes_tokens: bool = False
    adapt: Callable[[Any], None] = lambda pipe: None
