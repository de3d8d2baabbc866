"""`ldmref schedule`: the atlas of flow schedules, and its inverse, which names a list."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.info import as_json
from ldmref.apps.cli.progress import print_line
from ldmref.apps.cli.tables import print_rows
from ldmref.errors import UsageError, short_repr

if TYPE_CHECKING:
    import numpy as np

    from ldmref.atlas import FlowSchedule

option = click.option


@click.command()
@click.argument("family", required=False)
@option("--size", metavar="WxH", default="1024x1024", help="Pixels. Default: 1024x1024.")
@option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Default: the family's.")
@option(
    "--program",
    "programs",
    multiple=True,
    metavar="NAME",
    help="Program, such as diffusers or comfyui; two are printed side by side. Default: the first.",
)
@option("--plot", metavar="FILE", help="Also plot the flow times: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace an existing plot.")
@option("--list", "show_list", is_flag=True, help="List families, programs and their rules.")
@as_json
def schedule(
    family: str | None,
    size: str,
    plot: str | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print the flow times of a family in several programs, or name a list of flow times.

    Families are FLUX.1, SD3, Z-Image, ...; flow times are also called sigmas. Without FAMILY,
    numbers on standard input are named: which family and program makes them, and with which shift.
    Timesteps (1000 sigma) are accepted, and whatever Python or torch prints.
    """
    from ldmref.atlas import count_tokens, find_flow_schedule, make_flow_sigmas

    if flags["show_list"]:
        _print_list(family, as_json)
        return
    if family is None:
        _name_numbers(_read_standard_input(), as_json)
        return
    rows = [find_flow_schedule(family, program) for program in flags["programs"] or (None,)]
    file = None
    if plot is not None:
        from ldmref.plots.files import check_plot

        file = check_plot(plot, overwrite)
    steps = rows[0].steps if flags["steps"] is None else flags["steps"]
    tokens = count_tokens(*_pixels(size))
    columns = [make_flow_sigmas(row, steps, tokens) for row in rows]
    if as_json:
        for row, sigmas in zip(rows, columns, strict=True):
            click.echo(json.dumps(asdict(row) | {"tokens": tokens, "made": sigmas.tolist()}))
    else:
        _print_columns(rows, columns, size, tokens)
    if file is not None:
        _write_plot(file, rows, columns, overwrite)


def _pixels(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{2,5})[x×]([0-9]{2,5})", size)
    if not match or min(map(int, match.groups())) < 16:
        message = f"{short_repr(size)} is no size in pixels"
        raise UsageError(message, code="E-SIZE", hint="as in 1024x1024")
    return int(match[1]), int(match[2])


def _print_list(family: str | None, as_json: bool) -> None:
    from ldmref.atlas import find_flow_schedule, read_flow_schedules

    rows = read_flow_schedules()
    if family is not None:
        name = find_flow_schedule(family).family
        rows = tuple(row for row in rows if row.family == name)
    print_rows(
        [asdict(row) | {"rule": row.rule, "spacing": row.spacing} for row in rows],
        as_json,
        lambda row: (row["family"], row["program"], row["spacing"], row["rule"], row["time"]),
    )


def _print_columns(
    rows: list[FlowSchedule], columns: list[np.ndarray], size: str, tokens: int
) -> None:
    steps = len(columns[0]) - 1
    for row in rows:
        print_line(f": {row.spacing}, {row.rule}", row.name)
        remark = f"; {row.remark}" if row.remark else ""
        print_line(f"  t: {row.time}{remark}  [{row.source}]")
    print_line(f"{steps} steps, {size}, {tokens} tokens")
    two = len(rows) == 2
    heads = [row.program for row in rows] + ["difference"] * two
    widths = [max(10, len(head)) for head in heads]
    print_line("  ".join(["step", *(h.rjust(w) for h, w in zip(heads, widths, strict=True))]))
    for i in range(steps + 1):
        values = [float(column[i]) for column in columns]
        texts = [f"{value:.6f}" for value in values]
        if two:
            texts.append(f"{values[1] - values[0]:+.6f}")
        cells = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
        print_line("  ".join([f"{i:4d}", *cells]))


def _write_plot(
    file: Path, rows: list[FlowSchedule], columns: list[np.ndarray], overwrite: bool
) -> None:
    from ldmref.plots.axes import require_matplotlib
    from ldmref.plots.files import save_plot

    figure, axes = require_matplotlib().subplots()
    for row, sigmas in zip(rows, columns, strict=True):
        axes.plot(range(len(sigmas)), sigmas, "o-", markersize=3, label=f"{row.name}: {row.rule}")
    axes.set(xlabel="step", ylabel="flow time")
    axes.legend()
    save_plot(figure, file, overwrite)


def _read_standard_input() -> str:
    from ldmref.atlas.reading import MAX_TEXT

    if sys.stdin is None or sys.stdin.isatty():
        message = "a family or numbers on standard input are needed"
        raise UsageError(message, code="E-USAGE", hint="ldmref schedule --list lists the families")
    return sys.stdin.read(MAX_TEXT + 1)


def _name_numbers(text: str, as_json: bool) -> None:
    from ldmref.atlas import name_numbers, name_sigmas, read_numbers

    if as_json:
        for match in name_sigmas(*read_numbers(text)):
            click.echo(json.dumps(asdict(match) | {"rule": match.row.rule}))
        return
    same, nearest, fitted = name_numbers(text)
    if same:
        print_line("", same[0])
        for other in same[1:]:
            print_line(f"  the same numbers: {other}")
    else:
        print_line("", "unknown")
    for fit in fitted:
        print_line(f"  {fit}")
    if nearest:
        print_line(f"  nearest{' others' if same else ''}: {'; '.join(nearest)}")
    elif not same:
        print_line("  no schedule is near")


COMMANDS = (schedule,)
