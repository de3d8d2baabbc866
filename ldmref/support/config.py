"""Settings: the origin of values that a call does not give.

Call arguments and command-line flags come first, then `LDMREF_*` environment variables, then
`ldmref.toml`, then the model's own defaults. `ldmref.toml` is the file named by `--config`, the one
in the working folder, or the one in the user's configuration folder, in this order.
`ldmref config show --origin` prints every value and its origin. An empty variable counts as not
set.

Device, dtype and speed belong to the backend in the same place: they are ignored if another backend
is named elsewhere.

    [backend]
    name = "torch"       # LDMREF_BACKEND
    device = "cuda:0"    # LDMREF_DEVICE
    dtype = "float16"    # LDMREF_DTYPE
    speed = "fastest"    # LDMREF_SPEED

    [defaults]
    steps = 30           # LDMREF_STEPS, and so on for every key
    cfg_scale = 2.0
    sampler = "heun"
    schedule = "karras"
    model = "my-model"

    [limits]
    max_memory = "6GB"   # LDMREF_MAX_MEMORY
    max_seconds = 60     # LDMREF_MAX_SECONDS

    [server]             # of `ldmref serve`
    port = 7860          # LDMREF_SERVER_PORT, and so on for every key
    token = "..."
    allow_host = ["host.docker.internal"]  # with commas between in a variable
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ldmref.declare import Doc, Invalid, get_fields, read, write
from ldmref.errors import InputError, UsageError, did_you_mean
from ldmref.support.files import not_a_file, read_file
from ldmref.support.server_settings import ServerSettings

MAX_FILE_SIZE = 1_000_000


@dataclass(frozen=True)
class BackendTable:
    """The keys of `[backend]`."""

    name: Annotated[
        str | None, Doc("Backend: numpy, torch, onnx, openvino, cupy or a plug-in's name.", "numpy")
    ] = None
    device: Annotated[str | None, Doc("Device, such as cuda:0.", "the backend's default")] = None
    dtype: Annotated[
        str | None, Doc("Floating-point type: float64, float32, float16 or bfloat16.", "float32")
    ] = None
    speed: Annotated[
        str | None, Doc("exact, fast or fastest (`ldmref backends`).", "the backend's default")
    ] = None


@dataclass(frozen=True)
class DefaultsTable:
    """The keys of `[defaults]`; ranges are checked with the other parameters of an image."""

    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    model: Annotated[
        str | None, Doc("File, folder or name of the model.", "the embedded model")
    ] = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None
    output: Annotated[
        str | None, Doc("File or folder for the images.", "a name made from prompt and seed")
    ] = None
    seed: int | None = None
    count: int | None = None
    rng: str | None = None


@dataclass(frozen=True)
class LimitsTable:
    """The keys of `[limits]`."""

    max_memory: Annotated[
        str | None, Doc("Memory that a request may take, such as 6GB.", "what is free")
    ] = None
    max_seconds: Annotated[
        float | None, Doc("Estimated seconds that a request may take.", "no limit")
    ] = None


TABLES: dict[str, type] = {
    "backend": BackendTable,
    "defaults": DefaultsTable,
    "limits": LimitsTable,
    "server": ServerSettings,
}
PREFIXES = {"server": "SERVER_"}  # of the variables of a table
BACKEND_KEYS = tuple(get_fields(BackendTable))
DEFAULT_KEYS = tuple(get_fields(DefaultsTable))
LIMIT_KEYS = tuple(get_fields(LimitsTable))
_VARIABLES = {
    f"LDMREF_{PREFIXES.get(table, '')}{key.upper()}": (table, key)
    for table, cls in TABLES.items()
    for key in get_fields(cls)
}
_VARIABLES["LDMREF_BACKEND"] = _VARIABLES.pop("LDMREF_NAME")
_OTHER_VARIABLES = {"LDMREF_CONFIG", "LDMREF_DEBUG"}


@dataclass(frozen=True)
class Settings:
    """The tables, and the origin of every value: a file or an environment variable."""

    backend: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)


def settings(
    config: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the configuration file and the environment.

    Raises:
        InputError: The file named by `config` or LDMREF_CONFIG does not exist, or is not TOML.
        UsageError: An unknown table, key or variable, or a value of the wrong type.
    """
    environ = os.environ if environ is None else environ
    path = _find(config or environ.get("LDMREF_CONFIG"), environ)
    file = {} if path is None else _read(path)
    file_origin = {f"{table}.{key}": str(path) for table, keys in file.items() for key in keys}
    variables, variable_origin = _variables(environ)
    tables = {table: file.get(table, {}) | variables[table] for table in TABLES}
    tables["backend"] = override_backend(file.get("backend", {}), variables["backend"])
    kept = {f"{table}.{key}" for table, keys in tables.items() for key in keys}
    origin = {k: v for k, v in (file_origin | variable_origin).items() if k in kept}
    return Settings(**tables, origin=origin)


