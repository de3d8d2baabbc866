"""`ldmref quantize`: write the denoiser of a model with quantised weights, as a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import PATH, with_options
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.shared_options import FINDING, LORA
from ldmref.errors import OutputError

if TYPE_CHECKING:
    from ldmref.io.quantizing import QuantizationRule

option = click.option

RULE = (
    option(
        "--edges", is_flag=True, help="Also quantise the first and last layers, outside of blocks."
    ),
    option(
        "--keep",
        multiple=True,
        metavar="TEXT",
        help="Leave tensors whole whose names contain TEXT. May be repeated.",
    ),
    option(
        "--own-rows",
        is_flag=True,
        help="Leave tensors whole whose rows are not whole blocks, as stable-diffusion.cpp does. "
        "Default: join their rows, as ComfyUI-GGUF does.",
    ),
)


@click.command()
@click.argument("model")
@option("--type", "kind", required=True, metavar="TYPE", help="Such as Q8_0, Q4_K or BF16.")
@option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The .gguf file to write.")
@with_options(RULE, FINDING, (LORA,))
@option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@option("--json", "as_json", is_flag=True, help="Print a JSON object on standard output.")
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def quantize(
    model: str,
    kind: str,
    output: str,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Write the denoiser of a model as a GGUF file with quantised weights.

    MODEL is a name from ldmref models, a folder, or a single file. The names of the tensors are
    those of the family's single files. Biases, norms, small tensors and the layers outside of
    blocks stay whole. ldmref ledger says what the type costs.

    Types: Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, Q3_K, Q2_K, MXFP4, NVFP4, BF16, F16.
    """
    from ldmref.apps.cli.session import opening_options
    from ldmref.io.atomic import check_writable
    from ldmref.io.checkpoint import Checkpoint
    from ldmref.io.quantizing import quantize_model, require_written

    rule = read_rule(kind, flags)
    path = Path(output)
    require_written(rule, path)
    try:
        check_writable(path, overwrite)
    except OutputError as error:
        hint = error.hint.replace("overwrite=True", "--overwrite")
        raise OutputError(str(error), code=error.code, hint=hint) from None
    checkpoint = Checkpoint.open(model, opening_options(flags))
    written = quantize_model(checkpoint, rule, path, overwrite=overwrite)
    size = path.stat().st_size
    if as_json:
        counts = {
            name: dict(zip(("tensors", "numbers", "bytes"), row, strict=True))
            for name, row in written.types.items()
        }
        row = {"output": output, "bytes": size, "bits": written.bits, "types": counts}
        click.echo(json.dumps(row))
        return
    types = ", ".join(f"{count} {name}" for name, (count, _, _) in written.types.items())
    say(one_line(f"{path}  {types}  {written.bits:.2f} bits per weight  {size / 1e6:.1f} MB"))


def read_rule(kind: str, flags: Mapping[str, Any]) -> QuantizationRule:
    """Return the rule of a type and the flags in `RULE`."""
    from ldmref.io.quantizing import QuantizationRule

    return QuantizationRule(kind, flags["edges"], flags["keep"], not flags["own_rows"])


COMMANDS = (quantize,)
