"""`ldmref config show`: the settings in force and their origins."""

from __future__ import annotations

import json
from typing import Any

import click

from ldmref.apps.cli.options import ParameterCommand, is_set, parameter_options, with_options
from ldmref.apps.cli.progress import print_line
from ldmref.apps.cli.settings import naming_settings, with_settings
from ldmref.apps.cli.shared_options import BACKEND, CONFIG, MODEL_NAME, OUTPUT
from ldmref.apps.foreign import read_foreign
from ldmref.io.checkpoint import read_model_config
from ldmref.loading import open_backend
from ldmref.modes.checks import MODE_OF
from ldmref.modes.registry import MODES, read_request
from ldmref.modes.resolve import resolve
from ldmref.modes.run import Plan
from ldmref.support.config import BACKEND_KEYS, DEFAULT_KEYS, Settings, settings

RANDOM = -1  # the notation of a random seed
PARAMETERS = [p for name, p in MODES["txt2img"].parameters.items() if name in DEFAULT_KEYS]


@click.group()
def config() -> None:
    """Show the settings: of ldmref.toml, LDMREF_* variables, and defaults."""


@config.command(cls=ParameterCommand)
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
@with_options(parameter_options(PARAMETERS), (MODEL_NAME, OUTPUT), BACKEND, (CONFIG,))
def show(origin: bool, as_json: bool, **flags: Any) -> None:
    """Print the settings with which images are generated, as an ldmref.toml.

    The flags are those of the commands that generate images: add them to see what they change. A
    value comes from a flag, an LDMREF_* variable, the configuration file, or the default, in this
    order. Defaults of steps, guidance, sampler, schedule and size are the model's.
    """
    configured = settings(flags["config"])
    values = in_force(configured, flags)
    sources = {key: find_origin(key, configured, flags) for key in values}
    if as_json:
        rows = {key: {"value": values[key], "origin": sources[key]} for key in values}
        click.echo(json.dumps(rows))
        return
    for table in dict.fromkeys(key.partition(".")[0] for key in values):
        print_line(f"[{table}]")
        for key, value in values.items():
            if key.startswith(f"{table}."):
                line = f"{key.removeprefix(table + '.')} = {json.dumps(value, ensure_ascii=False)}"
                print_line(f"{line:34}  # {sources[key]}" if origin else line)


COMMANDS = (config,)


def in_force(configured: Settings, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every key, checked as for an image."""
    with naming_settings(configured, flags):
        model = flags["model"] or configured.defaults.get("model", "emoji")
        model_settings = read_model_config(model)
        mode = MODE_OF.get(model_settings.concat, "txt2img")
        takes = [name for name in MODES[mode].parameters if name in DEFAULT_KEYS]
        asked = read_foreign(model_settings, with_settings(mode, flags, configured))
        values = {name: asked[name] for name in takes if is_set(asked[name])}
        request = read_request("txt2img", {"prompt": ""} | values)
        params = Plan(request, resolve(model_settings, mode, request)).params
        backend = open_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        ).describe()
    shown: dict[str, Any] = {f"backend.{key}": backend[key] for key in BACKEND_KEYS}
    shown |= {f"defaults.{key}": params[key] for key in DEFAULT_KEYS if key in takes}
    if "seed" in takes:
        shown["defaults.seed"] = RANDOM if request.seed is None else request.seed
    shown["defaults.output"] = asked["output"] or "."
    limits = {f"limits.{key}": value for key, value in configured.limits.items()}
    server = {f"server.{key}": value for key, value in configured.server.items()}
    return shown | {"defaults.model": model} | limits | server


def find_origin(key: str, configured: Settings, flags: dict[str, Any]) -> str:
    """Return the origin of a key's value."""
    table, name = key.split(".")
    if is_set(flags.get("backend" if key == "backend.name" else name)):
        return "flag"
    if key in configured.origin and not _left_behind(table, configured, flags):
        return configured.origin[key]
    return "default"


def _left_behind(table: str, configured: Settings, flags: dict[str, Any]) -> bool:
    """Return whether a flag names another backend than the configured one."""
    named = configured.backend.get("name")
    return table == "backend" and flags["backend"] not in (None, named or flags["backend"])
