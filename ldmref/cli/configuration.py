"""`ldmref config show`: the settings in force, and where each comes from."""

from __future__ import annotations

import json
from typing import Any

import click

from ldmref.cli.options import (
    BACKEND,
    CONFIG,
    MODEL_NAME,
    OUTPUT,
    is_set,
    parameter_options,
    with_options,
)
from ldmref.cli.settings import naming_settings, with_settings
from ldmref.config import BACKEND_KEYS, DEFAULT_KEYS, Settings, settings
from ldmref.io.locate import read_model_config
from ldmref.loading import open_backend
from ldmref.modes.plan import Plan
from ldmref.modes.registry import MODES
from ldmref.modes.request import MODE_OF, resolve
from ldmref.modes.validation import validate

RANDOM = -1  # as a seed is written
PARAMETERS = [p for name, p in MODES["txt2img"].parameters.items() if name in DEFAULT_KEYS]


@click.group()
def config() -> None:
    """Show the settings: of ldmref.toml, LDMREF_* variables, and defaults."""


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@with_options(parameter_options(PARAMETERS), (MODEL_NAME, OUTPUT), BACKEND, (CONFIG,))
def show(origin: bool, as_json: bool, **flags: Any) -> None:
    """Print the settings with which images are drawn, as an ldmref.toml.

    Flags are those of the drawing commands: add them to see what they change. A value comes from
    a flag, else an LDMREF_* variable, else the configuration file, else it is the default: of the
    model for steps, guidance, sampler, schedule and size, else of ldmref.
    """
    configured = settings(flags["config"])
    values = in_force(configured, flags)
    sources = {key: origin_of(key, configured, flags) for key in values}
    if as_json:
        rows = {key: {"value": values[key], "origin": sources[key]} for key in values}
        click.echo(json.dumps(rows))
        return
    for table in dict.fromkeys(key.partition(".")[0] for key in values):
        click.echo(f"[{table}]")
        for key, value in values.items():
            if key.startswith(f"{table}."):
                line = f"{key.removeprefix(table + '.')} = {json.dumps(value, ensure_ascii=False)}"
                click.echo(f"{line:34}  # {sources[key]}" if origin else line)


COMMANDS = (config,)


def in_force(configured: Settings, flags: dict[str, Any]) -> dict[str, Any]:
    """The value of every key, checked as for an image."""
    with naming_settings(configured, flags):
        model = flags["model"] or configured.defaults.get("model", "emoji")
        model_settings = read_model_config(model)
        mode = MODE_OF.get(model_settings.concat, "txt2img")
        takes = {n: p for n, p in MODES[mode].parameters.items() if n in DEFAULT_KEYS}
        asked = with_settings(mode, flags, configured)
        known = {n: validate(p, asked[n]) for n, p in takes.items() if is_set(asked[n])}
        params = Plan(resolve(model_settings, mode, known)).params
        backend = open_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        ).describe()
    values: dict[str, Any] = {f"backend.{key}": backend[key] for key in BACKEND_KEYS}
    values |= {f"defaults.{key}": params[key] for key in DEFAULT_KEYS if key in takes}
    if "seed" in takes:
        values["defaults.seed"] = RANDOM if known.get("seed") is None else known["seed"]
    values["defaults.output"] = asked["output"] or "."
    limits = {f"limits.{key}": value for key, value in configured.limits.items()}
    return values | {"defaults.model": model} | limits


def origin_of(key: str, configured: Settings, flags: dict[str, Any]) -> str:
    """Where the value of a key comes from."""
    table, name = key.split(".")
    if is_set(flags.get("backend" if key == "backend.name" else name)):
        return "flag"
    if key in configured.origin and not _left_behind(table, configured, flags):
        return configured.origin[key]
    return "default"


def _left_behind(table: str, configured: Settings, flags: dict[str, Any]) -> bool:
    """Whether a flag names another backend than the one that is configured."""
    named = configured.backend.get("name")
    return table == "backend" and flags["backend"] not in (None, named or flags["backend"])
