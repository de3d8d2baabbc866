"""Flow maps of batches of images."""

from __future__ import annotations

from ldmref.check.batches import NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter

chapter = Chapter("flow_maps")
image = NormalImages()
time = PerExample(0.5, 0.95)
next_time = PerExample(0.05, 0.45)

# Roundings: 3 of each term, twice.
batch_law(
    chapter, "flow_map_step", 12, size=8.0, xt=image, average_velocity=image, t=time, r=next_time
)
batch_law(
    chapter, "mean_flow_target", 12, size=8.0, velocity=image, derivative=image, t=time, r=next_time
)
batch_law(chapter, "shortcut_target", 12, first=image, second=image, share=PerExample(0.1, 0.9))
# Roundings: 12 of each term up to 8, twice.
batch_law(
    chapter,
    "flow_map_renoise_step",
    48,
    size=8.0,
    xt=image,
    average_velocity=image,
    noise=image,
    t=time,
    r=next_time,
    eta=PerExample(0.2, 1.0),
)
for function in ("gaussian_flow_map", "gaussian_average_velocity"):
    batch_law(
        chapter, function, 48, size=16.0, xt=image, t=time, r=next_time, mean=0.5, variance=2.0
    )
batch_law(chapter, "trigflow_step", 24, xt=image, velocity=image, t=time, r=next_time)
batch_law(
    chapter,
    "trigflow_renoise_step",
    24,
    xt=image,
    velocity=image,
    noise=image,
    t=time,
    r=next_time,
)
# Roundings: 4 of each term up to 4, divided by a sine of at least 0.05, twice.
batch_law(
    chapter, "trigflow_average_velocity", 8, size=96.0, xt=image, xr=image, t=time, r=next_time
)
batch_law(chapter, "trigflow_velocity", 24, xs=image, velocity=image, s=time)
