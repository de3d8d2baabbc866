"""The texts of the guide of a run: the prompts as its weaker model encodes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.guide import CODE
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.start import encode_job
from ldmref.modes.text import TextConditioning
from ldmref.samplers.guidance import GUIDE


@dataclass(frozen=True, eq=False)
class ActiveGuide:
    """The weaker model of a run on its backend, with the prompts as its text encoders see them."""

    model: LatentDiffusion
    text: TextConditioning

    @property
    def record(self) -> dict[str, Any]:
        """The guide as an image records it."""
        described = {"name": self.model.config.name, "sha256": self.model.sha256}
        return described | self.model.modifications

    def repeated(self, times: int, size: tuple[int, int]) -> ActiveGuide:
        """Return the guide with its text repeated for several images, at a size."""
        return ActiveGuide(self.model, self.text.repeated(times, size))

    def conditioning(self, batch: slice) -> dict[str, Conditioning]:
        """Return what its network is conditioned on, by the name of its prediction."""
        return {GUIDE: self.text.conditionings(batch)["cond"]}


def encode_guide(
    guide: LatentDiffusion, job: Job, initial: InitialState, text: TextConditioning
) -> ActiveGuide:
    """Encode the prompts of a job with the text encoders of its guide.

    Args:
        guide: The weaker model.
        job, initial: As for `encode_job`.
        text: The prompts as the model that generates encodes them.

    Raises:
        UsageError: The tokenizers of the two cut the prompts into different numbers of chunks.
    """
    own = encode_job(guide, job, initial)
    if list(own.chunks) != list(text.chunks):
        raise UsageError(
            "the guide reads the prompts in another number of chunks than the model",
            code=CODE,
            hint="use long_prompts=truncate",
        )
    return ActiveGuide(guide, own)
