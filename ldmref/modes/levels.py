"""The level at which a run begins: with pure noise, or with the image and noise of that level."""

from __future__ import annotations

from ldmref.models.config import ModelConfig
from ldmref.modes.job import Job, takes_all_steps
from ldmref.samplers.path import PATHS
from ldmref.samplers.schedule import sampling_sigmas

NEARLY = 0.99  # of the model's largest level, which people round: 14.6 of 14.6146


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
    return own.level(first_ratio(config, job)) < NEARLY * largest


def first_ratio(config: ModelConfig, job: Job) -> float:
    """Return the ratio of noise to data at the first of the given levels."""
    assert job.sigmas is not None
    path = config.scheduler.path if job.noise_path is None else PATHS[job.noise_path]
    return path.ratio(float(job.sigmas[0]))
