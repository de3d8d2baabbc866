"""The identities: one module for each page of docs/math, or several with its name as prefix."""

from ldmref.check.chapters import (
    autoencoders,
    autoencoders_latents,
    forward,
    forward_flow,
    guidance,
    layers,
    objective,
    samplers,
    samplers_multistep,
    schedules,
    score,
    score_steps,
)

CHAPTERS = tuple(
    module.chapter
    for module in (
        schedules,
        forward,
        forward_flow,
        objective,
        score,
        score_steps,
        guidance,
        autoencoders,
        autoencoders_latents,
        layers,
        samplers,
        samplers_multistep,
    )
)
