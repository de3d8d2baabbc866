"""`ldmref guidance`: the kinds of guidance and their parameters."""

from __future__ import annotations

import click

from ldmref.apps.cli.info import as_json, describe_plugin, make_plugin_rows
from ldmref.apps.cli.tables import TableRow, print_rows
from ldmref.declare import get_fields, schema
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.guidance_registry import GROUP, GUIDANCES


@click.command()
@as_json
def guidance(as_json: bool) -> None:
    """List the kinds of guidance: parameters with their defaults, evaluations, source.

    Plug-ins follow. They are not imported, so only their names and packages are known.
    """
    rows = [guidance_row(cls) for cls in GUIDANCES.values()]
    for plugin in make_plugin_rows(GROUP, GUIDANCES):
        rows.append(dict.fromkeys(rows[0]) | plugin)

    def cells(row: TableRow) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], "no", "", row["reason"]
        if row["package"]:
            return row["name"], "", "", describe_plugin(row)
        defaults = (f"{key}={in_words(value)}" for key, value in row["defaults"].items())
        evaluations = f"{row['evaluations_per_step']} per step"
        return row["name"], ",".join(defaults), evaluations, row["source"]

    print_rows(rows, as_json, cells)


def guidance_row(cls: type[Guidance]) -> TableRow:
    """Return the declaration of a built-in guidance."""
    return {
        "name": cls.name,
        "defaults": {name: field.default for name, field in get_fields(cls).items()},
        "parameters": schema(cls)["properties"],
        "evaluations_per_step": cls().evaluations(2.0),
        "source": cls.source,
        "description": (cls.__doc__ or "").splitlines()[0],
        "package": "",
        "reason": "",
    }


def in_words(value: object) -> str:
    """Return a default as `--guidance` reads it."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return "none" if value is None else str(value)


COMMANDS = (guidance,)
