"""The level at which a run begins: with pure noise, or with the image and noise of that level."""

from __future__ import annotations

from collections.abc import Iterator

from ldmref.models.config import ModelConfig
from ldmref.modes.job import Job, takes_all_steps
from ldmref.samplers.path import PATHS
from ldmref.samplers.schedule import sampling_sigmas

NEARLY = 0.99  # of the model's largest level, which people round: 14.6 of 14.6146
SHARE = 0.2  # of the data in a state, from which pure noise is no such state
ROUNDED = 0.05 + 1e-9  # of a strength: half a step of 10, or a whole one of 20


def begins_with_noise(config: ModelConfig, job: Job) -> bool:
    """Return whether a run from an image begins with pure noise, which ignores the image.

    It does if it takes all steps from a strength of 1 on. With given levels that begin below the
    model's largest, a state is the image with noise of the first level, as at any other strength.
    """
    if job.first_step:
        return False
    if job.strength is not None and takes_all_steps(config, job.strength, job.sigmas):
        return job.strength == 1.0
    return not begins_low(config, job)


def begins_low(config: ModelConfig, job: Job) -> bool:
    """Return whether given levels begin below the model's largest, by more than it is rounded."""
    if job.sigmas is None:
        return False
    own = config.scheduler.path
    largest = own.level(float(sampling_sigmas(config.scheduler)[-1]))
    return own.level(_first_ratio(config, job)) < NEARLY * largest


def note_levels(config: ModelConfig, job: Job) -> Iterator[str]:
    """Yield a line if given levels begin so low that the image, or its lack, shows."""
    if job.sigmas is None or job.first_step or not begins_low(config, job):
        return
    own = config.scheduler.path
    largest = own.level(float(sampling_sigmas(config.scheduler)[-1]))
    first = own.level(_first_ratio(config, job))
    begin = f"sigmas begin at {job.sigmas[0]:g}, far below the model's {largest:.4g}"
    if own.alpha(first) / own.spread(first) <= SHARE:
        return
    if job.strength is not None:
        yield f"{begin}: the image shows through, also at strength {job.strength:g}"
    elif job.latents is None:
        other = ", or take img2img" if job.mode == "txt2img" else ""
        yield f"{begin}, where pure noise has no image to uncover: begin higher{other}"


def note_strength(config: ModelConfig, job: Job) -> Iterator[str]:
    """Yield a line if whole steps are far from the strength that was asked for."""
    if not job.strength or takes_all_steps(config, job.strength, job.sigmas):
        return
    taken = job.steps - job.first_step
    if abs(taken / job.steps - job.strength) > ROUNDED:
        yield (
            f"strength {job.strength:g} of {job.steps} steps is rounded to {taken}, as strength "
            f"{taken / job.steps:.3g} is; with more steps it is nearer"
        )


def _first_ratio(config: ModelConfig, job: Job) -> float:
    assert job.sigmas is not None
    path = config.scheduler.path if job.noise_path is None else PATHS[job.noise_path]
    return path.ratio(float(job.sigmas[0]))
