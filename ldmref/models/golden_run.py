"""Runs of a family that the golden cases hold as traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GoldenRun:
    """A run of a family's small model, of which the golden cases hold a trace.

    Attributes:
        preset: The name of the model, which `Family.shrink` makes small.
        sampler: The name of the sampler.
        mode: "txt2img", "img2img" or "inpaint".
        params: Parameters of the mode in place of those of all runs: prompt, negative_prompt,
            steps, cfg_scale.
        vocabulary: "words" if the text encoder reads whole words. "": the vocabulary of its kind.

    >>> from ldmref.families import GoldenRun
    >>> GoldenRun("sd15", "ddim").name
    'sd15.txt2img.ddim'
    """

    preset: str
    sampler: str
    mode: str = "txt2img"
    params: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: str = ""

    @property
    def name(self) -> str:
        """Return the name of the case, `PRESET.MODE.SAMPLER`."""
        return f"{self.preset}.{self.mode}.{self.sampler}"