def override_backend(lower: Mapping[str, str], upper: Mapping[str, str]) -> dict[str, str]:
    """Return the `[backend]` table `lower`, overridden by `upper`.

    >>> override_backend({"name": "torch", "dtype": "float16"}, {"name": "numpy"})
    {'name': 'numpy'}
    """
    another = "name" in upper and upper["name"] != lower.get("name", upper["name"])
    return ({} if another else dict(lower)) | dict(upper)


def _find(named: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    if named:
        if problem := not_a_file(named):
            message = f"the configuration file {str(named)!r} {problem}"
            raise InputError(message, code="E-CONFIG-FILE")
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or (
        os.path.join(environ["HOME"], ".config") if environ.get("HOME") else ""
    )
    paths = [Path("ldmref.toml")] + ([Path(home, "ldmref", "ldmref.toml")] if home else [])
    for path in paths:
        dangling = path.is_symlink() and not path.exists()
        if problem := "is a broken link" if dangling else path.exists() and not_a_file(path):
            message = f"the configuration file {str(path)!r} {problem}"
            raise InputError(message, code="E-CONFIG-FILE", hint="rename it, or write the file")
    return next((path for path in paths if path.exists()), None)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    def error(reason: object) -> InputError:
        return InputError(f"cannot read {str(path)!r}: {reason}", code="E-CONFIG-FILE")

    try:
        data = read_file(path, MAX_FILE_SIZE, "E-CONFIG-FILE")
        tables = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise error("it is not UTF-8 text") from None
    except RecursionError:
        raise error("it is nested too deeply") from None
    except ValueError as cause:
        raise error(cause) from cause
    return {table: _check_table(path, table, values) for table, values in tables.items()}


def _check_table(path: Path, table: str, values: object) -> dict[str, Any]:
    def error(message: str, hint: str = "") -> UsageError:
        return UsageError(f"{path.name}: {message}", code="E-CONFIG-KEY", hint=hint)

    if not isinstance(values, dict):
        owner = next((name for name, cls in TABLES.items() if table in get_fields(cls)), None)
        hint = f"it belongs below [{owner}]" if owner else did_you_mean(table, TABLES)
        raise error(f"{table} is outside of a table", hint)
    if table not in TABLES:
        raise error(f"unknown table [{table}]", did_you_mean(table, TABLES))
    try:
        checked = write(read(TABLES[table], values, table))
    except Invalid as cause:
        raise error(str(cause), cause.hint) from None
    return {key: value for key, value in checked.items() if key in values}


def _variables(environ: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the tables that LDMREF_* variables set, and the variable of every value."""
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    origin = {}
    for name, text in environ.items():
        if not name.startswith("LDMREF_") or name in _OTHER_VARIABLES:
            continue
        if name not in _VARIABLES:
            hint = did_you_mean(name, [*_VARIABLES, *_OTHER_VARIABLES])
            raise UsageError(f"unknown environment variable {name}", code="E-ENV", hint=hint)
        table, key = _VARIABLES[name]
        if text:
            tables[table][key] = _convert(name, text, table, key)
            origin[f"{table}.{key}"] = name
    return tables, origin


def _convert(name: str, text: str, table: str, key: str) -> Any:
    """Return the value of a variable in the type of its key."""
    kind = get_fields(TABLES[table])[key].kind
    if kind is tuple:
        return [entry.strip() for entry in text.split(",")]
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        return text if kind is str else read_number(text, kind)
    except (ValueError, KeyError) as error:
        expected = {int: "a whole number", bool: "1 or 0"}.get(kind, "a number")
        raise UsageError(f"{name} must be {expected}, not {text!r}", code="E-ENV") from error


def read_number(text: str, kind: type[int] | type[float] = float) -> Any:
    """Return the number that a variable or a flag writes in the digits 0 to 9.

    Python would also read digits of other scripts, and underscores between them.

    Raises:
        ValueError: The text is not such a number.

    >>> read_number("1e3"), read_number("12", int)
    (1000.0, 12)
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a number")
    return kind(text)
