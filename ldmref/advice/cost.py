"""Estimates of memory and time before anything is computed, and the model's limits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ldmref.errors import ResourceError
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.flops import count_decoder_flops, measure_flops_per_second
from ldmref.models.memory import MemoryEstimate, enlarge, estimate_memory
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.modes.cost import Cost
from ldmref.modes.guidance_parameter import count_predictions
from ldmref.modes.job import Job
from ldmref.modes.run import Plan
from ldmref.samplers import Sampler, repaint_visits
from ldmref.samplers.predictions import GUIDE


def estimate(plan: Plan, model: LatentDiffusion) -> Cost:
    """Return an estimate of what a plan takes on a model, without computing it.

    Args:
        plan: The checked request, of one pass or of two.
        model: The model that would generate.

    Returns:
        Those of both passes together; the memory is that of the larger one.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", steps=10, upscale=2)
    >>> estimate(plan, model).evaluations  # ten steps of each pass, of two predictions each
    40
    """
    model = model.with_text_length(plan.job.max_sequence_length)
    each = [estimate_cost(model, job, plan.calls, plan.more_evaluations) for job in plan.passes]
    return Cost(
        sum(cost.evaluations for cost in each),
        sum(cost.flops for cost in each),
        max(cost.memory for cost in each),
        max(cost.least_memory for cost in each),
        sum(cost.seconds for cost in each),
    )


def estimate_cost(
    model: LatentDiffusion, job: Job, calls: int | None = None, more: int = 0
) -> Cost:
    """Estimate the memory and time of a job.

    Args:
        model: The model that generates.
        job: The resolved request.
        calls: Calls of the denoiser per image; None: those of the sampler.
        more: Evaluations per image with another guidance.
    """
    spec = model_spec(model.config)
    images = len(job.seeds)
    if calls is None:
        calls = count_calls(job.sampler, plan_visits(job))
    predictions = count_predictions(job.guidance, job.sampler, job.cfg_scale, calls)
    evaluations = (predictions + more) * images
    of_guide = calls * images if GUIDE in job.guidance.needs(1.0, job.cfg_scale) else 0
    flops = 0
    for config, count in ((model.config, evaluations - of_guide), (guide_of(job), of_guide)):
        if config is not None and count:
            read = enlarge(config, *job.size, count_reference_pixels(model, job))
            flops += count * family_of(config).work.flops(config, *read)
    flops += images * count_decoder_flops(spec, model.config, job.width, job.height)
    needs = estimate_job_memory(model, job, min(job.batch_size, images))
    guide_bytes = count_guide_bytes(model, job)
    least = needs.peak_streamed(model.params.releasable) + guide_bytes
    seconds = flops / measure_flops_per_second(model.backend)
    return Cost(evaluations, flops, needs.peak_resident + guide_bytes, least, seconds)


def estimate_job_memory(model: LatentDiffusion, job: Job, n: int | None = None) -> MemoryEstimate:
    """Return an estimate of the memory of a job, without its weaker model.

    Args:
        model: The model.
        job: The resolved request.
        n: The number of images that are generated together. None: the job's.
    """
    pixels = count_reference_pixels(model, job)
    return model.estimate_memory(*job.size, n or job.batch_size, job.tile, pixels)


def count_reference_pixels(model: LatentDiffusion, job: Job) -> int:
    """Return the pixels of a job's reference images, if the denoiser reads them as tokens."""
    if not any(x.of_references for x in model.denoiser.inputs):
        return 0
    sides = [reference.image.size for reference in job.reference_inputs]
    return sum(width * height for width, height in sides)


def guide_of(job: Job) -> ModelConfig | None:
    """Return the configuration of the weaker model of a job; None if it has none."""
    return None if job.guide is None else job.guide.config


def count_guide_bytes(model: LatentDiffusion, job: Job) -> int:
    """Return the bytes of the weights of a job's weaker model.

    They are those of the networks that read prompts or noise; its autoencoder is never read.
    """
    if job.guide is None or job.guide.source is model:
        return 0
    config = job.guide.config
    networks = family_of(config).networks(config)
    used = {network.params for network in networks if network.numbered or network.reads_tokens}
    spec = {name: shapes for name, shapes in model_spec(config).items() if name in used}
    needs = estimate_memory(spec, config, model.backend, job.size)
    return sum(needs.weights.values())


def plan_visits(job: Job) -> Sequence[int]:
    """Return the indices of the noise levels that a job visits."""
    steps = job.steps - job.first_step
    if job.resample is not None and steps:
        return repaint_visits(steps, *job.resample, first=job.first_step)
    return range(job.first_step, job.steps + 1)


def count_calls(sampler: Sampler, visits: Sequence[int]) -> int:
    """Return the evaluations of a run through these indices.

    After a jump back, multistep methods start anew.

    >>> from ldmref.samplers import get_sampler
    >>> count_calls(get_sampler("pndm"), [0, 1, 2]), count_calls(get_sampler("heun"), [0, 1])
    (3, 2)
    """
    calls = 0
    steps = 0
    first = sampler.start_nfe
    for i, j in pairwise(visits):
        if j < i:
            steps = 0
        else:
            calls += first[steps] if steps < len(first) else sampler.nfe
            steps += 1
    return calls


def out_of_memory(plan: Plan, model: LatentDiffusion) -> ResourceError:
    """Return the error of a plan that needs more memory than there is.

    Args:
        plan: The checked request.
        model: The model that generates.

    Returns:
        The error, which says what the last pass takes.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat")
    >>> out_of_memory(plan, model).code
    'E-MEMORY'
    """
    job = plan.passes[-1]
    needs = estimate_job_memory(model, job).peak_resident
    size = (needs + count_guide_bytes(model, job)) / 1e9
    return ResourceError(
        f"out of memory: the request takes about {size:.1f} GB ({model.backend!r})",
        code="E-MEMORY",
        hint="batch_size=1, tile=512, a smaller size, or load(max_memory=...)",
    )


def check_limits(plan: Plan, model: LatentDiffusion) -> None:
    """Refuse a plan that takes more memory or time than the model may use.

    A second pass is a plan of its own, which is prepared and so refused by itself.

    Args:
        plan: The checked request.
        model: The model that generates.

    Raises:
        ResourceError: It takes more than `model.max_memory` bytes or `model.max_seconds`.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> model.max_seconds = 3600.0
    >>> check_limits(ldmref.modes.plan("txt2img", model, prompt="a cat"), model)
    """
    job = plan.job
    others = count_guide_bytes(model, job), count_reference_pixels(model, job)
    model.limit_memory(*job.size, job.batch_size, job.tile, *others)
    if model.max_seconds is None:
        return
    seconds = estimate_cost(model, job, plan.calls, plan.more_evaluations).seconds
    if seconds > model.max_seconds:
        raise ResourceError(
            f"the request takes at least about {seconds:.3g} s, more than the "
            f"{model.max_seconds:g} s of max_seconds",
            code="E-SECONDS",
            hint="generate fewer or smaller images, or take fewer steps",
        )
