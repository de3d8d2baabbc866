"""The runs whose arrays are changed one by one: of ldmref, without other libraries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.trace import Selection, Trace, read_trace, record_trace

PIXELS = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
PHOTO = Image.fromarray(PIXELS)
MASK = np.zeros((16, 16), bool)
MASK[4:12, 4:] = True
Recorded = tuple[Trace, Any, tuple[ControlNet, ...]]
model_of = cache(partial(ldmref.random_model, seed=1))


def record(
    mode: str = "txt2img", model: str = "tiny", nets: tuple[ControlNet, ...] = (), **request: Any
) -> Recorded:
    """Return a run of a mode with its model and its ControlNets."""
    values = {"prompt": "a red cat", "steps": 2, "cfg_scale": 4.0} | request
    if mode != "invert":
        values["seed"] = 1
    found = model_of(model)
    plan = modes.plan(mode, found, **values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        exact = found.with_backend(found.backend)
        selection = Selection(layers=("constrain",), optional=True)
        record_trace(plan, exact, path, selection=selection)
        trace = read_trace(path)
        return (
            replace(trace, tensors={k: np.array(x) for k, x in trace.tensors.items()}),
            found,
            nets,
        )


def controlled() -> Recorded:
    """Return a run with two ControlNets of different weights."""
    model = model_of("tiny")
    config = ControlNetConfig(model.config.unet, conditioning_embedding_out_channels=(4, 8))
    nets = tuple(
        ControlNet(model.backend, config, init(controlnet_spec(config), seed), "edges")
        for seed in (3, 4)
    )
    controls = [
        modes.Control(net, PHOTO.rotate(90 * i), weight=1.0 - 0.5 * i) for i, net in enumerate(nets)
    ]
    return record(nets=nets, control=controls)


# Kinds of calls whose first arrays are changed in more ways; a prefix.
KINDS: dict[str, tuple[str, ...]] = {
    "noise": ("schedule", "sampler"),
    "two-evaluations": ("sampler",),
    "four-evaluations": ("sampler",),
    "two-prompts": ("unet",),
    "from-an-image": ("initial", "add_noise"),
    "repainted": ("mask", "sampler", "constrain"),
    "inverted": ("sampler",),
    "inverted-again": ("sampler",),
    "controlled": ("controlnet",),
    "sd3": ("schedule", "vae"),
    "flux": ("schedule",),
    "flux2, two references": ("vae",),
    "z-image": ("transformer",),
}
RUNS: dict[str, Callable[[], Recorded]] = {
    "noise": partial(record, sampler="ddim", eta=1.0),
    "two-evaluations": partial(record, sampler="heun"),
    "multistep": partial(record, sampler="dpmpp_2m", steps=3),
    "four-evaluations": partial(record, sampler="pndm"),
    "two-prompts": partial(record, prompt=["a cat", "dog"], negative_prompt=["x", "y"]),
    "without-guidance": partial(record, cfg_scale=1.0),
    "from-an-image": partial(record, "img2img", image=PHOTO),
    "repainted": partial(record, "inpaint", image=PHOTO, mask=MASK),
    "repainted-again": partial(record, "inpaint", image=PHOTO, mask=MASK, resample=(2, 2)),
    "inverted": partial(record, "invert", image=PHOTO, iterations=0),
    "inverted-again": partial(record, "invert", image=PHOTO, iterations=2),
    "controlled": controlled,
    "sd3": partial(record, model="sd3-tiny"),
    "flux": partial(record, model="flux-tiny"),
    "flux2, two references": partial(
        record, model="flux2-tiny", references=[PHOTO, PHOTO.rotate(90)]
    ),
    "flux3, a reference": partial(record, model="flux3-tiny", references=[PHOTO]),
    "z-image": partial(record, model="z-image-tiny"),
    "krea-2": partial(record, model="krea-2-tiny"),
    "qwen-image-2.1": partial(record, model="qwen-image-2.1-tiny"),
}
