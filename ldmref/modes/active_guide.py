"""The guide of a run: its weaker model on the backend, and the prompts as that encodes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ldmref.errors import UsageError
from ldmref.io.checkpoint import Checkpoint
from ldmref.loading import load_checkpoint
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.guide import CODE, Guide
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.start import encode_job
from ldmref.modes.text import TextConditioning
from ldmref.samplers.predictions import GUIDE


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


def load_guide(model: LatentDiffusion, guide: Guide) -> LatentDiffusion:
    """Return the weaker model of a job on the backend of the model that it guides.

    Raises:
        UsageError: It is on another backend, or only its configuration was given.
        InputError: It cannot be read.
    """
    ops = model.backend
    found = guide.source
    if isinstance(found, ModelConfig):
        message = f"of the guide {guide.name!r} there is only a configuration"
        raise UsageError(message, code=CODE, hint="give a model or a path")
    if isinstance(found, Checkpoint):
        found = load_checkpoint(found, ops)
    if found.backend.describe() != ops.describe():
        raise UsageError(
            f"the guide {guide.name!r} is on {found.backend!r}, the model on {ops!r}",
            code=CODE,
            hint="load(path, backend=model.backend)",
        )
    return found


def encode_guide(
    guide: LatentDiffusion, job: Job, initial: InitialState, text: TextConditioning
) -> ActiveGuide:
    """Encode the prompts of a job with the text encoders of its guide.

    The guide reads no negative prompt. Its autoencoder is that of the model, which encoded the
    reference images. The negative prompt is encoded only if the prompts are read in several
    chunks, whose number is that of the longer one of the two.

    Args:
        guide: The weaker model.
        job, initial: As for `encode_job`.
        text: The prompts as the model that generates encodes them.

    Raises:
        UsageError: The tokenizers of the two cut the prompts into different numbers of chunks.
    """
    longer = max(text.chunks) > 1 and {*text.negative_prompts} <= {*text.encoded}
    guide = guide.with_text_length(job.max_sequence_length)
    own = encode_job(
        guide, job, initial, {"cond", "uncond"} if longer else {"cond"}, text.references
    )
    if list(own.chunks) != list(text.chunks):
        raise UsageError(
            "the guide reads the prompts in another number of chunks than the model",
            code=CODE,
            hint="use long_prompts=truncate",
        )
    return ActiveGuide(guide, own)
