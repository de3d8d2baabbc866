"""`ldmref passport`: make kits for ports of a model, and judge a port's dump by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.diff import print_report
from ldmref.apps.cli.options import PATH
from ldmref.apps.cli.progress import ProgressBar, print_line, say
from ldmref.errors import NotCompared, UsageError, VerifyError
from ldmref.support.foreign_code import foreign_code, printing_to_stderr

if TYPE_CHECKING:
    from ldmref.passport import Kit, Verdict

CODE = "E-PASSPORT"


@click.group()
def passport() -> None:
    """Make a kit for ports of a model, and judge what a port computed from it."""


@passport.command()
@click.argument("family", required=False)
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Folder to write.")
@click.option("--all", "every", is_flag=True, help="A kit of each model, in a folder for each.")
@click.option("--overwrite", is_flag=True, help="Replace folders that hold kits.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each kit.")
def make(family: str | None, output: str, every: bool, overwrite: bool, as_json: bool) -> None:
    """Write the kit of a family to a folder.

    A kit is a small random model under its makers' names, and all that a port of it must compute:
    tokens, positions, noise, schedules, every layer in float64, the error that a number format
    makes, and a wrong dump for each known fault. Two runs on one machine write the same bytes.

    FAMILY may also be MODULE:FUNCTION, a function that is imported, also from this folder, and
    returns a PyTorch module that ldmref does not know, and the arguments of its call by name:
    (module, {NAME: value}).

    Example: ldmref passport make z-image -o z-image-kit
    """
    from ldmref.passport import make_kit, make_kits, make_module_kit

    if every == (family is not None):
        hint = "ldmref passport make FAMILY -o FOLDER; ldmref passport list prints the families"
        raise UsageError("give a family or --all", code="E-USAGE", hint=hint)
    if family is not None and ":" in family:
        from ldmref.locate.modules.loading import make_original

        with printing_to_stderr():
            kit = make_module_kit(family, make_original(family), output, overwrite=overwrite)
        _print_kit(kit, as_json)
        return
    if family is not None:
        _print_kit(make_kit(family, output, overwrite=overwrite), as_json)
        return
    for kit in make_kits(output, overwrite=overwrite):
        _print_kit(kit, as_json)


@passport.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each family.")
def list_families(as_json: bool) -> None:
    """List the families that have kits."""
    from ldmref.passport import kit_families
    from ldmref.passport.make import distinct_families

    distinct = set(distinct_families())
    for family in kit_families():
        if as_json:
            click.echo(json.dumps({"family": family, "in_all": family in distinct}))
        else:
            print_line(family)


@passport.command()
@click.argument("dump", type=PATH)
@click.option("--kit", "folder", required=True, type=PATH, metavar="FOLDER", help="The kit.")
@click.option(
    "--against",
    metavar="MODULE:FUNCTION",
    help="The function that made the kit of a PyTorch module; its layers name causes.",
)
@click.option(
    "--dtype",
    metavar="NAME",
    help="Number format of the port: float64, float32, float16 or bfloat16. Default: as recorded.",
)
@click.option(
    "--names",
    type=PATH,
    metavar="FILE",
    help="JSON or TOML file with the kit's name for each name of the port.",
)
@click.option("--badge", metavar="FILE", help="Write a badge to FILE.json and FILE.svg.")
@click.option("--overwrite", is_flag=True, help="Replace the files of --badge.")
@click.option("--all", "everything", is_flag=True, help="List every layer, not only faults.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show progress.")
def check(
    dump: str,
    folder: str,
    against: str | None,
    badge: str | None,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Judge a port's dump by the kit that the port ran.

    DUMP is what ldmref diff reads. The exit code is 4 if something differs, and 10 if nothing
    differs but the dump lacks a part of the kit's run.

    Example: ldmref passport check port.safetensors --kit z-image-kit --badge passport
    """
    from ldmref.io.atomic import check_writable
    from ldmref.passport import check_dump, read_kit, write_badge
    from ldmref.passport.badge import badge_files
    from ldmref.trace.readers import load_trace

    kit = read_kit(folder)
    port = load_trace(dump, flags["names"])
    for file in badge_files(Path(badge)) if badge is not None else ():
        check_writable(file, overwrite)
    made = None
    if against is not None:
        from ldmref.locate.modules.loading import make_original

        with printing_to_stderr():
            made = make_original(against)
    bar = ProgressBar("none" if flags["quiet"] or as_json else "auto")
    try:
        with printing_to_stderr(), foreign_code(against or "the kit", "E-AGAINST"):
            verdict = check_dump(
                port,
                kit,
                against=made,
                dtype=flags["dtype"],
                progress=lambda n, calls, call: bar.update(max(n, 1), calls, 0, 1, call, "calls"),
            )
    finally:
        bar.clear()
    if badge is not None:
        for file in write_badge(verdict, Path(badge), overwrite):
            say(f"note: wrote {file}")
    if as_json:
        click.echo(json.dumps(verdict.to_dict()))
    else:
        print_report(verdict.report, flags["everything"])
    _conclude(verdict, as_json)


COMMANDS = (passport,)


def _print_kit(kit: Kit, as_json: bool) -> None:
    if as_json:
        row = {"folder": str(kit.folder), "family": kit.family, "version": kit.version}
        click.echo(json.dumps(row | {"digest": kit.digest, "faults": len(kit.wrong)}))
        return
    print_line(f"wrote the kit {kit.label} to {kit.folder}: {len(kit.wrong)} wrong dumps")
    print_line(f"  digest {kit.digest}")


def _conclude(verdict: Verdict, as_json: bool) -> None:
    """Print the verdict, or raise if the port does not pass."""
    from ldmref.locate.findings import DIFFERS

    text = f"{verdict.kit}: {verdict}"
    if verdict.verdict == DIFFERS:
        error = VerifyError(text, code=CODE)
        error.is_printed = as_json
        raise error
    if not verdict.passed:
        hint = "the kit's trace.json lists every call; a port passes that has all of them"
        missing = NotCompared(text, code=CODE, hint=hint)
        missing.is_printed = as_json
        raise missing
    if not as_json:
        print_line(text)
