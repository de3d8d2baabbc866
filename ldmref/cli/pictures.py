"""The commands that draw: `txt2img`, `img2img`, `inpaint`, `invert`, `interpolate`, `superres` and
`seg2img`.

Everything that can be wrong is checked before anything is loaded: settings, the model's
configuration, every argument, the source pictures, the output; then the backend, then the weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click

from ldmref import modes
from ldmref.cli.options import (
    COMMON,
    CONTROL,
    GUIDANCE,
    IMAGE,
    INTERPOLATING,
    INVERTING,
    MAP,
    MASK,
    OUTER,
    PROMPT,
    RESIZING,
    SAMPLING,
    SEEDED,
    SIZE,
    SMALL,
    STEPS,
    STRENGTH,
    WORDS,
    with_options,
)
from ldmref.cli.output import Output
from ldmref.cli.plans import TAKES, Plan, plan
from ldmref.cli.progress import Progress, duration, one_line, say, stopping
from ldmref.cli.sources import read_prompt
from ldmref.config import Settings, settings
from ldmref.errors import Cancelled, UsageError
from ldmref.io.locate import find_model, model_config
from ldmref.loading import configured_backend, load
from ldmref.models.model import LatentDiffusion
from ldmref.modes.request import Request

DEFAULTS = {"negative_prompt": "", "rng": "philox", "long_prompts": "truncate",
            "prompt_weights": "none"}  # fmt: skip


@click.command()
@with_options(PROMPT, COMMON, SIZE)
def txt2img(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Draw pictures from words."""
    draw("txt2img", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, IMAGE, STRENGTH, RESIZING, COMMON, SIZE)
