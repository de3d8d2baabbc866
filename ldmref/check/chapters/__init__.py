"""The identities, a module per chapter of docs/math."""

from ldmref.check.chapters import (
    autoencoders,
    forward,
    guidance,
    latents,
    layers,
    likelihoods,
    objective,
    paths,
    samplers,
    samplers_multistep,
    schedules,
    score,
    score_steps,
)

ALL = (
    schedules,
    forward,
    paths,
    objective,
    likelihoods,
    score,
    score_steps,
    guidance,
    autoencoders,
    latents,
    layers,
    samplers,
    samplers_multistep,
)
