"""Stochastic steps of batches of images."""

from __future__ import annotations

from ldmref.check.batches import NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter

chapter = Chapter("flow_sde")
image = NormalImages()
time = PerExample(0.5, 0.9)
next_time = PerExample(0.3, 0.4)
std = PerExample(0.1, 0.25)

# Roundings: 8 of each term up to 8, twice.
batch_law(
    chapter,
    "flow_sde_transition",
    40,
    size=16.0,
    xs=image,
    velocity=image,
    s=time,
    s_next=next_time,
    diffusion=PerExample(0.2, 1.0),
)
batch_law(
    chapter,
    "flow_renoise_transition",
    40,
    size=16.0,
    xs=image,
    velocity=image,
    s=time,
    s_next=next_time,
    std=std,
)
batch_law(
    chapter, "gaussian_flow_velocity", 40, size=16.0, xs=image, s=time, mean=0.5, variance=2.0
)
# Roundings: 10 of each of 16 terms up to 100, twice.
wide = PerExample(0.5, 1.5)
batch_law(chapter, "transition_log_density", 64, size=200.0, x_next=image, mean=image, std=wide)
batch_law(
    chapter,
    "transition_kl",
    64,
    size=200.0,
    mean=image,
    std=wide,
    other_mean=image,
    other_std=wide,
)
