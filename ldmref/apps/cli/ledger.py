"""`ldmref ledger`: the cost of quantisation, layer by layer, and that of noise of the same size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import with_options
from ldmref.apps.cli.progress import one_line, print_line, say
from ldmref.apps.cli.quantize import RULE, read_rule
from ldmref.apps.cli.shared_options import BACKEND, CHANGING, FINDING, TOKENIZER
from ldmref.errors import UsageError

if TYPE_CHECKING:
    from ldmref.io.quantizing import QuantizationRule
    from ldmref.ledger import QuantizationLedger

option = click.option
EVERY = "all"


@click.command()
@click.argument("model")
@click.argument("other", required=False)
@option(
    "--type",
    "kinds",
    multiple=True,
    metavar="TYPE",
    help="Quantise MODEL in memory, instead of OTHER; several types, or all, give one line each.",
)
@with_options(RULE)
@option("-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="Default: a red heart.")
@option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Default: the model's own.")
@option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of the images. Default: 0."
)
@option(
    "--controls",
    type=click.IntRange(1, 100),
    default=3,
    metavar="N",
    help="Random perturbations of the same norm for each error. Default: 3.",
)
@option(
    "--layers",
    metavar="PATTERN",
    help="Layers to exchange one at a time, such as 'mid_block.*'; none takes none. Default: all, "
    "with several types none.",
)
@option(
    "--floor",
    default="float64",
    metavar="DTYPE",
    help="Number format whose difference is the noise floor. Default: float64.",
)
@option("--plot", metavar="FILE", help="Also plot it: .png, .svg, .pdf.")
@option("--overwrite", is_flag=True, help="Replace an existing plot.")
@with_options(FINDING, (TOKENIZER,), CHANGING, BACKEND)
@option("--json", "as_json", is_flag=True, help="Print JSON, one object per model or type.")
@option("-q", "--quiet", is_flag=True, help="Print no progress.")
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def ledger(
    model: str,
    other: str | None,
    kinds: tuple[str, ...],
    plot: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show what quantisation costs: weights, outputs and image, layer by layer.

    MODEL is whole, OTHER quantised; or MODEL is quantised in memory with --type. Each error is
    shown with the noise floor of the number format and with a control: the same quantity for random
    perturbations of the same norm. The share of a layer is that of its squared error of the image
    when it alone is exchanged.
    """
    from ldmref.apps.cli.session import opening_options
    from ldmref.io.checkpoint import Checkpoint
    from ldmref.ledger import make_ledger, make_ledgers, to_lines, to_summary
    from ldmref.loading import open_backend

    rules = _read_rules(kinds, flags)
    if (other is None) == (not rules):
        message = "give OTHER, a quantised model, or --type, one of both"
        raise UsageError(message, code="E-USAGE", hint="ldmref ledger emoji --type Q4_K")
    file = None
    if plot is not None:
        from ldmref.plots.files import check_plot

        file = check_plot(plot, flags["overwrite"])
    ops = open_backend(flags["backend"], flags["device"], flags["dtype"], speed=flags["speed"])
    settings = _read_settings(flags, len(rules) > 1)
    first = Checkpoint.open(model, opening_options(flags))

    def progress(line: str) -> None:
        if not flags["quiet"]:
            say(one_line(line))

    made: list[QuantizationLedger]
    if other is not None:
        made = [make_ledger(first, other, settings, backend=ops, progress=progress)]
    else:
        made = make_ledgers(first, rules, settings, backend=ops, progress=progress)
    if as_json:
        lines = [json.dumps(one.to_dict()) for one in made]
    else:
        lines = to_lines(made[0]) if len(made) == 1 else to_summary(made)
    for line in lines:
        print_line(line)
    if file is not None:
        _write_plot(file, made, flags["overwrite"])


def _read_rules(kinds: tuple[str, ...], flags: dict[str, Any]) -> list[QuantizationRule]:
    from ldmref.io.quantizing import list_types

    return [read_rule(kind, flags) for kind in (list_types() if EVERY in kinds else kinds)]


def _read_settings(flags: dict[str, Any], several: bool) -> Any:
    from ldmref.ledger import LedgerSettings
    from ldmref.ledger.making import PROMPT

    layers = flags["layers"] if flags["layers"] is not None else "none" if several else "*"
    return LedgerSettings(
        flags["prompts"] or (PROMPT,),
        flags["steps"],
        flags["seed"],
        flags["controls"],
        "" if layers == "none" else layers,
        flags["floor"],
    )


def _write_plot(file: Path, made: list[QuantizationLedger], overwrite: bool) -> None:
    from ldmref.apps.cli.ledger_plot import plot_ledger, plot_types
    from ldmref.plots.files import save_plot

    axes = plot_ledger(made[0]) if len(made) == 1 else plot_types(made)
    save_plot(axes.figure, file, overwrite)


COMMANDS = (ledger,)
