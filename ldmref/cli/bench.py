"""`ldmref bench`: speed and memory beside the peers, profiles, and how cost grows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ldmref.bench.report import goals
from ldmref.bench.rows import ROWS, WORKS, Row, quickly, select
from ldmref.cli.progress import one_line, say
from ldmref.errors import BackendUnavailable, OutputError, UsageError, VerifyError

SCHEMA = 1
option = click.option


@click.command()
@click.argument("names", metavar="[ROW]...", nargs=-1)
@option("--rounds", type=click.IntRange(1, 1000), help="Default: 5; with --quick 2.")
@option("--backend", metavar="NAME", help="Only rows on it; of --profile and --grow, this one.")
@option("--size", type=click.IntRange(8, 4096), help="Pixels of a side, such as 512 or 256.")
@option("--steps", type=click.IntRange(1, 1000), help="Sampler steps of whole pictures.")
@option("--json", "json_file", metavar="FILE", help="Write every number, and what ran where.")
@option("--plot", "plot_file", metavar="FILE", help="Write a plot: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace files that exist.")
@option(
    "--profile", "profiled", is_flag=True, help="Where the time goes, by operation, shape, layer."
)
@option("--grow", type=click.Choice(["resolution", "batch", "steps"]), help="How cost grows.")
@option("--model", metavar="PRESET", help="Of --profile and --grow; default: the row's.")
@option("--list", "listed", is_flag=True, help="The rows, with target and aim.")
@option("--quick", is_flag=True, help="On the smallest model, in seconds: does it run?")
def bench(names: tuple[str, ...], **flags: Any) -> None:
    """Measure ldmref beside diffusers, transformers, torch.compile and ONNX Runtime, in turn.

    ROW is a row's name or the beginning of one, such as unet or memory; without one, all that can
    run here are measured. Both sides compute the same from the same weights; where their outputs
    differ, nothing is measured. Ratios are ldmref / peer: below 1, ldmref needs less. Exit code 4
    if two sides differ, 5 if nothing could run. Full rows take minutes and gigabytes of memory.
    """
    if flags["profiled"] and flags["grow"]:
        raise UsageError("--profile and --grow are two runs", code="E-USAGE")
    if flags["model"] and not (flags["profiled"] or flags["grow"]):
        raise UsageError(
            "--model goes with --profile or --grow: rows have their own", code="E-USAGE"
        )
    if flags["listed"]:
        for row in select(names, backend=flags["backend"]):
            click.echo(f"{row.name:<24}{row.backend} beside {row.peer_title}, "
                       f"{goals(row.target, row.aim)}\n  {row.title}")  # fmt: skip
        return
    files = _Files(flags["json_file"], flags["plot_file"], flags["overwrite"])
    chosen = {key: flags[key] for key in ("size", "steps", "quick")}
    rounds = flags["rounds"] or (2 if flags["quick"] else 5)
    if flags["profiled"] or flags["grow"]:
        row = _single(names, flags["backend"], flags["model"], **chosen)
        _profile(row, files) if flags["profiled"] else _grow(row, flags, rounds, files)
    else:
        _rows(select(names, backend=flags["backend"], **chosen), flags["quick"], rounds, files)


def _rows(rows: Sequence[Row], quick: bool, rounds: int, files: _Files) -> None:
    from ldmref.bench.report import text
    from ldmref.bench.run import run

    sizes = {"sizes": (256,)} if quick else {}
    records, skipped, differing = [], [], []
    for row in rows:
        try:
            record = run(row, rounds, **sizes)
        except BackendUnavailable as error:
            skipped.append({"name": row.name, "reason": str(error), "hint": error.hint})
            say(one_line(f"{row.name}: skipped: {error} ({error.hint})"))
        except VerifyError as error:
            differing.append(row.name)
            say(one_line(f"{row.name}: {error}"))
        else:
            records.append(record)
            click.echo("\n".join(text(record)))
    if quick and records:
        click.echo("--quick: both sides ran and agree; the numbers mean nothing")
    files.write({"rows": records, "skipped": skipped, "differing": differing, "quick": quick})
    if records and files.plot:
        from ldmref.bench.plot import plot_rows

        plot_rows(records, files.plot, overwrite=files.overwrite)
    if differing:
        raise VerifyError(f"the two sides differ: {', '.join(differing)}", code="E-BENCH")
    if skipped and not records:
        reasons = dict.fromkeys(entry["reason"] for entry in skipped)
        raise BackendUnavailable(
            f"nothing could be measured: {'; '.join(reasons)}", code="E-BENCH",
            hint=skipped[0]["hint"],
        )  # fmt: skip


def _profile(row: Row, files: _Files) -> None:
    from ldmref.bench.profile import profile
    from ldmref.bench.report import profile_text

    found = profile(row)
    click.echo("\n".join(profile_text(found)))
    files.write({"profile": found})
    if files.plot:
        from ldmref.bench.plot import plot_profile

        plot_profile(found, files.plot, overwrite=files.overwrite)


def _grow(row: Row, flags: dict[str, Any], rounds: int, files: _Files) -> None:
    from ldmref.bench.grow import SERIES, SMALL, grow
    from ldmref.bench.report import point_text

    what = flags["grow"]
    small = row.model != "sd15"
    values = (SMALL if small else SERIES)[what]
    click.echo(f"{row.model} on {row.backend}: {WORKS['picture' if what == 'steps' else row.work]}")
    points = []
    for point in grow(row, what, values, rounds):
        click.echo(point_text(point))
        points.append(point)
    files.write({"grow": points})
    if files.plot:
        from ldmref.bench.plot import plot_growth

        plot_growth(points, files.plot, overwrite=files.overwrite)


def _single(
    names: Sequence[str],
    backend: str | None,
    model: str | None,
    *,
    size: int | None,
    steps: int | None,
    quick: bool,
) -> Row:
    """The row that --profile and --grow look at; if none is named, the U-Net's at 512 pixels."""
    if len(names) > 1 or (names and names[0] not in ROWS):
        raise UsageError("--profile and --grow take one row", code="E-ROW", hint="see --list")
    row = ROWS[names[0]] if names else ROWS["unet-numpy-64"]
    row = replace(row, backend=backend) if backend else row
    row = quickly(replace(row, measured="time")) if quick else row
    if model:
        from ldmref.models.presets import preset

        size = size or preset(model).defaults.width
        row = replace(row, model=model)
    return replace(row, size=size or row.size, steps=steps or row.steps)


