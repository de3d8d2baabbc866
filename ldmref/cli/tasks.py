"""From the flags of a command line to plans: one for each input image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref import modes
from ldmref.cli.console import Console
from ldmref.cli.options import SOURCES, is_set, listed
from ldmref.cli.output import check_noise_file, write_noise
from ldmref.cli.progress import Stop
from ldmref.cli.sources import STDIN, image_source
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import AnyPlan, Plan
from ldmref.modes.registry import MODES
from ldmref.modes.validation import MAX_COUNT, assign_seeds

Values = dict[str, Any]
WITHOUT_PROMPT = ("superres", "seg2img")
ONE_PROMPT = {
    "interpolate": "--to TEXT is the last prompt",
    "invert": "--edit TEXT is what to generate from its noise, and may be repeated",
}


@dataclass(frozen=True)
class Task:
    """What one input image, or none, becomes.

    Args:
        plan: of the images; without noise, if `finish` completes it with the model.
        labels: of the files' names, one for each image.
        finish: see `plan`.
    """

    plan: AnyPlan
    labels: Sequence[str]
    finish: Callable[[LatentDiffusion, Console, Stop], Plan] | None = None


def plan_tasks(mode: str, config: ModelConfig, flags: Values) -> list[Task]:
    """A task for each input image. Image i of all has seed + i; a list of seeds is shared out.

    Raises:
        UsageError: several of what the mode takes once, or numbers that do not fit together.
    """
    inputs = inputs_of(flags)
    if len(inputs) == 1:
        return [plan_task(mode, config, flags | inputs[0])]
    if flags.get("noise") or flags.get("latents") is not None:
        flag = "--noise" if flags.get("noise") else "--latents"
        raise UsageError(
            f"{flag} belongs to one image, not to {len(inputs)}", code="E-USAGE", hint="give one -i"
        )
    seeded = "seed" in MODES[mode].parameters
    seeds = shared_seeds(flags.get("seed"), len(inputs)) if seeded else None
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


def shared_seeds(seed: Any, inputs: int) -> int | list[int]:
    """The first seed of all images, random if there is none, or the list of their seeds.

    Raises:
        UsageError: the list cannot be shared out.
    """
    if not isinstance(seed, list):
        return assign_seeds(None, 1)[0] if seed in (None, -1) else seed
    if len(seed) % inputs:
        raise UsageError(
            f"{len(seed)} seeds for {inputs} input images",
            code="E-SEED",
            hint="give as many for each, or one for all: image i has seed + i",
        )
    return seed


def inputs_of(flags: Values) -> list[Values]:
    """For each input image, its file and that of its mask, by parameter; [{}] without any.

    Raises:
        UsageError: the number of masks is neither one nor that of the images.
    """
    files = {name: listed(flags.get(name)) for name in SOURCES}
    files = {name: paths for name, paths in files.items() if paths}
    most = max(map(len, files.values()), default=1)
    for name, paths in files.items():
        if len(paths) not in (1, most):
            raise UsageError(
                f"{len(paths)} files for --{name}, {most} for the other input",
                code="E-USAGE",
                hint="give one for all, or one for each",
            )
    if len(files.get("image", ())) == 1 < most:
        raise UsageError(f"{most} masks for one image", code="E-USAGE", hint="give one --mask")
    return [{name: paths[i % len(paths)] for name, paths in files.items()} for i in range(most)]


def plan_task(mode: str, config: ModelConfig, flags: Values) -> Task:
    """The plan for one input image, or none, and the labels of its files."""
    takes = MODES[mode].parameters
    values = {name: flags[name] for name in takes if is_set(flags.get(name))}
    sources = {name: values[name] for name in SOURCES if name in values}
    values |= {name: image_source(path) for name, path in sources.items()}
    prompts = listed(flags["prompt"])
    if mode in ONE_PROMPT:
        if len(prompts) > 1:
            raise UsageError(
                f"{mode} takes one prompt, not {len(prompts)}",
                code="E-USAGE",
                hint=ONE_PROMPT[mode],
            )
        values["prompt"] = prompts[0]
    if mode == "invert":
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
    """The name of a file without folder and ending."""
    return "stdin" if path == STDIN else Path(path).stem


def _interpolate(config: ModelConfig, values: Values, flags: Values) -> Task:
    """From one prompt to another, or from one noise to another."""
    first = values["prompt"]
    last = first if flags["to"] is None else flags["to"]
    values["prompt_b"] = last
    values.setdefault("positions", flags["frames"])
    plan = modes.plan("interpolate", config, **values)
    label = first if last == first else f"{first} to {last}"
    return Task(plan, [label] * len(plan.job.seeds))


def _invert(config: ModelConfig, values: Values, flags: Values) -> Task:
    """Up from the image to its noise, then down again with other words."""
    edits = list(flags["edits"]) or listed(flags["prompt"])
    up = modes.plan("invert", config, **values | {"cfg_scale": None})
    down = up.settings | {
        "prompt": edits,
        "seed": [0] * len(edits),  # from which nothing is generated
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
