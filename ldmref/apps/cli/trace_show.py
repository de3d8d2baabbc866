"""`ldmref trace show`: the calls of a trace, and the values of its tensors."""

from __future__ import annotations

from dataclasses import asdict

import click

from ldmref.apps.cli.options import PATH, option, with_options
from ldmref.apps.cli.tables import TableRow, print_rows

LAYERS = option(
    "--layers",
    multiple=True,
    metavar="GLOB",
    help="Only layers whose names match, such as 'mid_block.*'; * also matches dots. The inputs "
    "and outputs of whole networks are always recorded. May be repeated.",
)
CALLS = option(
    "--calls",
    multiple=True,
    metavar="GLOB",
    help="Only calls whose names match, such as 'unet.*' or vae.decode. May be repeated.",
)
JSON = option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@click.command()
@click.argument("folder", type=PATH)
@with_options((LAYERS, CALLS, JSON))
def show(folder: str, layers: tuple[str, ...], calls: tuple[str, ...], as_json: bool) -> None:
    """List the calls of a trace; with --layers or --calls, every tensor and its values.

    FOLDER may also be what another program recorded: a .safetensors or .npz file, a folder of
    .npy files, or a GGUF file, whose tensors have a trace's names.
    """
    from ldmref.trace import Selection, load_trace, show_bytes
    from ldmref.trace.summary import summarize_calls, summarize_tensors

    found = load_trace(folder)
    selection = Selection(layers, calls)
    if not layers and not calls:
        rows = [asdict(row) for row in summarize_calls(found)]
        print_rows(
            rows,
            as_json,
            lambda row: (
                row["call"],
                f"{row['layers']} layers",
                f"{row['tensors']} tensors",
                show_bytes(row["bytes"]),
            ),
        )
        return
    names = [entry.layer for entry in found.entries]
    selection.require_matches(found.calls, names)
    print_rows(
        [asdict(row) for row in summarize_tensors(found, selection)],
        as_json,
        lambda row: (
            f"{row['call']}/{row['layer']}",
            row["role"],
            row["dtype"],
            "x".join(map(str, row["shape"])) or "number",
            *(format_number(row[key]) for key in ("least", "greatest", "mean")),
            describe_bad(row),
        ),
    )


def format_number(value: float | None) -> str:
    """Return a number with four digits, "-" for None."""
    return "-" if value is None else f"{value:.4g}"


def describe_bad(row: TableRow) -> str:
    """Return how many values are NaN or infinite, "" if none is."""
    counts = [f"{row[key]} {key}" for key in ("nan", "infinite") if row[key]]
    return ", ".join(counts)
