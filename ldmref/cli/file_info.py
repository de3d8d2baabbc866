"""`ldmref info FILE`: the record in an image, and the content of model files."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import click

from ldmref.cli.combined import describe_images
from ldmref.cli.progress import one_line
from ldmref.cli.tables import TableRow, join_first, print_rows
from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.io.compvis.single_file import list_unread, select_ema
from ldmref.io.diffusers.folder import WEIGHTS, open_weight_files
from ldmref.io.images.infotext import parse_infotext
from ldmref.io.images.metadata import TOGETHER, read_parameters
from ldmref.io.images.pil import open_image
from ldmref.io.locate import is_diffusers, read_model_config
from ldmref.io.tensors.safetensors import TensorFile

OTHER_PROGRAMS = {  # key of an image's metadata -> the program that writes it
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "Comment": "NovelAI or others",
}


def name_weights(averaged: bool) -> str:
    """Return the name of the weights that are read from a training checkpoint."""
    return "the averaged weights (EMA)" if averaged else "the last weights"


def print_image_info(path: str, as_json: bool) -> None:
    """Print what an image records about how it was made."""
    image = open_image(path)
    recorded = read_parameters(path)
    others = {key: OTHER_PROGRAMS[key] for key in image.info if key in OTHER_PROGRAMS}
    row = {"path": path, "width": image.width, "height": image.height, "mode": image.mode}
    row |= recorded | {"other": others}
    if "parameters" in recorded:
        row["infotext"] = parse_infotext(recorded["parameters"])
    if as_json:
        click.echo(json.dumps(row))
        return
    lines = [f"{path}: {image.width}x{image.height} {image.mode}"]
    exact = recorded.get("ldmref")
    if isinstance(exact, dict) and exact.get("mode") in TOGETHER:
        lines += describe_images(exact)
    elif "ldmref" in recorded:
        lines.append("ldmref: " + json.dumps(exact, ensure_ascii=False))
    lines += recorded["parameters"].split("\n") if "parameters" in recorded else []
    lines += [f"also contains {key!r}, written by {program}" for key, program in others.items()]
    if not recorded and not others:
        lines.append("no record of how it was made")
    for line in lines:
        click.echo(one_line(line))


def print_model_info(
    path: Path, as_json: bool, variant: str | None = None, listed: bool = False
) -> None:
    """Print the configuration of a model and the number of its tensors, without reading weights.

    With `listed`, and in the JSON, every tensor is printed with its type and shape.
    """
    files = list_weight_files(path, variant)
    unused = []
    averaged = None
    try:
        model = read_model_config(path)
        config = model.to_dict()
        fits = True
        if path.is_file():
            file = TensorFile(path)
            unused = list_unread(file, model)
            averaged = select_ema(file, model)
    except (KeyMismatchError, UsageError) as error:  # a single file of no known family
        reason = f"{error}; {error.hint}" if error.hint else str(error)
        config = {"name": path.name, "family": {"not found": reason}}
        fits = False
    table = [row for prefix, file in files for row in list_tensors(prefix, file)]
    digests = [file.sha256() for _, file in files]
    if as_json:
        row = {
            "path": str(path),
            "sha256": digests[0],
            "files": len(files),
            "fits": fits,
            "config": config,
            "tensors": table,
            "unused": unused,
            "ema": averaged,
        }
        click.echo(json.dumps(row))
        return
    name = config.pop("name")
    for (_, file), digest in zip(files, digests, strict=True):
        click.echo(one_line(f"{name}: {file.path} sha256 {digest}"))
    for part, values in config.items():
        fields = values if isinstance(values, dict) else {"": values}
        click.echo(one_line(f"{part}: " + ", ".join(f"{k} {v}".strip() for k, v in fields.items())))
    if listed:
        print_rows(table, False, lambda r: (r["name"], r["dtype"], "x".join(map(str, r["shape"]))))
    if averaged is not None:
        click.echo(f"reads {name_weights(averaged)}")
    if unused:
        click.echo(one_line(f"{len(unused)} tensors are not read: {join_first(unused)}"))
    kinds = ", ".join(dict.fromkeys(row["dtype"] for row in table))
    total = f"{len(table)} tensors ({kinds}), {sum(row['numbers'] for row in table):,} numbers"
    click.echo(total if listed else f"{total}; --tensors lists them")


def list_weight_files(path: Path, variant: str | None = None) -> list[tuple[str, TensorFile]]:
    """Return (prefix of the tensors' names, file) for each weight file of a model."""
    if not path.is_dir():
        return [("", TensorFile(path))]
    if is_diffusers(path):
        return [
            (f"{part}.", file)
            for part, stem in WEIGHTS.items()
            if (path / part).is_dir()
            for file in open_weight_files(path / part, stem, variant)
        ]
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path.name!r} is not a model folder: config.json is missing", code="E-MODEL"
        )
    return [("", TensorFile(path / "model.safetensors"))]


def list_tensors(prefix: str, file: TensorFile) -> list[TableRow]:
    """Return name, type, shape and size of every tensor, from the header of the file."""
    return [
        {
            "name": prefix + name,
            "dtype": file.kinds[name],
            "shape": list(shape),
            "numbers": prod(shape),
        }
        for name, shape in sorted(file.shapes.items())
    ]
