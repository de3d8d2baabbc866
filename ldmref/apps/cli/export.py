"""`ldmref export`: write the networks of a model for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ldmref.apps.cli.options import PATH, with_options
from ldmref.apps.cli.progress import one_line, say
from ldmref.apps.cli.shared_options import LOADING
from ldmref.errors import OutputError


@click.group()
def export() -> None:
    """Write the networks of a model as files for other programs."""


@export.command()
@click.argument("model", default="emoji", metavar="[MODEL]")
@click.option(
    "-o", "--output", required=True, metavar="FOLDER", help="Folder to write; it must be new."
)
@click.option(
    "--controlnet",
    "controlnets",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="Export a ControlNet as well, a folder or a file; the U-Net then takes its outputs. May "
    "be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace FOLDER if an export has written it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file.")
@click.option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
@with_options(LOADING)
def onnx(
    model: str,
    output: str,
    controlnets: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    verbose: bool,
    **flags: Any,
) -> None:
    """Write text encoders, U-Net, autoencoder and ControlNets as ONNX files.

    MODEL is a name from ldmref models, a folder, a .safetensors file, or OWNER/MODEL from Hugging
    Face. Default: emoji, which comes with ldmref. Sizes stay open, and inputs and outputs have
    diffusers' names. docs/export.md shows how to run the files.
    """
    from ldmref.export import export_onnx
    from ldmref.export.folder import require_target
    from ldmref.io.locate import find_model

    folder = Path(output)
    try:
        require_target(folder, overwrite)
    except OutputError as error:
        hint = error.hint.replace("overwrite=True", "--overwrite")
        raise OutputError(str(error), code=error.code, hint=hint) from None
    path = find_model(model, flags["fetch"], flags["variant"])
    files = export_onnx(
        path,
        folder,
        controlnets=controlnets,
        overwrite=overwrite,
        config=flags["model_config"],
        lora=flags["loras"],
        **{key: flags[key] for key in OPTIONS},
    )
    for file in files:
        if as_json:
            click.echo(json.dumps({"folder": output} | asdict(file)))
            continue
        arrays = f"{', '.join(file.inputs)} -> {', '.join(file.outputs)}"
        say(one_line(f"{folder / file.file}  {file.bytes / 1e6:.1f} MB  {arrays}"))


OPTIONS = ("vae", "tokenizer", "variant", "ema", "embeddings", "allow_nonfinite")
COMMANDS = (export,)
