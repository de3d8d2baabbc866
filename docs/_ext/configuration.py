"""The reference of ldmref.toml, LDMREF_* variables and recipes, from their declarations."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from docstrings import to_markdown

from ldmref import modes
from ldmref.declare import Field, describe, get_fields
from ldmref.modes.registry import MODES
from ldmref.support.config import TABLES
from ldmref.support.config import __doc__ as SETTINGS
from ldmref.training import FineTuneRecipe, Recipe


def make_page() -> dict[str, str]:
    """Return the page of all settings, by its place."""
    parts = [f"# Configuration\n\n{to_markdown(SETTINGS)}"]
    for table, cls in TABLES.items():
        parts += [f"## \\[{table}\\]\n", settings_table(table, cls)]
    parts.append("## Recipes of `ldmref train`\n\n[Training](training.md) explains recipes.\n")
    parts += [f"### {name}\n\n{text}" for name, text in recipe_tables(Recipe)]
    parts.append(
        "## Recipes of `ldmref finetune`\n\n[Fine-tuning](fine-tuning.md) explains them.\n"
    )
    parts += [f"### {name}\n\n{text}" for name, text in recipe_tables(FineTuneRecipe)]
    return {"configuration.md": "\n".join(parts)}


def schemas() -> dict[str, str]:
    """Return the JSON schema of every mode's request, by its place."""
    return {f"schemas/{name}.json": json.dumps(modes.schema(name), indent=1) for name in MODES}


def settings_table(table: str, cls: type) -> str:
    """Return the table of the keys of one table of ldmref.toml."""
    parameters = {name: field for mode in MODES.values() for name, field in mode.parameters.items()}
    rows = []
    for key, field in get_fields(cls).items():
        prefix = "SERVER_" if table == "server" else ""
        variable = "BACKEND" if (table, key) == ("backend", "name") else prefix + key.upper()
        text = describe(field) or describe(parameters[key])
        rows.append(row(f"`{key}`", f"`LDMREF_{variable}`", type_of(field), in_files(text)))
    return "| key | variable | type | meaning |\n|---|---|---|---|\n" + "".join(rows)


def recipe_tables(recipe: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Return the title and the text of each table of a recipe, tables in it included."""
    inner = []
    rows = []
    for key, field in get_fields(recipe).items():
        if dataclasses.is_dataclass(field.kind):
            inner.append((f"{prefix}{key}", field.kind))
        else:
            meaning = f"{describe(field)} Required." if field.required else describe(field)
            rows.append(row(f"`{key}`", type_of(field), in_files(meaning)))
    if rows:
        title = f"\\[{prefix.rstrip('.')}\\]" if prefix else "Top level"
        made = (recipe.__doc__ or "").startswith(f"{recipe.__name__}(")
        text = "" if made else to_markdown(recipe.__doc__)
        header = "| key | type | meaning |\n|---|---|---|\n"
        yield title, f"{text}\n{header}{''.join(rows)}"
    for name, kind in inner:
        yield from recipe_tables(kind, f"{name}.")


def in_files(text: str) -> str:
    """Return the description of a field for a file: a key that is left out stands for None."""
    return re.sub(r"\bNone: ", "Default: ", text).strip()


def type_of(field: Field) -> str:
    """Return the type of a field in words."""
    name = getattr(field.kind, "__name__", str(field.kind))
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}.get(
        name, "list" if name == "tuple" else name
    )


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"
