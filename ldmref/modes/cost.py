"""What a request costs, estimated before anything is drawn, and the model's limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from ldmref.errors import LdmrefError, ResourceError
from ldmref.models.flops import count_decoder_flops, count_unet_flops, measure_flops_per_second
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.modes.request import Request
from ldmref.samplers import Sampler, repaint_visits

Event = TypeVar("Event")


@dataclass(frozen=True)
class Cost:
    """An estimate.

    evaluations: of the U-Net, counted per image; with guidance, twice per step and stage. Of a
        sampler that divides its steps, at least.
    flops: floating-point operations of U-Net and decoder, for all images.
    memory: bytes at the peak, with all networks in memory.
    seconds: a lower bound, `flops` at the speed of a large convolution on the model's backend.
        Small images, reading weights, compiling and a busy machine take a multiple of it.
    """

    evaluations: int
    flops: int
    memory: int
    seconds: float


def cost(model: LatentDiffusion, request: Request) -> Cost:
    """Estimate a request."""
    r = request
    spec = model_spec(model.config)
    images = len(request.seeds)
    steps = r.steps - r.first_step
    visits: Sequence[int] = range(r.first_step, r.steps + 1)
    if r.resample is not None and steps:
        visits = repaint_visits(steps, *r.resample, first=r.first_step)
    calls = denoiser_calls(r.sampler, visits)
    if r.mode == "invert":
        calls = steps * (1 + r.values["iterations"])
    guided = 1 if r.cfg_scale in (0.0, 1.0) else 2
    evaluations = calls * guided * images
    flops = evaluations * count_unet_flops(spec, model.config, r.width, r.height)
    flops += images * count_decoder_flops(spec, model.config, r.width, r.height)
    memory = model.estimate_memory(
        r.width, r.height, min(r.batch_size, images), r.tile
    ).peak_resident
    return Cost(evaluations, flops, memory, flops / measure_flops_per_second(model.backend))


def denoiser_calls(sampler: Sampler, visits: Sequence[int]) -> int:
    """Evaluations of a run through these indices; after a jump back, multistep methods start anew.

    >>> from ldmref.samplers import get_sampler
    >>> denoiser_calls(get_sampler("pndm"), [0, 1, 2]), denoiser_calls(get_sampler("heun"), [0, 1])
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an array library ran out of memory; each says so in its own words."""
    if isinstance(error, LdmrefError):
        return False
    words = ("can't allocate memory", "out of memory")
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or any(text in str(error) for text in words)


def explain_memory(
    events: Iterator[Event], model: LatentDiffusion, request: Request
) -> Iterator[Event]:
    """Pass events on; an array library that runs out of memory becomes a `ResourceError`."""
    try:
        yield from events
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(model, request) from error
        raise


def out_of_memory(model: LatentDiffusion, request: Request) -> ResourceError:
    """The error of a request for which the memory did not suffice."""
    r = request
    size = model.estimate_memory(r.width, r.height, r.batch_size, r.tile).peak_resident / 1e9
    return ResourceError(
        f"out of memory: the request takes about {size:.1f} GB ({model.backend!r})",
        code="E-MEMORY",
        hint="batch_size=1, tile=512, a smaller size, or load(max_memory=...)",
    )


def check_limits(model: LatentDiffusion, request: Request) -> None:
    """Refuse what takes more memory or time than the model may.

    Raises:
        ResourceError: more than `model.max_memory` bytes, or than `model.max_seconds`.
    """
    model.limit_memory(request.width, request.height, request.batch_size, request.tile)
    if model.max_seconds is None:
        return
    seconds = cost(model, request).seconds
    if seconds > model.max_seconds:
        raise ResourceError(
            f"the request takes at least about {seconds:.3g} s, more than the "
            f"{model.max_seconds:g} s of max_seconds",
            code="E-SECONDS",
            hint="draw fewer or smaller images, or take fewer steps",
        )
