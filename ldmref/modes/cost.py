"""`Cost`: what a request takes, as `plan.estimate` returns it; `ldmref.advice` computes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """An estimate of what a request takes, made without computing it: `plan.estimate(model)`.

    Args:
        evaluations: Evaluations of the denoiser, summed over the images: per step and stage as
            many as the guidance needs (two with classifier-free guidance). A sampler that divides
            its steps takes more.
        flops: Floating-point operations of denoiser and decoder, for all images.
        memory: Peak memory in bytes, with all networks in memory.
        least_memory: The same with only one block of a network in memory at a time, as the request
            runs if the machine has no more, or with a small `max_memory`.
        seconds: A lower bound: `flops` at the speed of a large convolution on the model's backend.
            Small images, reading weights, compiling and a busy machine take a multiple of it.

    >>> import ldmref
    >>> model = ldmref.random_model("tiny")
    >>> plan = ldmref.modes.plan("txt2img", model, prompt="a cat", steps=10, cfg_scale=5.0)
    >>> plan.estimate(model).evaluations  # ten steps of two predictions
    20
    """

    evaluations: int
    flops: int
    memory: int
    least_memory: int
    seconds: float