def img2img(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Redraw a picture towards a prompt."""
    draw("img2img", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, IMAGE, MASK, COMMON, SIZE)
def inpaint(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Repaint the white part of a mask, and keep the rest bit for bit."""
    draw("inpaint", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, IMAGE, INVERTING, RESIZING, STEPS, WORDS, SIZE, OUTER)
def invert(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Find the noise that draws a picture, and draw other words from it.

    PROMPT says what the picture shows. Without --edit it is drawn again from its noise, which shows
    what is lost on the way.
    """
    draw("invert", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, INTERPOLATING, WORDS, GUIDANCE, CONTROL, STEPS, SAMPLING, SIZE, OUTER)
def interpolate(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Draw a row of pictures that turns from one prompt into another.

    With --seed A,B it turns from the noise of seed A into that of seed B, too.
    """
    draw("interpolate", read_prompt(words, prompt), flags)


@click.command()
@with_options(SMALL, SEEDED, OUTER)
def superres(**flags: Any) -> None:
    """Enlarge a picture, with a model that was trained for it."""
    draw("superres", "", flags)


@click.command()
@with_options(MAP, SEEDED, OUTER)
def seg2img(**flags: Any) -> None:
    """Draw a picture from a map of classes, with a model that was trained for it."""
    draw("seg2img", "", flags)


COMMANDS = (txt2img, img2img, inpaint, invert, interpolate, superres, seg2img)


def draw(
    mode: str, prompt: str, flags: dict[str, Any], recorded: dict[str, Any] | None = None
) -> None:
    """Check everything, load the model, draw, save; `recorded` is what a replay repeats."""
    found, recorded = settings(flags["config"]), recorded or {}
    if flags["output"] == "-" and flags["as_json"]:
        raise UsageError("-o - and --json both want standard output", code="E-OUTPUT")
    name = flags["model"] or found.defaults.get("model", "emoji")
    told, place = flags["model_config"], find_model(name, flags["fetch"], flags["variant"])
    config = model_config(place, told, flags["ema"])
    made = plan(mode, config, prompt, arguments(mode, flags, found), flags)
    output = Output(
        flags["output"], made.label, flags["kind"], flags["overwrite"], not flags["no_metadata"]
    )
    output.check(made.request.seeds)
    with stopping() as stop:
        backend = configured_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        )
        if flags["verbose"]:
            tell_settings(found, name, backend)
        extra = {key: flags[key] for key in ("vae", "tokenizer", "variant", "ema", "max_memory")}
        model = load(place, backend=backend, config=told, lora=flags["loras"], **extra)
        drawing = Drawing(made, output, flags)
        if flags["verbose"]:
            tell_memory(model, made.request)
        for warning in differences(recorded.get("model"), model):
            drawing.warn(warning)
        try:
            result = made.draw(model, drawing, stop)
        except Cancelled as cancelled:
            drawing.finish(cancelled.partial)
            raise stopped(cancelled, len(made.request.seeds), stop.exit_code) from None
        for warning in other_controls(recorded.get("control"), result.params.get("control")):
            drawing.warn(warning)
        if flags.get("latents") and recorded.get("latents") not in (None, result.params["latents"]):
            drawing.warn("drawn from another --latents: the recorded one has another digest")
        drawing.finish(result)


def other_controls(recorded: Any, used: Any) -> Iterator[str]:
    """How ControlNets differ from those that a picture records."""
    for i, told in enumerate(recorded if isinstance(recorded, list) else ()):
        have = used[i] if used and i < len(used) else {}
        for key in told if isinstance(told, dict) else ():
            if key != "name" and told[key] != have.get(key):
                yield f"drawn with another --control {i + 1}: its {key} was {str(told[key])[:80]}"


def differences(made_by: Any, model: LatentDiffusion) -> Iterator[str]:
    """How a model differs from the one that a picture records."""
    if not isinstance(made_by, dict):
        return
    if made_by.get("sha256") != model.sha256:
        yield f"drawn by another model: recorded is {str(made_by.get('name'))[:80]!r}"
    for part, flag in (("vae", "--vae"), ("loras", "--lora"), ("ema", "--ema")):
        recorded, used = made_by.get(part), model.additions.get(part)
        if recorded != used:
            told = json.dumps(recorded)[:200] if recorded else "none"
            yield f"drawn with another {flag}: recorded is {told}"


def arguments(mode: str, flags: dict[str, Any], found: Settings) -> dict[str, Any]:
    """The keyword arguments of a mode: flags, completed by configuration file and environment."""
    asked: dict[str, Any] = {key: flags[key] for key in TAKES[mode] if key in flags}
    for key, value in found.defaults.items():
        inherited = mode in ("txt2img", "interpolate") or key not in ("width", "height")
        if key in asked and asked[key] is None and inherited:
            asked[key] = value
    asked |= {key: value for key, value in DEFAULTS.items() if asked.get(key, "") is None}
    if isinstance(asked["schedule"], str):
        asked["schedule"] = asked["schedule"].lower()
    if asked.get("count", 1) is None:
        asked["count"] = len(asked["seed"]) if isinstance(asked["seed"], list) else 1
    return asked


def stopped(cancelled: Cancelled, planned: int, exit_code: int) -> Cancelled:
    done = len(cancelled.partial) if cancelled.partial is not None else 0
    error = Cancelled(f"stopped; {done} of {planned} pictures are finished", code="E-CANCELLED")
    error.exit_code = exit_code
    return error


def tell_settings(found: Settings, model: str, backend: Any) -> None:
    for key, place in found.origin.items():
        table, name = key.split(".")
        value = getattr(found, table)[name]
        say(one_line(f"ldmref: {key} = {value!r} from {place}"))
    say(one_line(f"ldmref: model {model}, {backend!r}"))


def tell_memory(model: LatentDiffusion, request: Request) -> None:
    needs = model.make_room(request.width, request.height, request.batch_size, request.tile)
    apart = needs.apart(model.params.releasable)
    say(
        f"ldmref: memory about {needs.together / 1e9:.1f} GB, "
        f"{apart / 1e9:.1f} GB with a network at a time (--max-memory)"
    )


@dataclass
class Drawing:
    """One run's talk with the person: steps, warnings, a line and a JSON object per picture."""

    plan: Plan
    output: Output
    flags: dict[str, Any]

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.progress = Progress("none" if self.flags["quiet"] else self.flags["progress"])

    def step_up(self, event: modes.Event) -> None:
        """A step from a picture to its noise."""
        self.progress.update(event.step + 1, event.steps, 0, 1, "to the noise")
        if event.step + 1 == event.steps:
            self.progress.clear()
            self.progress.start = time.monotonic()

    def step(self, event: modes.Event) -> None:
        self.progress.update(event.step + 1, event.steps, event.first, event.pictures)

    def warn(self, text: str) -> None:
        if not self.flags["quiet"]:
            say(one_line(f"ldmref: warning: {text}"))

    def finish(self, result: modes.Result | None) -> None:
        """Save what was drawn, if anything, and say so."""
        self.progress.clear()
        if result is None:
            return
        result = replace(result, params=result.params | self.plan.facts)
        seconds = (time.monotonic() - self.start) / max(1, len(result))
        for warning in result.warnings if len(result) else ():
            self.warn(warning)
        for i, name in enumerate(self.output.save(result, len(self.plan.request.seeds))):
            params = result.params_of(i)
            if not self.flags["quiet"]:
                say(one_line(self._line(name, params, seconds)))
            if self.flags["as_json"]:
                facts = {"path": name, "seed": result.seeds[i], "params": params,
                         "warnings": result.warnings, "seconds": round(seconds, 3)}  # fmt: skip
                click.echo(json.dumps(facts))

    def _line(self, name: str, params: dict[str, Any], seconds: float) -> str:
        r = self.plan.request
        facts = (
            "standard output" if name == "-" else name,
            f"seed {params['seed']}",
            f"{params['width']}x{params['height']}",
            f"{r.steps} steps {r.sampler}",
            f"cfg {r.cfg_scale:g}",
            params["backend"]["name"],
            duration(seconds),
        )
        return "  ".join(facts)
