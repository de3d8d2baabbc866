"""`ldmref txt2img`, `img2img`, `inpaint` and `run`: from flags to pictures.

Everything that can be wrong is checked before anything is loaded: settings, the model's
configuration, every argument, the output, the source pictures; then the backend, then the weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from ldmref import modes
from ldmref.cli.options import COMMON, IMAGE, MASK, PROMPT, RESIZING, SIZE, with_options
from ldmref.cli.output import Output
from ldmref.cli.progress import Progress, duration, one_line, say, stopping
from ldmref.cli.sources import read_prompt, read_sources
from ldmref.config import Settings, settings
from ldmref.errors import Cancelled, UsageError
from ldmref.io.metadata import read_parameters
from ldmref.loading import configured_backend, load, model_config
from ldmref.models.model import LatentDiffusion
from ldmref.modes.request import Request, resolve

ARGUMENTS = ("negative_prompt", "steps", "cfg_scale", "sampler", "schedule", "seed", "count",
             "width", "height", "eta", "clip_skip", "rng", "batch_size", "strength",
             "mask_blur", "long_prompts", "prompt_weights", "control", "fill",
             "only_masked", "padding", "resample", "tile")  # fmt: skip
REPLAYED = ("negative_prompt", "steps", "cfg_scale", "sampler", "schedule", "seed",
            "width", "height", "eta", "clip_skip", "rng", "long_prompts",
            "prompt_weights", "tile")  # fmt: skip
REPLAYED_FROM_PICTURES = ("strength", "mask_blur", "fill", "only_masked", "padding", "resample")


@click.command()
@with_options(PROMPT, COMMON, SIZE)
def txt2img(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Draw pictures from words."""
    draw("txt2img", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, IMAGE, RESIZING, COMMON, SIZE)
