"""The start of a run and of its trajectories: texts, noise, initial state and steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.active_control import ActiveControl
from ldmref.modes.channels import make_input_channels
from ldmref.modes.embeddings import apply_embeddings, texts_given
from ldmref.modes.generate import constrain_known, on_backend
from ldmref.modes.guidance_parameter import texts_read
from ldmref.modes.initial import InitialState, sample_initial
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
from ldmref.samplers.interfaces import (
    Constraint,
)
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
    text = encode_texts(
        model,
        job.prompts,
        job.negative_prompts,
        job.size,
        job.clip_skip,
        job.prompt_options,
        initial.interpolation,
        {*read} - texts_given(job.embeddings),
        initial.prompts,
    )
    if job.embeddings:
        text = apply_embeddings(text, job.embeddings)
    if references is None:
        references = encode_references(model, job.reference_inputs, job.size)
    together = follows_diffusers(job.rng) and not job.embeddings
    longest = {name: getattr(job, parameter) for name, parameter in LONGEST.items()}
    known = {name: tokens for name, tokens in longest.items() if tokens is not None}
    return replace(text, references=references, as_diffusers=together, longest=known)


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
