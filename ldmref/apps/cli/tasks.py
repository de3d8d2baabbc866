"""Tasks of a command: a plan for each input image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref import modes
from ldmref.apps.cli.console import Console
from ldmref.apps.cli.options import SOURCES, is_set, listed
from ldmref.apps.cli.output import check_noise_file, write_noise
from ldmref.apps.cli.progress import Stop
from ldmref.apps.cli.sources import STDIN, resolve_image_source
from ldmref.apps.foreign import read_foreign
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.registry import MODES
from ldmref.modes.run import Plan
from ldmref.modes.validation import MAX_COUNT, assign_seeds

Values = dict[str, Any]
WITHOUT_PROMPT = ("superres", "seg2img")
ONE_PROMPT = {
    "interpolate": "--to TEXT is the last prompt",
    "invert": "--edit TEXT is the prompt to generate from the noise, and may be repeated",
}


@dataclass(frozen=True)
class Task:
    """The images to generate from one input image, or without an input image.

    Args:
        plan: Plan of the images. If `finish` is not None, the plan has no noise yet.
        labels: Label of each image, for the name of its file.
        finish: Function that completes the plan with the model, for inversions.
    """

    plan: Plan
    labels: Sequence[str]
    finish: Callable[[LatentDiffusion, Console, Stop], Plan] | None = None


def plan_tasks(mode: str, config: ModelConfig, flags: Values) -> list[Task]:
    """Return a task for each input image.

    Image i of the command has seed + i; a list of seeds is divided among the input images.

    Raises:
        UsageError: A flag that the mode takes once was repeated, or numbers of values do not match.
    """
    flags = read_flags(config, flags)
    inputs = pair_inputs(flags)
    if len(inputs) == 1:
        return [plan_task(mode, config, flags | inputs[0])]
    if flags.get("noise") or flags.get("latents") is not None:
        flag = "--noise" if flags.get("noise") else "--latents"
        raise UsageError(
            f"{flag} needs one input image, not {len(inputs)}", code="E-USAGE", hint="give one -i"
        )
    seeded = "seed" in MODES[mode].parameters
    seeds = split_seeds(flags.get("seed"), len(inputs)) if seeded else None
    tasks: list[Task] = []
    for sources in inputs:
        own = {} if seeds is None else {"seed": seeds}
        if isinstance(seeds, list):
            n = len(seeds) // len(inputs)
            own = {"seed": seeds[len(tasks) * n : (len(tasks) + 1) * n]}
        task = plan_task(mode, config, flags | sources | own)
        if isinstance(seeds, int):
            seeds = (seeds + len(task.labels)) % 2**64
        stem = "" if mode in WITHOUT_PROMPT else f"{_stem(next(iter(sources.values())))} "
        tasks.append(replace(task, labels=[stem + label for label in task.labels]))
    if sum(len(task.labels) for task in tasks) > MAX_COUNT:
        raise UsageError(f"a command generates at most {MAX_COUNT} images", code="E-COUNT")
    return tasks


def read_flags(config: ModelConfig, flags: Values) -> Values:
    """Return flags in the terms of a model, with a list of what was given, once or several times.

    Raises:
        UsageError: A value of another program has no meaning for this model.
    """
    read = read_foreign(config, flags)
    repeated = [name for name in (*SOURCES, "prompt", "edits") if is_set(read.get(name))]
    return read | {name: listed(read[name]) for name in repeated}


def split_seeds(seed: Any, inputs: int) -> int | list[int]:
    """Return the first seed of all images (random if none was given), or the list of all seeds.

    Raises:
        UsageError: The list cannot be divided evenly among the input images.
    """
    if not isinstance(seed, list):
        return assign_seeds(None, 1)[0] if seed in (None, -1) else seed
    if len(seed) % inputs:
        raise UsageError(
            f"{len(seed)} seeds for {inputs} input images",
            code="E-SEED",
            hint="give the same number for each image, or one seed for all: image i has seed + i",
        )
    return seed


def pair_inputs(flags: Values) -> list[Values]:
    """Return the file of each input image and of its mask, by parameter; [{}] if there are none.

    Raises:
        UsageError: The number of masks is neither one nor the number of images.
    """
    files = {name: flags[name] for name in SOURCES if is_set(flags.get(name))}
    most = max(map(len, files.values()), default=1)
    for name, paths in files.items():
        if len(paths) not in (1, most):
            raise UsageError(
                f"--{name} has {len(paths)} files, the other input has {most}",
                code="E-USAGE",
                hint="give one for all, or one for each",
            )
    if len(files.get("image", ())) == 1 < most:
        raise UsageError(f"{most} masks for one image", code="E-USAGE", hint="give one --mask")
    return [{name: paths[i % len(paths)] for name, paths in files.items()} for i in range(most)]


def plan_task(mode: str, config: ModelConfig, flags: Values) -> Task:
    """Plan the images of one input image, or of none, and label them."""
    takes = MODES[mode].parameters
    values = {name: flags[name] for name in takes if is_set(flags.get(name))}
    sources = {name: values[name] for name in SOURCES if name in values}
    values |= {name: resolve_image_source(path) for name, path in sources.items()}
    prompts = flags["prompt"]
    if mode in ONE_PROMPT:
        if len(prompts) > 1:
            raise UsageError(
                f"{mode} takes one prompt, not {len(prompts)}",
                code="E-USAGE",
                hint=ONE_PROMPT[mode],
            )
        values["prompt"] = prompts[0]
    if mode == "invert" and "edits" in flags:
        return _invert(config, values, flags)
    if mode == "interpolate":
        return _interpolate(config, values, flags)
    if mode in WITHOUT_PROMPT:
        [path] = sources.values()
        plan = modes.plan(mode, config, **values)
        label = mode if path == STDIN else f"{_stem(path)} {mode}"
        return Task(plan, [label] * len(plan.job.seeds))
    if "prompt" in values:
        values["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    plan = modes.plan(mode, config, **values)
    return Task(plan, plan.job.prompts)


def _stem(path: str) -> str:
    """Return the name of a file without folder and ending."""
    return "stdin" if path == STDIN else Path(path).stem


def _interpolate(config: ModelConfig, values: Values, flags: Values) -> Task:
    """Plan images between two prompts, or between two noises."""
    first = values["prompt"]
    last = first if flags["to"] is None else flags["to"]
    values["prompt_b"] = last
    values.setdefault("positions", flags["frames"])
    plan = modes.plan("interpolate", config, **values)
    label = first if last == first else f"{first} to {last}"
    return Task(plan, [label] * len(plan.job.seeds))


def _invert(config: ModelConfig, values: Values, flags: Values) -> Task:
    """Plan the inversion of an image, and the images to generate from its noise."""
    edits = flags["edits"] or flags["prompt"]
    up = modes.plan("invert", config, **values | {"cfg_scale": None})
    down = up.settings | {
        "prompt": edits,
        "seed": [0] * len(edits),  # not used: the noise comes from the image
        "cfg_scale": values.get("cfg_scale", 1.0),
        "batch_size": flags["batch_size"] or 1,
        "tile": flags["tile"],
    }
    request = up.request
    inverted = {"prompt": request.prompt, "cfg_scale": 1.0, "iterations": request.iterations}
    recorded = {"mode": "invert", "resize": request.resize, "inverted": inverted}
    if flags["noise"]:
        check_noise_file(flags["noise"], flags["overwrite"])

    def redraw(latents: np.ndarray | None) -> Plan:
        plan = modes.plan("txt2img", config, **down, latents=latents)
        return replace(plan, recorded=recorded, warnings=up.warnings)

    def finish(model: LatentDiffusion, console: Console, stop: Stop) -> Plan:
        inversion = up.run(model, console.step_up, stop)
        if flags["noise"]:
            write_noise(flags["noise"], inversion.latents, flags["overwrite"])
        return redraw(np.repeat(inversion.latents, len(edits), axis=0))

    return Task(redraw(None), edits, finish)
