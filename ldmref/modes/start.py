"""The start of a run and of its trajectories: texts, noise, initial state and steps.

The order in which noise is sampled belongs to the meaning of a seed: `rng="torch"` gives diffusers'
image only if every array is sampled when diffusers' pipelines sample it. docs/random.md lists their
orders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl
from ldmref.modes.channels import make_input_channels
from ldmref.modes.embeddings import apply_embeddings, texts_given
from ldmref.modes.generate import on_backend
from ldmref.modes.guidance_parameter import texts_read
from ldmref.modes.initial import InitialState, MaskedImage, Posterior
from ldmref.modes.job import Job
from ldmref.modes.references import encode_references
from ldmref.modes.text import LONGEST, TextConditioning, encode_texts
from ldmref.modes.trajectory import Trajectory
from ldmref.samplers import (
    Schedule,
    Step,
    configured_step,
    repaint_visits,
)
from ldmref.samplers.interfaces import Constraint, Interval
from ldmref.samplers.noise import Streams, follows_diffusers


def encode_job(
    model: LatentDiffusion,
    job: Job,
    initial: InitialState,
    read: Collection[str] | None = None,
    references: Mapping[str, Array] | None = None,
) -> TextConditioning:
    """Encode the prompts and the reference images that a job reads with the encoders of a model.

    Embeddings of the job stand for the prompts that they replace, which are not encoded.

    Args:
        model: The model that generates, or its guide.
        job: The resolved parameters.
        initial: The initial state of the mode, for a second prompt and that of the given image.
        read: The texts to encode, of `cond`, `uncond` and `empty`. None: those that the job reads.
        references: The encoded reference images. None: they are encoded here.
    """
    if read is None:
        read = texts_read(job.guidance, job.sampler, job.cfg_scale, *initial.scales)
    if job.embeddings:
        read = {*read} - texts_given(job.embeddings)
    text = encode_texts(
        model,
        job.prompts,
        job.negative_prompts,
        job.size,
        job.clip_skip,
        job.prompt_options,
        initial.interpolation,
        read,
        initial.prompts,
    )
    if job.embeddings:
        text = apply_embeddings(text, job.embeddings)
    if references is None and job.reference_inputs:
        references = encode_references(model, job.reference_inputs, job.size)
    together = follows_diffusers(job.rng) and not job.embeddings
    longest = {name: getattr(job, parameter) for name, parameter in LONGEST.items()}
    known = {name: tokens for name, tokens in longest.items() if tokens is not None}
    return replace(text, references=references or {}, as_diffusers=together, longest=known)


def start_trajectory(
    model: LatentDiffusion,
    job: Job,
    initial: InitialState,
    conditionings: Mapping[str, Conditioning],
    controls: Sequence[ActiveControl],
    batch: slice,
) -> Trajectory:
    """Prepare the sampling of a batch: its noise, its initial state and its steps.

    Args:
        model: The model.
        job: The resolved parameters.
        initial: The initial state of the mode.
        conditionings: By the name of the prediction, for the images of the batch.
        controls: ControlNets.
        batch: The images of the batch among those of the run.
    """
    ops = model.backend
    schedule = job.make_schedule(model.config)
    sigmas = schedule.sigmas.tolist()
    streams = Streams(job.seeds[batch], model.latent_shape(*job.size), job.rng)
    if follows_diffusers(job.rng):
        controls = [control.with_sampled_hint(streams) for control in controls]
    noise, image, masked, control = sample_initial(job, initial, streams, batch)

    constrain = None
    if initial.keep is not None and image is not None:
        constrain = constrain_known(ops, initial.keep, image, noise)
    step, visits = choose_step(model, job, schedule, constrain)

    if image is None or initial.from_noise:
        x = noise * schedule.init_noise_sigma
    else:
        x = schedule.path.noised(image, noise, sigmas[visits[0]])
    channels = None
    if model.config.image_channels:
        images = initial.channels if control is None else control
        channels = make_input_channels(model, job.size, images, masked)
    levels = sorted(set(visits))
    return Trajectory(
        model=model,
        schedule=schedule,
        step=step,
        visits=visits,
        x=on_backend(ops, x),
        noise=lambda: on_backend(ops, streams()),
        constrain=constrain,
        conditionings=conditionings,
        cfg_scale=job.cfg_scale,
        guidance=job.guidance,
        controls=[control.within(levels) for control in controls],
        channels=channels,
    )


class InitialLatents(NamedTuple):
    """The arrays before the first step.

    Args:
        noise: (n, c, h, w).
        image, masked, control: Latents of the given image, of the masked image and of the control
            image, (n or 1, c, h, w).
    """

    noise: np.ndarray
    image: np.ndarray | None = None
    masked: np.ndarray | None = None
    control: np.ndarray | None = None


def sample_initial(
    job: Job, initial: InitialState, streams: Streams, batch: slice
) -> InitialLatents:
    """Return the initial noise of a batch, and the latents of the given image.

    With `rng="torch"`, the order is that of diffusers: a sample of the control image's posterior, a
    sample of the image's posterior (except for an inpainting U-Net that starts from pure noise, and
    Flux.1 [Fill] that starts from given latents), the noise, and for inpainting a sample of the
    masked image's posterior, which advances the stream even if the U-Net has no channels for it.
    Otherwise, and where the pipelines of a family take the mean, only the noise is sampled, and
    latents are the mean of the posterior.

    Args:
        job: The resolved job.
        initial: The initial state of the mode.
        streams: Noise, one stream per image of the batch.
        batch: The images of the batch among those of the run.
    """
    as_diffusers = follows_diffusers(job.rng)

    def sample_posterior(posterior: Posterior | None) -> np.ndarray | None:
        if posterior is None:
            return None
        if not as_diffusers or not posterior.sampled:
            return posterior.mean
        return posterior.mean + posterior.std * streams()

    channels = initial.channels if isinstance(initial.channels, MaskedImage) else None
    masked_image = None if channels is None else channels.image
    unseen = (
        as_diffusers
        and channels is not None
        and initial.from_noise
        and not (channels.draws_image and initial.noise is None)
    )
    control = sample_posterior(initial.control)
    image = initial.latents if unseen or initial.image is None else sample_posterior(initial.image)
    noise = streams() if initial.noise is None else initial.noise[batch]
    masked = sample_posterior(masked_image)
    if as_diffusers and job.mode == "inpaint" and masked_image is None:
        sample_posterior(initial.image)
    if image is not None and initial.noise_fill is not None:
        image = (1.0 - initial.noise_fill) * image + initial.noise_fill * noise
    return InitialLatents(noise, image, masked, control)


def constrain_known(
    ops: Backend, keep: np.ndarray, image: np.ndarray, noise: np.ndarray
) -> Constraint:
    """Return the constraint that keeps the latents of `image` where `keep` is 1.

    They are put back at the sampler's noise level with one fixed noise, and at the last level
    without noise, whatever noise the schedule leaves.

    Source: Lugmayr et al. 2022, arXiv:2201.09865, eq. 8, with a fixed noise.
    """
    known, eps, kept = (on_backend(ops, x) for x in (image, noise, keep))

    def constrain(x: Array, interval: Interval) -> Array:
        sigma = interval.sigma_next
        path = interval.path
        clean = interval.i_next == interval.n
        there = known * path.spread(sigma) if clean else path.noised(known, eps, sigma)
        return (1.0 - kept) * x + kept * there

    return constrain


def choose_step(
    model: LatentDiffusion,
    job: Job,
    schedule: Schedule,
    constrain: Constraint | None,
    first_step: int | None = None,
) -> tuple[Step, Sequence[int]]:
    """Return the step of a job's sampler, and the indices into the sigmas that it visits.

    `first_step` is the number of steps that are skipped; None: the job's.
    """
    first = job.first_step if first_step is None else first_step
    step, visits = configured_step(
        model.config.scheduler,
        job.sampler,
        schedule,
        eta=job.eta,
        first_step=first,
        constrain=constrain,
        bug_compatible=follows_diffusers(job.rng) and job.resample is None,
    )
    if job.resample is not None:
        visits = repaint_visits(len(visits) - 1, *job.resample, first=first)
    return step, visits
