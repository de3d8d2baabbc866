"""The declaration of earlier versions, which a `Family` held, read as a `FamilyPort`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.models.config import ModelConfig
from ldmref.models.family import guide_above_one
from ldmref.ports.parts import PipelineParts


@dataclass(frozen=True)
class PipelineCalls:
    """What `Family(diffusers=)` took: fields of `FamilyPort`, and three of `Family`.

    Attributes:
        pipelines: `Family.folders`.
        scale, reads_scale: `Family.guidance_scale`.
        draws_images: `Family.draws_images`.
        modules, halves, unpack, inputs, prediction, states, layer, unguided, parts: As in
            `FamilyPort`; None: its default.
    """

    pipelines: Mapping[str, Callable[[Path, Mapping[str, Any]], ModelConfig]] = field(
        default_factory=dict
    )
    modules: tuple[str, ...] = ()
    halves: tuple[str, str] = ("uncond", "cond")
    unpack: Callable[..., Any] | None = None
    inputs: Callable[..., Any] | None = None
    prediction: Callable[..., Any] | None = None
    states: Callable[..., Any] | None = None
    layer: Callable[..., Any] | None = None
    scale: Callable[[float], float] = guide_above_one
    draws_images: bool = True
    unguided: Callable[..., bool] | None = None
    reads_scale: Callable[[ModelConfig], bool] = lambda config: True
    parts: PipelineParts | None = None

    @property
    def of_port(self) -> dict[str, Any]:
        """The fields of a `FamilyPort`, those that were set.

        >>> PipelineCalls(halves=("cond", "uncond")).of_port
        {'halves': ('cond', 'uncond')}
        """
        own = ("pipelines", "scale", "draws_images", "reads_scale")
        found = {name: x for name, x in vars(self).items() if name not in own}
        return {name: x for name, x in found.items() if x != getattr(type(self), name)}
