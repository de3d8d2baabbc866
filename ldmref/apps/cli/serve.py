"""`ldmref serve`: the web page and the HTTP interfaces."""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Mapping
from typing import Any

import click

from ldmref.apps.cli.options import is_set, option, parameter_options, with_options
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.shared_options import BACKEND, CONFIG, LIMITS
from ldmref.declare import Invalid, get_fields, read
from ldmref.errors import BackendUnavailable, LdmrefError, UsageError
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.checkpoint import Checkpoint
from ldmref.io.embedded import BASES, EMBEDDED
from ldmref.loading_networks import load_controlnet
from ldmref.models.control import ControlNet, require_fit
from ldmref.models.model import LatentDiffusion
from ldmref.support.config import BACKEND_KEYS, Settings
from ldmref.support.server_settings import ServerSettings

NOUNS = {"model": "models", "controlnet": "ControlNets"}  # by flag
EXTRA = ("starlette", "uvicorn", "anyio", "h11", "python_multipart")
MODELS = option(
    "-m",
    "--model",
    "models",
    metavar="[NAME=]MODEL",
    multiple=True,
    help="A model to serve: a name from ldmref models, a folder, or a file, and the name that "
    "clients use for it. May be repeated; the first one is the default. Default: emoji and "
    "emoji-map, its flow map, which come with ldmref.",
)
CONTROLNETS = option(
    "--controlnet",
    "controlnets",
    metavar="[NAME=]PATH",
    multiple=True,
    help="A ControlNet that requests may use: a folder or a file, and the name that clients use "
    "for it. May be repeated.",
)
SERVED_BACKEND = option(
    "--backend",
    metavar="NAME",
    help="Library that computes: numpy, torch, onnx, openvino, cupy or a plug-in; see ldmref "
    "backends. Default: the fastest that is installed here.",
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
@with_options(
    (MODELS, CONTROLNETS),
    SETTINGS,
    (NO_PAGE,),
    (SERVED_BACKEND, *BACKEND[1:]),
    LIMITS,
    (CONFIG, JSON),
)
def serve(
    models: tuple[str, ...],
    controlnets: tuple[str, ...],
    no_page: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Serve the web page, and interfaces for other programs.

    Open the address that is printed in a browser. Only this machine can use it, unless --host says
    otherwise. Ctrl-C stops the server.

    Example: ldmref serve --port 8000
    """
    try:
        from ldmref.apps.server.running import address_of, open_socket, prepare_server
        from ldmref.apps.server.templates import PromptTemplates
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise BackendUnavailable(
            f"the server needs {error.name}, which is not installed",
            code="E-EXTRA",
            hint="pip install 'ldmref[server]'",
        ) from error
    session = CommandSession(flags)
    wanted = read_settings(session.configured, flags, no_page)
    with open_socket(wanted) as listening:
        PromptTemplates(wanted)  # what is wrong with them is said before weights are read
        served, sources, reason = load_models(session, models)
        nets = load_controlnets(controlnets, served)
        server = prepare_server(served, wanted, sources, reason, warn, nets)
        address = address_of(listening)
        backend = next(iter(served.values())).backend
        say(one_line(f"ldmref: serving {', '.join(served)} on {address}  (Ctrl-C stops it)"))
        say(one_line(f"ldmref: computing on {backend.name}: {reason}"))
        if as_json:
            click.echo(
                json.dumps({"url": address, "models": list(served), "backend": backend.name})
            )
            sys.stdout.flush()
        server.run(sockets=[listening])
    say("ldmref: stopped")
    click.get_current_context().exit(128 + server.signal if server.signal else 0)


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
    session: CommandSession, named: tuple[str, ...]
) -> tuple[dict[str, LatentDiffusion], dict[str, str], str]:
    """Load the models by name, all on one backend; without names, the default one and its maps.

    Returns:
        (the models, the source of each, why they are on this backend).

    Raises:
        UsageError: Two models have the same name.
        InputError: A model cannot be read.
    """
    opened: dict[str, Checkpoint] = {}
    sources: dict[str, str] = {}
    with session.naming():
        reason = open_backend_of(session)
        maps = [name for name, base in BASES.items() if base == session.name]
        for text in named or (session.name, *maps):
            name, source = split_name("model", text)
            config = session.find(source)
            name = name or (text if text in EMBEDDED else config.name)
            require_new("model", name, opened)
            opened[name] = session.checkpoint
            sources[name] = source
    return {name: session.load(checkpoint) for name, checkpoint in opened.items()}, sources, reason


def load_controlnets(
    named: tuple[str, ...], models: Mapping[str, LatentDiffusion]
) -> dict[str, ControlNet]:
    """Load the ControlNets by name, each for the first model that it fits.

    Raises:
        UsageError: Two have the same name, or one fits no model.
        InputError: One cannot be read.
    """
    found: dict[str, ControlNet] = {}
    for text in named:
        name, path = split_name("controlnet", text)
        net = load_fitting(path, models)
        require_new("controlnet", name or net.name, found)
        found[name or net.name] = net
    return found


def load_fitting(path: str, models: Mapping[str, LatentDiffusion]) -> ControlNet:
    """Load a ControlNet for the first model that it fits.

    Raises:
        LdmrefError: It cannot be read, or fits no model: the error of the first one.
    """
    problems = []
    for model in models.values():
        denoiser = model.config.denoiser
        try:
            file = open_controlnet(path, denoiser)
            require_fit(model.config, file.config, file.name)
        except LdmrefError as error:
            problems.append(error)
            continue
        return load_controlnet(path, model.backend, unet=denoiser)
    raise problems[0]


def split_name(flag: str, text: str) -> tuple[str, str]:
    """Return the name of a network, "" without one, and its path.

    Raises:
        UsageError: One of them is empty.
    """
    name, equals, path = text.partition("=")
    if not equals:
        return "", text
    if not (name.strip() and path.strip()):
        message = f"--{flag} must be PATH or NAME=PATH, not {text!r}"
        raise UsageError(message, code=f"E-{flag.upper()}", hint=f"--{flag} mine=PATH")
    return name, path


def require_new(flag: str, name: str, known: Container[str]) -> None:
    """Refuse a second network of the same name.

    Raises:
        UsageError: There is one already.
    """
    if name in known:
        hint = f"name them: --{flag} first=PATH --{flag} second=PATH"
        message = f"two {NOUNS[flag]} are named {name!r}"
        raise UsageError(message, code=f"E-{flag.upper()}", hint=hint)


def warn(line: str) -> None:
    """Print a warning of the server."""
    say(one_line(f"ldmref: warning: {line}"))


def open_backend_of(session: CommandSession) -> str:
    """Open the configured backend, otherwise the fastest one; return why it was chosen."""
    from ldmref.apps.server.backends import choose_backend

    flags = {key: "backend" if key == "name" else key for key in BACKEND_KEYS}
    origin = [f"--{flag}" for flag in flags.values() if is_set(session.flags[flag])]
    origin = origin or [
        session.configured.origin[f"backend.{key}"] for key in session.configured.backend
    ]
    if origin:
        session.open()
        return f"chosen by {origin[0]}"
    session.backend, reason = choose_backend(lambda text: say(f"ldmref: warning: {text}"))
    return reason