class _Files:
    """What is written at the end; refused at the beginning if it cannot be."""

    def __init__(self, json_file: str | None, plot_file: str | None, overwrite: bool):
        self.json, self.plot = (Path(name) if name else None for name in (json_file, plot_file))
        self.overwrite = overwrite
        for path in (self.json, self.plot):
            if path is None:
                continue
            if path.exists() and not overwrite:
                raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add --overwrite")
            if not path.absolute().parent.is_dir():
                raise OutputError(
                    f"the folder {str(path.parent)!r} does not exist", code="E-FOLDER"
                )
        if self.plot:
            if self.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
                raise UsageError(
                    f"cannot plot into {str(self.plot)!r}", code="E-FORMAT",
                    hint="a plot's name ends in .png, .svg or .pdf",
                )  # fmt: skip
            from ldmref.bench.plot import need_matplotlib

            need_matplotlib()

    def write(self, found: dict[str, Any]) -> None:
        """The JSON file, if one is asked for."""
        if self.json is None:
            return
        from ldmref.bench.machine import facts
        from ldmref.io.atomic import atomic_write

        when = datetime.now(UTC).isoformat(timespec="seconds")
        whole = {"schema": SCHEMA, "time": when, "machine": facts()} | found
        with atomic_write(self.json, overwrite=self.overwrite) as file:
            file.write(json.dumps(whole, indent=1).encode() + b"\n")


COMMANDS = (bench,)
