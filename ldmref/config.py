"""Settings: where a value comes from when a call does not give it.

Call arguments and command-line flags come first; then `LDMREF_*` environment variables; then
`ldmref.toml` (the file named by `--config`, else the one in the working folder, else the one in the
user's configuration folder); then the model's own defaults.

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
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.errors import InputError, UsageError, did_you_mean

BACKEND_KEYS = {"name": str, "device": str, "dtype": str, "speed": str}
DEFAULT_KEYS = {
    "steps": int, "cfg_scale": float, "sampler": str, "schedule": str, "model": str,
    "width": int, "height": int, "negative_prompt": str,
}  # fmt: skip
LIMIT_KEYS = {"max_memory": str, "max_seconds": float}
TABLES = {"backend": BACKEND_KEYS, "defaults": DEFAULT_KEYS, "limits": LIMIT_KEYS}
_VARIABLES = {
    f"LDMREF_{key.upper()}": (table, key) for table, keys in TABLES.items() for key in keys
}
_VARIABLES["LDMREF_BACKEND"] = _VARIABLES.pop("LDMREF_NAME")
_OTHER_VARIABLES = {"LDMREF_CONFIG", "LDMREF_DEBUG"}


@dataclass(frozen=True)
class Settings:
    """The tables, and the source of every value: a file, or an environment variable."""

    backend: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)


def settings(
    config: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the configuration file and the environment.

    Raises:
        InputError: the file named by `config` or LDMREF_CONFIG does not exist, or is no TOML.
        UsageError: an unknown table, key or variable, or a value of the wrong type.
    """
    environ = os.environ if environ is None else environ
    path = _find(config or environ.get("LDMREF_CONFIG"), environ)
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    origin = {}
    if path is not None:
        for table, values in _read(path).items():
            tables[table] = _check_table(path, table, values)
            origin |= {f"{table}.{key}": str(path) for key in values}
    for name, text in environ.items():
        if not name.startswith("LDMREF_") or name in _OTHER_VARIABLES:
            continue
        if name not in _VARIABLES:
            hint = did_you_mean(name, [*_VARIABLES, *_OTHER_VARIABLES])
            raise UsageError(f"unknown environment variable {name}", code="E-ENV", hint=hint)
        table, key = _VARIABLES[name]
        tables[table][key] = _convert(name, text, TABLES[table][key])
        origin[f"{table}.{key}"] = name
    return Settings(**tables, origin=origin)


def _find(named: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    if named:
        if not Path(named).is_file():
            raise InputError(f"no configuration file {str(named)!r}", code="E-CONFIG-FILE")
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or (
        os.path.join(environ["HOME"], ".config") if environ.get("HOME") else ""
    )
    paths = [Path("ldmref.toml")] + ([Path(home, "ldmref", "ldmref.toml")] if home else [])
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}", code="E-CONFIG-FILE") from error


def _check_table(path: Path, table: str, values: Any) -> dict[str, Any]:
    def error(message: str, hint: str = "") -> UsageError:
        return UsageError(f"{path.name}: {message}", code="E-CONFIG-KEY", hint=hint)

    if table not in TABLES or not isinstance(values, dict):
        raise error(f"unknown table [{table}]", did_you_mean(table, TABLES))
    for key, value in values.items():
        if key not in TABLES[table]:
            raise error(f"unknown key {table}.{key}", did_you_mean(key, TABLES[table]))
        want = TABLES[table][key]
        if type(value) is not want and not (want is float and type(value) is int):
            raise error(f"{table}.{key} must be a {want.__name__}, not {value!r}")
    return values


def _convert(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{name} must be a {kind.__name__}, not {text!r}", code="E-ENV") from error
