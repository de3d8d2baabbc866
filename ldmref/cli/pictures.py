"""The commands that draw: one for each mode.

Everything that can be wrong is checked before anything is loaded: settings, the model's
configuration, every parameter, the source pictures, the output; then the backend, then the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from ldmref import modes
from ldmref.cli.console import Console
from ldmref.cli.options import (
    FILES,
    INTERPOLATING,
    INVERTING,
    MODEL,
    PROMPT,
    Drawing,
    is_set,
    parameter_option,
    parameter_options,
    with_options,
)
from ldmref.cli.output import Output, check_noise_file, write_noise
from ldmref.cli.progress import Stop, stopping
from ldmref.cli.settings import naming_settings, with_settings
from ldmref.cli.sources import STDIN, picture_source, read_prompt
from ldmref.cli.streams import check_stdout
from ldmref.config import LIMIT_KEYS, settings
from ldmref.errors import LdmrefError, UsageError
from ldmref.io.locate import find_model, model_config
from ldmref.loading import configured_backend, load
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.plan import AnyPlan, Plan
from ldmref.modes.registry import MODES

Values = dict[str, Any]
SOURCES = ("image", "mask", "segmentation")
WITHOUT_PROMPT = ("superres", "seg2img")
OWN_OPTIONS = {
    "invert": INVERTING,
    "interpolate": (
        *INTERPOLATING, parameter_option(replace(MODES["interpolate"].parameters["positions"],
                                                 flags=None, help="Positions in [0, 1] instead.")),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What one command line draws: `plan`; `label` names its files; `finish` completes the plan
    with the model."""

    plan: AnyPlan
    label: str
    finish: Callable[[LatentDiffusion, Console, Stop], Plan] | None = None


def command(mode: str) -> click.Command:
    """The command of a mode."""
    prompt = () if mode in WITHOUT_PROMPT else PROMPT
    flags = parameter_options(MODES[mode].parameters.values())

    @with_options(prompt, flags, OWN_OPTIONS.get(mode, ()), MODEL, FILES)
    def run(words: tuple[str, ...] = (), prompt: str | None = None, **flags: Any) -> None:
        embedded = flags.get("prompt_embeds") is not None and not words and prompt is None
        text = "" if embedded or mode in WITHOUT_PROMPT else read_prompt(words, prompt, mode)
        draw(mode, flags | {"prompt": text})

    summary = MODES[mode].summary
    return click.command(name=mode, help=summary, cls=Drawing)(run)


COMMANDS = tuple(command(mode) for mode in MODES)


def draw(mode: str, flags: Values, recorded: Values | None = None) -> None:
    """Check everything, load the model, draw, save; `recorded` is what a replay repeats."""
    configured, recorded = settings(flags["config"]), recorded or {}
    if flags["output"] == "-" and flags["as_json"]:
        raise UsageError("-o - and --json both want standard output", code="E-OUTPUT")
    name = flags["model"] or configured.defaults.get("model", "emoji")
    with naming_settings(configured, flags):
        path = find_model(name, flags["fetch"], flags["variant"])
        config = model_config(path, flags["model_config"], flags["ema"])
        task = plan_task(mode, config, with_settings(mode, flags, configured))
        backend = configured_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        )
    seeds = task.plan.request.seeds
    seeded = "seed" in MODES[mode].parameters
    output = Output(
        flags["output"], task.label, seeds if seeded else None, len(seeds), flags["kind"],
        flags["overwrite"], not flags["no_metadata"],
    )  # fmt: skip
    output.check()
    if flags["as_json"]:
        check_stdout()
    with stopping() as stop:
        console = Console(flags, output, click.get_current_context().command)
        console.settings(configured, name, backend)
        model = load(
            path, backend=backend, config=flags["model_config"], lora=flags["loras"],
            **{key: flags[key] for key in ("vae", "tokenizer", "variant", "ema", "embeddings",
                                           "allow_nonfinite")},
            **configured.limits | {key: flags[key] for key in LIMIT_KEYS if flags[key] is not None},
        )  # fmt: skip
        console.memory(model, task.plan.request)
        console.warn([*recorded.get("notes", ()), *differences(recorded.get("model"), model)])
        try:
            plan = task.plan if task.finish is None else task.finish(model, console, stop)
            run = plan.prepare(model)
            console.warn(run.warnings)
            console.warn(other_inputs(recorded, run.params(len(seeds))))
            for event in run.draw(stop):
                if isinstance(event, modes.Progress):
                    console.step(event)
                else:
                    console.picture(event, run)
        except LdmrefError as error:
            raise console.interrupted(error, stop.exit_code) from error


