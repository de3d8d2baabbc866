"""The trajectory of an edit: from the latents of an image to those of the edited image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.batch_network import BatchNetwork
from ldmref.modes.channels import make_input_channels
from ldmref.modes.edit_methods import EditMethod
from ldmref.modes.generate import on_backend
from ldmref.modes.guidance_parameter import plain_guidance
from ldmref.modes.initial import InitialState
from ldmref.modes.job import Job
from ldmref.modes.text import TextConditioning
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import Step
from ldmref.samplers.interfaces import Interval
from ldmref.samplers.noise import Streams


@dataclass(frozen=True, eq=False, kw_only=True)
class EditTrajectory(Trajectory):
    """The sampling of a batch of edits, which begins at the latents of the given image.

    Args:
        image: The latents of the given image, (n, c, h, w).
        method: FlowEdit or RF inversion.
        source: The conditionings of the source prompt, as `conditionings`.
        step: The step of the method, which evaluates the model with the source prompt itself.
    """

    image: Array = field(repr=False)
    method: EditMethod
    source: Mapping[str, Conditioning] = field(repr=False)
    step: Step = field(init=False, repr=False)

    def __post_init__(self) -> None:
        scale = self.method.source_cfg_scale
        network = BatchNetwork(
            self.model, self.timestep, self.source, scale, channels=self.channels
        )
        source = network.guided(plain_guidance(self.model.config), self.schedule.path)
        assert self.noise is not None
        step = self.method.step(self.schedule, source, self.image, self.noise)
        object.__setattr__(self, "step", step)

    @property
    def levels(self) -> list[float]:
        """The noise levels, into which `visits` are indices."""
        return self.method.levels(self.schedule)

    @property
    def scale(self) -> float:
        """The divisor of the last state, which may hold no noise."""
        return super().scale if self.method.leaves_noise else 1.0

    def timestep(self, sigma: float, interval: Interval | None = None) -> float:
        """Return the timestep of a level, whose index is not that of the schedule."""
        return self.schedule.timestep(sigma)


def start_edit(
    model: LatentDiffusion,
    job: Job,
    initial: InitialState,
    text: TextConditioning,
    batch: slice,
) -> EditTrajectory:
    """Prepare the edits of a batch.

    Args:
        model: The model.
        job: The resolved parameters.
        initial: The method, and the latents of the given image, whose mean is edited.
        text: The encoded prompts.
        batch: The images of the batch among those of the run.
    """
    method = initial.edit
    image = initial.image
    assert method is not None and image is not None
    ops = model.backend
    schedule = job.make_schedule(model.config)
    streams = Streams(job.seeds[batch], model.latent_shape(*job.size), job.rng)
    latents = on_backend(ops, np.repeat(image.mean, len(job.seeds[batch]), axis=0))
    channels: Array | None = None
    if model.config.image_channels:
        channels = make_input_channels(model, job.size)
    return EditTrajectory(
        model=model,
        schedule=schedule,
        visits=method.visits(schedule),
        x=latents,
        image=latents,
        noise=lambda: on_backend(ops, streams()),
        constrain=None,
        conditionings=text.conditionings(batch),
        cfg_scale=job.cfg_scale,
        guidance=job.guidance,
        channels=channels,
        method=method,
        source=text.source_conditionings(batch),
    )
