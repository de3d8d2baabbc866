"""`ldmref serve`: the web page and the HTTP interfaces."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ldmref.backends.base import Backend
from ldmref.cli.options import is_set, option, parameter_options, with_options
from ldmref.cli.progress import one_line, say
from ldmref.cli.settings import naming_settings
from ldmref.cli.shared_options import BACKEND, CONFIG, LIMITS
from ldmref.config import BACKEND_KEYS, LIMIT_KEYS, Settings, settings
from ldmref.declare import Invalid, get_fields, read
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.loading import load, open_backend
from ldmref.models.model import LatentDiffusion
from ldmref.server.settings import ServerSettings

EMBEDDED = "emoji"
EXTRA = ("starlette", "uvicorn", "anyio", "h11", "python_multipart")
MODELS = option(
    "-m",
    "--model",
    "models",
    metavar="[NAME=]MODEL",
    multiple=True,
    help="A model to serve: a name from ldmref models, a folder, or a file, and the name that "
    "clients use for it. May be repeated; the first one is the default. Default: emoji, which "
    "comes with ldmref.",
)
SETTINGS = parameter_options(get_fields(ServerSettings).values())
JSON = option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object with the address and the models when the server listens.",
)
NO_PAGE = option("--no-page", is_flag=True, help="Serve the interfaces only, without the web page.")


@click.command()
@with_options((MODELS,), SETTINGS, (NO_PAGE,), BACKEND, LIMITS, (CONFIG, JSON))
def serve(models: tuple[str, ...], no_page: bool, as_json: bool, **flags: Any) -> None:
    """Serve the web page, and interfaces for other programs.

    Open the address that is printed in a browser. Only this machine can use it, unless --host says
    otherwise. Ctrl-C stops the server.

    Example: ldmref serve --port 8000
    """
    try:
        from ldmref.server.running import address_of, open_socket, run_server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise BackendUnavailable(
            f"the server needs {error.name}, which is not installed",
            code="E-EXTRA",
            hint="pip install 'ldmref[server]'",
        ) from error
    configured = settings(flags["config"])
    wanted = read_settings(configured, flags, no_page)
    with open_socket(wanted) as listening:
        served, sources, reason = load_models(models, configured, flags)
        address = address_of(listening)
        backend = next(iter(served.values())).backend
        say(one_line(f"ldmref: serving {', '.join(served)} on {address}  (Ctrl-C stops it)"))
        say(one_line(f"ldmref: computing on {backend.name}: {reason}"))
        if as_json:
            click.echo(
                json.dumps({"url": address, "models": list(served), "backend": backend.name})
            )
            sys.stdout.flush()
        signal = run_server(served, wanted, listening, sources, reason)
    say("ldmref: stopped")
    click.get_current_context().exit(128 + signal if signal else 0)


COMMANDS = (serve,)


def read_settings(configured: Settings, flags: dict[str, Any], no_page: bool) -> ServerSettings:
    """Return the settings of the server: flags, then variables and the file, then defaults.

    Raises:
        UsageError: A value is not allowed.
    """
    values = dict(configured.server)
    values |= {name: flags[name] for name in get_fields(ServerSettings) if is_set(flags.get(name))}
    values |= {"page": False} if no_page else {}
    try:
        return read(ServerSettings, values)
    except Invalid as error:
        origin = configured.origin.get(f"server.{error.path}", "")
        named = origin and not is_set(flags.get(error.path))
        message = f"{origin}: {error}" if named else str(error)
        raise UsageError(message, code="E-SERVER", hint=error.hint) from None


def load_models(
    named: tuple[str, ...], configured: Settings, flags: dict[str, Any]
) -> tuple[dict[str, LatentDiffusion], dict[str, str], str]:
    """Load the models by name, all on one backend.

    Returns:
        (the models, the source of each, why they are on this backend).

    Raises:
        UsageError: Two models have the same name.
        InputError: A model cannot be read.
    """
    limits = {key: flags[key] for key in LIMIT_KEYS if flags[key] is not None}
    models: dict[str, LatentDiffusion] = {}
    sources: dict[str, str] = {}
    with naming_settings(configured, flags):
        backend, reason = open_fastest(configured, flags)
        for text in named or (configured.defaults.get("model", EMBEDDED),):
            name, equals, path = text.partition("=")
            source = path if equals else text
            if equals and not (name.strip() and path.strip()):
                message = f"--model must be MODEL or NAME=MODEL, not {text!r}"
                raise UsageError(message, code="E-MODEL", hint="--model mine=PATH")
            model = load(source, backend=backend, **configured.limits | limits)
            if not equals:
                name = text if text == EMBEDDED else model.config.name
            if name in models:
                hint = "name them: --model first=PATH --model second=PATH"
                raise UsageError(f"two models are named {name!r}", code="E-MODEL", hint=hint)
            models[name] = model
            sources[name] = source
    return models, sources, reason


def open_fastest(configured: Settings, flags: dict[str, Any]) -> tuple[Backend, str]:
    """Return the configured backend, otherwise the fastest one, and why it was chosen."""
    from ldmref.server.backends import choose_backend

    asked = {key: flags["backend" if key == "name" else key] for key in BACKEND_KEYS}
    named = [f"--{'backend' if key == 'name' else key}" for key in asked if is_set(asked[key])]
    named = named or [configured.origin[f"backend.{key}"] for key in configured.backend]
    if not named:
        return choose_backend(lambda text: say(f"ldmref: warning: {text}"))
    backend = open_backend(
        asked["name"], asked["device"], asked["dtype"], flags["config"], asked["speed"]
    )
    return backend, f"chosen by {named[0]}"