def plan_task(mode: str, config: ModelConfig, flags: Values) -> Task:
    """The plan of a command line, and the label of its files."""
    takes = MODES[mode].parameters
    values = {name: flags[name] for name in takes if is_set(flags.get(name))}
    sources = {name: values[name] for name in SOURCES if name in values}
    values |= {name: picture_source(path) for name, path in sources.items()}
    prompt = flags["prompt"]
    if mode == "invert":
        return _invert(config, values, flags)
    if mode == "interpolate":
        last = prompt if flags["to"] is None else flags["to"]
        values["prompt_b"] = last
        values.setdefault("positions", flags["frames"])
        plan = modes.plan(mode, config, **values)
        return Task(plan, prompt if last == prompt else f"{prompt} to {last}")
    if mode in WITHOUT_PROMPT:
        [path] = sources.values()
        label = mode if path == STDIN else f"{Path(path).stem} {mode}"
        return Task(modes.plan(mode, config, **values), label)
    return Task(modes.plan(mode, config, **values), prompt)


def _invert(config: ModelConfig, values: Values, flags: Values) -> Task:
    """Up from the picture to its noise, then down again with other words."""
    edits = list(flags["edits"]) or [flags["prompt"]]
    up = modes.plan("invert", config, **values | {"cfg_scale": None})
    down = up.settings | {
        "prompt": edits, "seed": [0] * len(edits),  # from which nothing is drawn
        "cfg_scale": values.get("cfg_scale", 1.0), "batch_size": flags["batch_size"] or 1,
        "tile": flags["tile"],
    }  # fmt: skip
    iterations = up.request.values["iterations"]
    inverted = {"prompt": up.request.prompts[0], "cfg_scale": 1.0, "iterations": iterations}
    recorded = {"mode": "invert", "resize": up.request.values["resize"], "inverted": inverted}
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

    return Task(redraw(None), edits[0], finish)


def other_inputs(recorded: Values, used: Values) -> Iterator[str]:
    """How ControlNets and noise differ from those that a picture records."""
    controls, others = recorded.get("control"), used.get("control") or []
    for i, control in enumerate(controls if isinstance(controls, list) else ()):
        other = others[i] if i < len(others) else {}
        for key in control if isinstance(control, dict) else ():
            value = str(control[key])[:80]
            if key != "name" and control[key] != other.get(key):
                yield f"drawn with another --control {i + 1}: its {key} was {value}"
    for name in ("latents", *EMBEDDINGS) if used["mode"] != "invert" else ():
        if recorded.get(name) not in (None, used.get(name)):
            flag = name.replace("_", "-")
            yield f"drawn from another --{flag}: the recorded one has another digest"


def differences(made_by: Any, model: LatentDiffusion) -> Iterator[str]:
    """How a model differs from the one that a picture records."""
    if not isinstance(made_by, dict):
        return
    digest = made_by.get("sha256")
    if not digest or not model.sha256.startswith(str(digest)):  # A1111's text has ten digits
        yield f"drawn by another model: recorded is {str(made_by.get('name'))[:80]!r}"
    for part, flag in (
        ("vae", "--vae"),
        ("loras", "--lora"),
        ("ema", "--ema"),
        ("embeddings", "--embedding"),
    ):
        recorded, used = made_by.get(part), model.modifications.get(part)
        if recorded != used:
            text = json.dumps(recorded)[:200] if recorded else "none"
            yield f"drawn with another {flag}: recorded is {text}"
