"""Configurations as they are declared, from the values of a config.json of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from ldmref.declare import get_fields
from ldmref.errors import short_repr
from ldmref.io.diffusers.checks import config_error, require_plain
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.validate import read_fields

Section = TypeVar("Section")
Denoiser = TypeVar("Denoiser", bound=DenoiserConfig)
CHANNELS = ("in_channels", "out_channels")
NOTHING: Mapping[str, Any] = MappingProxyType({})


def read_declared(
    omitted: Section, data: Mapping[str, Any], where: str, names: Mapping[str, str] = NOTHING
) -> Section:
    """Return a configuration with the fields that a config.json holds; others are left alone.

    Args:
        omitted: The values of the fields that the file omits: those of diffusers' class.
        data: The contents of the file.
        where: The name of the configuration in messages.
        names: The names of fields there, where they are not ours.

    Raises:
        CorruptModelError: Names the first field whose value is not as declared.
    """
    stored = {name: names.get(name, name) for name in get_fields(type(omitted))}
    values = {name: data[key] for name, key in stored.items() if key in data}
    return read_fields(omitted, values, where)


def read_denoiser(
    omitted: Denoiser,
    data: Mapping[str, Any],
    plain: Mapping[str, tuple[Any, ...]] = NOTHING,
    packed: int = 1,
) -> Denoiser:
    """Return the configuration of a denoiser in the contents of a config.json of diffusers.

    Every field of the class of `omitted` is read under its name; entries that are no fields do not
    matter, unless `plain` names them. Without `out_channels`, or with null, it is `in_channels`.

    Args:
        omitted: The values of the fields that the file omits: those of diffusers' class.
        data: The contents of the file.
        plain: The supported values of entries that ldmref has no field for, as for `require_plain`.
        packed: The number of cells of the latents that diffusers counts as channels of one token.

    Returns:
        The configuration, each value of its declared type and range.

    Raises:
        CorruptModelError: Names the first entry that is not supported.

    >>> from ldmref.families import read_denoiser
    >>> from ldmref.families.flux import FluxConfig
    >>> config = read_denoiser(FluxConfig(), {"in_channels": 64, "num_layers": 5}, packed=4)
    >>> config.in_channels, config.out_channels, config.num_layers, config.num_single_layers
    (16, 16, 5, 38)
    """
    network = omitted.network
    require_plain(data, plain, f"the {network}'s configuration")
    values = dict(data)
    for name in CHANNELS:
        value = values.get(name)
        if packed > 1 and value is not None:
            if not isinstance(value, int) or value % packed:
                problem = f"{name} = {short_repr(value)}, no multiple of {packed}"
                raise config_error(f"the {network} has {problem}")
            values[name] = value // packed
    if values.get("out_channels") is None:
        values["out_channels"] = values.get("in_channels", omitted.in_channels)
    return read_declared(omitted, values, network)
