"""`ldmref check operations` and `ldmref check images`: errors of backends and their bounds."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.options import with_options
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.shared_options import BACKEND, CONFIG
from ldmref.errors import UsageError, VerifyError, did_you_mean

if TYPE_CHECKING:
    from ldmref.check.images import ImageComparison
    from ldmref.testing.measured import MeasuredOperation

option = click.option
SEED = option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    metavar="N",
    help="Seed of the random inputs. Default: 0.",
)


@click.command()
@with_options(BACKEND, (CONFIG, SEED))
@option(
    "--cases",
    type=click.IntRange(1, 100_000),
    default=100,
    metavar="N",
    help="Number of random inputs per operation. Default: 100.",
)
@option("--only", metavar="NAME", help="Check only this operation.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object per operation.")
def operations(cases: int, seed: int, only: str | None, as_json: bool, **flags: Any) -> None:
    """Check the operations of a backend against their error bounds.

    Each operation runs on random inputs, easy and hard, and on the inputs of the conformance suite.
    Errors are differences from the NumPy reference (in float64, for float64 in extended precision),
    relative to the largest value of the result. The ratio is the largest error / bound. A bound is
    derived from the rounding of each step, or calibrated: docs/error-bounds.md. The exit code is 4
    if an error exceeds its bound.
    """
    from ldmref.backends.bounds import OPERATIONS
    from ldmref.loading import open_backend
    from ldmref.testing import check_backend
    from ldmref.testing.measured import measure_errors

    if only is not None and only not in OPERATIONS:
        hint = did_you_mean(only, OPERATIONS)
        raise UsageError(f"no operation is called {only!r}", code="E-CHECK", hint=hint)
    backend = open_backend(
        flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
    )
    failed = []
    for row in measure_errors(backend, [only] if only else OPERATIONS, cases, seed):
        click.echo(json.dumps(row.to_dict()) if as_json else _format_operation(row))
        if not row.ok:
            failed.append(row.operation)
    checks = [c for c in check_backend(backend) if only in (None, c.operation)]
    defects = [check for check in checks if not check.ok]
    for check in defects:
        say(one_line(str(check)))
    if as_json:
        counts = {"conformance": len(checks), "ok": len(checks) - len(defects)}
        click.echo(json.dumps(counts | {"failed": [str(check) for check in defects]}))
    else:
        click.echo(f"conformance: {len(checks) - len(defects)} of {len(checks)} comparisons hold")
    failed += [check.operation for check in defects]
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise VerifyError(f"errors exceed their bounds: {names}", code="E-CHECK")
    if not as_json:
        click.echo(f"all errors are within their bounds on {backend!r}, {cases} inputs each")


def _format_operation(row: MeasuredOperation) -> str:
    verdict = "ok" if row.ok else f"FAILED: {row.case}" + f"; {row.note}" * bool(row.note)
    return (
        f"{row.operation:16}  {row.basis:10}  {row.cases:>6} inputs  error {row.error:8.2g}  "
        f"bound {row.bound:8.2g}  ratio {row.ratio:5.3f}  {verdict}"
    )


@click.command()
@click.argument("prompt", default="red heart")
@option("--backend", metavar="NAMES", default="", help="Names, separated by commas. Default: all.")
@option("--dtype", metavar="NAMES", default="", help="Number formats. Default: all.")
@option("--speed", metavar="NAMES", default="", help="Speeds. Default: all.")
@option(
    "--sampler",
    metavar="NAMES",
    default="",
    help="Samplers, separated by commas. Default: ddim,euler,euler_a,heun,dpmpp_2m.",
)
@option("--steps", type=click.IntRange(1, 1000), metavar="N", help="Steps. Default: the model's.")
@option("--model", metavar="NAME", default="emoji", help="Model. Default: emoji, the embedded one.")
@SEED
@option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
def images(prompt: str, as_json: bool, steps: int | None, seed: int, **flags: Any) -> None:
    """Compare the images of one seed on all backends, dtypes, speeds and samplers.

    The reference is the image of NumPy in float64. Differences are in units of 1/255: the largest
    of all pixels, the mean, and the PSNR in dB. Backends that cannot run here, and combinations
    that take minutes and are not named, are left out, with the reason.
    """
    from ldmref.check.images import compare_images

    def names(flag: str) -> list[str]:
        return [name.strip() for name in flags[flag].split(",") if name.strip()]

    rows = compare_images(
        prompt,
        backends=names("backend"),
        dtypes=names("dtype"),
        speeds=names("speed"),
        samplers=names("sampler"),
        steps=steps,
        seed=seed,
        model=flags["model"],
    )
    if not as_json:
        click.echo(f"{'backend':10} {'dtype':9} {'speed':8} {'sampler':20} largest     mean  PSNR")
    for row in rows:
        if as_json:
            click.echo(json.dumps(row.to_dict()))
        elif row.reason:
            name = " ".join(filter(None, (row.backend, row.dtype, row.speed)))
            say(one_line(f"note: {name} is left out: {row.reason}"))
        else:
            click.echo(_format_image(row))


def _format_image(row: ImageComparison) -> str:
    psnr = f"{row.psnr:.1f} dB" if math.isfinite(row.psnr) else "equal"
    return (
        f"{row.backend:10} {row.dtype:9} {row.speed:8} {row.sampler:20} "
        f"{row.largest:7} {row.mean:8.2g}  {psnr}"
    )


COMMANDS = (operations, images)
