"""Read the JSON files of diffusers and transformers, and refuse what is not supported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from ldmref.errors import CorruptModelError, InputError, LdmrefError, UnsupportedModelError
from ldmref.support import files

COMPLETE = "download the whole folder"  # if a file of it is missing


def read_json(path: Path, hint: str = COMPLETE) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        hint: What to do if it is missing.

    Returns:
        The object.

    Raises:
        InputError, CorruptModelError: The file is missing, or holds another value.

    >>> import pathlib, tempfile
    >>> from ldmref.io.diffusers import read_json
    >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
    >>> _ = path.write_text('{"in_channels": 4}')
    >>> read_json(path)
    {'in_channels': 4}
    """
    if not path.is_file():
        message = f"{path.parent.name!r} has no file {path.name}"
        raise InputError(message, code="E-MODEL", hint=hint)
    data = files.read_json(path)
    if not isinstance(data, dict):
        raise config_error(f"{path.name} is not a JSON object")
    return data


def config_error(message: str, hint: str = "") -> CorruptModelError:
    """Make the error for a configuration that is damaged."""
    return CorruptModelError(message, code="E-CONFIG", hint=hint)


def unsupported(message: str, hint: str = "") -> UnsupportedModelError:
    """Make the error for a configuration that is whole, and asks for what is not supported."""
    return UnsupportedModelError(message, code="E-CONFIG", hint=hint)


def require_plain(data: Mapping[str, Any], plain: Mapping[str, tuple], where: str) -> None:
    """Refuse a configuration whose field has a value that is not supported.

    Args:
        data: The configuration.
        plain: The supported values of fields, by name. A field may be missing.
        where: What is configured, for the message.

    Raises:
        UnsupportedModelError: A field has another value.

    >>> from ldmref.io.diffusers import require_plain
    >>> require_plain({"act_fn": "silu"}, {"act_fn": ("silu", "swish")}, "the U-Net")
    """
    for name, values in plain.items():
        if name in data and data[name] not in values:
            message = f"{where} has {name} = {shorten(data[name])}, which is not supported"
            raise unsupported(message, hint=f"supported: {', '.join(map(str, values))}")


def require_lists(data: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    """Refuse a field that is not a list, or is an empty one, if its default is a list."""
    for name, default in defaults.items():
        value = data[name]
        if isinstance(default, tuple) and not (isinstance(value, list | tuple) and value):
            hint = f"it needs a list such as {list(default)}"
            raise config_error(f"{where} has {name} = {shorten(value)}, which is not a list", hint)


@contextmanager
def damage_as_config_error(name: str) -> Iterator[None]:
    """Turn any failure to convert a configuration into a `config_error`.

    `name` is the name of the file.
    """
    try:
        yield
    except LdmrefError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise config_error(f"cannot read the configuration of {name!r}: {what}") from error


def require_class(
    kind: object, supported: Collection[str], where: str, code: str, more: str = ""
) -> None:
    """Refuse a class of diffusers that is not supported; `where` begins the message.

    `more` begins the hint, which lists the supported ones.
    """
    if not isinstance(kind, str) or kind not in supported:
        hint = f"{more}supported: " + ", ".join(sorted(supported))
        raise UnsupportedModelError(
            f"{where} a {str(kind)[:80]}, which is not supported", code=code, hint=hint
        )