def img2img(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Redraw a picture towards a prompt."""
    draw("img2img", read_prompt(words, prompt), flags)


@click.command()
@with_options(PROMPT, IMAGE, MASK, COMMON, SIZE)
def inpaint(words: str | None, prompt: str | None, **flags: Any) -> None:
    """Repaint the white part of a mask, and keep the rest bit for bit."""
    draw("inpaint", read_prompt(words, prompt), flags)


@click.command()
@click.option("--from", "source", required=True, metavar="IMAGE", help="A picture made by ldmref.")
@click.option("-p", "--prompt", metavar="TEXT")
@click.option("-i", "--image", metavar="FILE", help="The picture that it was made from.")
@click.option("--mask", metavar="FILE", help="The mask with which it was made.")
@with_options(COMMON, SIZE)
def run(source: str, prompt: str | None, **flags: Any) -> None:
    """Draw a picture again as it records; flags override."""
    found = read_parameters(source).get("ldmref")
    recorded: dict[str, Any] = found if isinstance(found, dict) else {}
    mode = recorded.get("mode")
    if mode in ("img2img", "inpaint"):
        needed = "-i IMAGE" if mode == "img2img" else "-i IMAGE --mask MASK"
        if not flags["image"] or (mode == "inpaint" and not flags["mask"]):
            raise UsageError(
                f"{source!r} was made by {mode} from another picture, which is not recorded in it",
                code="E-REPLAY",
                hint=f"add {needed}; or use ldmref {mode} {needed}; ldmref info {source} shows the "
                "settings",
            )
        flags |= {"resize": "crop", "mask_invert": False}
        flags |= {key: recorded[key] for key in REPLAYED_FROM_PICTURES if key in recorded}
    elif mode == "interpolate":
        raise UsageError(
            f"{source!r} was made by modes.interpolate",
            code="E-REPLAY",
            hint="draw it with Python: modes.interpolate(model, prompt, prompt_b, positions, "
            "seed=(seed, seed_b))",
        )
    elif mode != "txt2img":
        raise UsageError(f"{source!r} does not record how it was made", code="E-REPLAY")
    prompt = recorded.get("prompt") if prompt is None else prompt
    if not isinstance(prompt, str):
        raise UsageError(f"{source!r} records no prompt", code="E-REPLAY")
    needed = recorded.get("control")
    if needed and isinstance(needed, list) and not flags["control"]:
        raise UsageError(
            f"{source!r} was drawn with ControlNets, whose pictures are not recorded in it",
            code="E-REPLAY",
            hint="add "
            + " ".join(["--control NET:IMAGE"] * min(len(needed), 3))
            + f"; ldmref info {source} shows their weights",
        )
    own_sampler = flags["sampler"] is not None  # to which the recorded eta does not belong
    for key in REPLAYED:
        if flags.get(key) is None and key in recorded and not (key == "eta" and own_sampler):
            flags[key] = recorded[key]
    draw(mode, prompt, flags, recorded.get("model"), recorded.get("control"))


COMMANDS = (txt2img, img2img, inpaint, run)


def draw(
    mode: str, prompt: Any, flags: dict[str, Any], made_by: Any = None, controls: Any = None
) -> None:
    """Check everything, load the model, draw, save.

    `made_by` and `controls` are the model and the ControlNets that a replay names.
    """
    found = settings(flags["config"])
    if flags["output"] == "-" and flags["as_json"]:
        raise UsageError("-o - and --json both want standard output", code="E-OUTPUT")
    name = flags["model"] or found.defaults.get("model", "emoji")
    told = flags["model_config"]
    config = model_config(name, told)
    asked = arguments(mode, flags, found)
    request = resolve(config, mode, prompt, **asked)
    output = Output(
        flags["output"], prompt, flags["kind"], flags["overwrite"], not flags["no_metadata"]
    )
    output.check(request.seeds)
    asked |= {"seed": list(request.seeds), "count": len(request.seeds)}
    sources = read_sources(mode, config, prompt, asked, flags)
    with stopping() as stop:
        backend = configured_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        )
        if flags["verbose"]:
            tell_settings(found, name, backend)
        extra = {"vae": flags["vae"], "lora": flags["loras"], "tokenizer": flags["tokenizer"]}
        model = load(name, backend=backend, config=told, **extra)
        drawing = Drawing(request, output, flags)
        for warning in differences(made_by, model):
            drawing.warn(warning)
        try:
            result = getattr(modes, mode)(
                model, prompt, **sources, **asked, callback=drawing.step, cancel=stop
            )
        except Cancelled as cancelled:
            drawing.finish(cancelled.partial)
            raise stopped(cancelled, len(request.seeds), stop.exit_code) from None
        for warning in other_controls(controls, result.params.get("control")):
            drawing.warn(warning)
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
    for part, flag in (("vae", "--vae"), ("loras", "--lora")):
        recorded, used = made_by.get(part), model.additions.get(part)
        if recorded != used:
            told = json.dumps(recorded)[:200] if recorded else "none"
            yield f"drawn with another {flag}: recorded is {told}"


def arguments(mode: str, flags: dict[str, Any], found: Settings) -> dict[str, Any]:
    """The keyword arguments of a mode: flags, completed by configuration file and environment."""
    asked: dict[str, Any] = {key: flags[key] for key in ARGUMENTS if key in flags}
    for key, value in found.defaults.items():
        inherited = mode == "txt2img" or key not in ("width", "height")
        if key in asked and asked[key] is None and inherited:
            asked[key] = value
    if asked["negative_prompt"] is None:
        asked["negative_prompt"] = ""
    if isinstance(asked["schedule"], str):
        asked["schedule"] = asked["schedule"].lower()
    if asked["count"] is None:
        asked["count"] = len(asked["seed"]) if isinstance(asked["seed"], list) else 1
    if asked["rng"] is None:
        asked["rng"] = "philox"
    asked["long_prompts"] = asked["long_prompts"] or "truncate"
    asked["prompt_weights"] = asked["prompt_weights"] or "none"
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


@dataclass
class Drawing:
    """One run's talk with the person: steps, warnings, a line and a JSON object per picture."""

    request: Request
    output: Output
    flags: dict[str, Any]

    def __post_init__(self) -> None:
        self.progress = Progress("none" if self.flags["quiet"] else self.flags["progress"])

    def step(self, event: modes.Event) -> None:
        self.progress.update(event.step + 1, event.steps, event.first, event.pictures)

    def warn(self, text: str) -> None:
        if not self.flags["quiet"]:
            say(one_line(f"ldmref: warning: {text}"))

    def finish(self, result: modes.Result) -> None:
        """Save what was drawn, and say so."""
        self.progress.clear()
        seconds = (time.monotonic() - self.progress.start) / max(1, len(result))
        for warning in result.warnings if len(result) else ():
            self.warn(warning)
        for i, name in enumerate(self.output.save(result, len(self.request.seeds))):
            params = result.params_of(i)
            if not self.flags["quiet"]:
                say(one_line(self._line(name, params, seconds)))
            if self.flags["as_json"]:
                facts = {"path": name, "seed": result.seeds[i], "params": params,
                         "warnings": result.warnings, "seconds": round(seconds, 3)}  # fmt: skip
                click.echo(json.dumps(facts))

    def _line(self, name: str, params: dict[str, Any], seconds: float) -> str:
        r = self.request
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
