"""`ldmref serve`: the web page and the HTTP interfaces."""

from __future__ import annotations

from typing import Any

import click

from ldmref.cli.options import ImageCommand, is_set, option, parameter_options, with_options
from ldmref.cli.progress import say
from ldmref.cli.shared_options import BACKEND, CONFIG
from ldmref.config import settings
from ldmref.declare import Invalid, get_fields, read
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.loading import load, open_backend
from ldmref.models.model import LatentDiffusion
from ldmref.server.settings import ServerSettings

DEFAULT_MODEL = "emoji"
MODELS = option(
    "-m",
    "--model",
    "models",
    metavar="[NAME=]MODEL",
    multiple=True,
    help="A model to serve, under a name; may be repeated. The first is the default. Without this "
    "flag: emoji, which comes with ldmref.",
)
SETTINGS = parameter_options(get_fields(ServerSettings).values())
NO_PAGE = option("--no-page", is_flag=True, help="Serve the interfaces only, without the web page.")


@click.command(cls=ImageCommand)
@with_options(
    (MODELS,), parameter_options(get_fields(ServerSettings).values()), (NO_PAGE,), BACKEND
)
@with_options((CONFIG,))
def serve(models: tuple[str, ...], no_page: bool, **flags: Any) -> None:
    """Serve the web page and the HTTP interfaces, on this machine only.

    Open the printed address in a browser.
    """
    try:
        from ldmref.server.running import run_server
    except ImportError as error:
        raise BackendUnavailable(
            f"the server needs {error.name}, which is not installed",
            code="E-EXTRA",
            hint="pip install 'ldmref[server]'",
        ) from error
    configured = read_settings(flags, no_page)
    run_server(load_models(models, flags), configured, say)


COMMANDS = (serve,)


def read_settings(flags: dict[str, Any], no_page: bool) -> ServerSettings:
    """Return the settings of the server: flags, then variables, then the file, then defaults."""
    values = dict(settings(flags["config"]).server)
    for name in get_fields(ServerSettings):
        if is_set(flags.get(name)):
            values[name] = flags[name]
    if no_page:
        values["page"] = False
    try:
        return read(ServerSettings, values)
    except Invalid as error:
        raise UsageError(str(error), code="E-SERVER", hint=error.hint) from None


def load_models(named: tuple[str, ...], flags: dict[str, Any]) -> dict[str, LatentDiffusion]:
    """Load the models by name, all on one backend."""
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
    )
    models: dict[str, LatentDiffusion] = {}
    for text in named or (DEFAULT_MODEL,):
        name, equals, path = text.partition("=")
        model = load(path if equals else name, backend=backend)
        if not equals:
            name = model.config.name if name != DEFAULT_MODEL else name
        if not name or name in models:
            raise UsageError(f"two models are named {name!r}", code="E-MODEL", hint="-m NAME=MODEL")
        models[name] = model
    return models
