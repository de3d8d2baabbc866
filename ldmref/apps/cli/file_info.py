"""`ldmref info FILE`: the record in an image, and the content of model files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import click

from ldmref.apps.cli.combined import describe_images
from ldmref.apps.cli.progress import one_line, print_line
from ldmref.apps.cli.tables import TableRow, join_first, print_rows
from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.io.adapters.describe import describe_adapter
from ldmref.io.checkpoint import read_model_config
from ldmref.io.diffusers.folder import get_weight_stem, list_parts, open_weight_files
from ldmref.io.identify import TEXT, identify_tensors
from ldmref.io.images.infotext import parse_infotext
from ldmref.io.images.metadata import TOGETHER, read_parameters
from ldmref.io.images.other_programs import describe_other_programs, find_programs
from ldmref.io.images.pil import open_image
from ldmref.io.locate import is_diffusers
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.torch_checkpoint import read_checkpoint
from ldmref.io.text_encoder_files import hash_text_encoder, list_owners
from ldmref.models.fields_read import list_fields_read
from ldmref.support.files import open_file

HEADER = b"\0\0\0{"  # the high bytes of a header's length, and its beginning
MOST_VALUES = 16  # of a field; --json prints all


def name_weights(averaged: bool) -> str:
    """Return the name of the weights that are read from a training checkpoint."""
    return "the averaged weights (EMA)" if averaged else "the last weights"


def print_image_info(path: str, as_json: bool) -> None:
    """Print what an image records about how it was made."""
    image = open_image(path)
    recorded = read_parameters(path)
    text = recorded.get("parameters", "")
    others = find_programs(image.info, text)
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
    lines += text.split("\n") if text and "parameters" not in others else []
    lines += describe_other_programs(image.info, text)
    if not recorded and not others:
        lines.append("no record of how it was made")
    for line in lines:
        click.echo(one_line(line))


def may_hold_weights(path: Path) -> bool:
    """Return whether a file begins like safetensors, GGUF or a pickle, whatever its name."""
    if not path.is_file():
        return False
    with open_file(path) as file:
        start = file.read(16)
    return (
        start[:4] == b"GGUF" or start[:2] == b"PK" or start[:1] == b"\x80" or start[5:9] == HEADER
    )


def print_model_info(
    path: Path, as_json: bool, variant: str | None = None, listed: bool = False
) -> None:
    """Print the configuration of a model and the number of its tensors, without reading weights.

    With `listed`, and in the JSON, every tensor is printed with its type and shape. The JSON has
    the whole configuration, the text what the model reads of it.
    """
    files = list_weight_files(path, variant)
    found = _recognise(path, files)
    table = [row for prefix, file in files for row in list_tensors(prefix, file)]
    warnings = [line for _, file in files for line in file.warnings]
    digests = [file.sha256() for _, file in files]
    hashed = next(filter(None, (hash_text_encoder(file) for _, file in files)), ())
    if as_json:
        row = {
            "path": str(path),
            "sha256": digests[0],
            "files": len(files),
            "fits": found.fits,
            "config": found.config,
            "tensors": table,
            "unused": [*found.unused],
            "ema": found.averaged,
        }
        row |= {"adapter": found.adapter} if found.adapter else {}
        row |= {"warnings": warnings} if warnings else {}
        row |= {"text_encoder": list(hashed)} if hashed else {}
        click.echo(json.dumps(row))
        return
    for (_, file), digest in zip(files, digests, strict=True):
        click.echo(one_line(f"{found.shown['name']}: {file.path} sha256 {digest}"))
    for part, values in found.shown.items():
        text = "" if part == "name" else describe_value(values)
        if text:
            click.echo(one_line(f"{part}: {text}"))
    if hashed:
        click.echo(one_line(f"text encoder: {' sha256 '.join(hashed)}"))
    for warning in warnings:
        click.echo(one_line(f"warning: {warning}"))
    if listed:
        print_rows(table, False, lambda r: (r["name"], r["dtype"], "x".join(map(str, r["shape"]))))
    if found.averaged is not None:
        print_line(f"reads {name_weights(found.averaged)}")
    if found.unused:
        unused = f"{len(found.unused)} tensors are not read: {join_first([*found.unused])}"
        click.echo(one_line(unused))
    kinds = ", ".join(dict.fromkeys(row["dtype"] for row in table))
    total = f"{len(table)} tensors ({kinds}), {sum(row['numbers'] for row in table):,} numbers"
    print_line(total if listed else f"{total}; --tensors lists them")


class RecognisedWeights(NamedTuple):
    """What a file or folder of weights is.

    Args:
        config: The whole configuration; without a known family, the name and the reason.
        shown: What the model reads of it, by part, with its name.
        fits: Whether it is a model of a known family.
        unused: Tensors of a single file that are not read.
        averaged: Whether averaged weights are read. None: there are none.
        adapter: What an adapter is, if it is one.
    """

    config: Mapping[str, Any]
    shown: Mapping[str, Any]
    fits: bool = True
    unused: Sequence[str] = ()
    averaged: bool | None = None
    adapter: Mapping[str, Any] | None = None


def _recognise(path: Path, files: Sequence[tuple[str, ModelFile]]) -> RecognisedWeights:
    """Return what the files are: a model, an adapter, or why they are none."""
    try:
        if path.is_file():
            found = recognise_file(files[0][1])
            model = found.config
            fields = model.to_dict(), list_fields_read(model)
            return RecognisedWeights(*fields, True, found.unused, found.averaged)
        model = read_model_config(path)
        return RecognisedWeights(model.to_dict(), list_fields_read(model))
    except (KeyMismatchError, UsageError) as error:  # a single file of no known family
        reason = f"{error}; {error.hint}" if error.hint else str(error)
        owners = list_owners(files[0][1])
        if owners and TEXT not in reason:
            reason = f"{path.name} is a text encoder, not a model; {TEXT}"
        reason += f"; the model is {' or '.join(owners)}, or of its kind" if owners else ""
        config = {"name": path.name, "family": {"not found": reason}}
        adapter = describe_adapter(files[0][1])
        shown = {"name": path.name, **adapter} if adapter else config
        return RecognisedWeights(config, shown, fits=False, adapter=adapter)


def print_pickle_info(path: Path, as_json: bool, listed: bool = False) -> None:
    """Print what a pickled file of tensors is, which names it without running code of it.

    Raises:
        UnsafeFileError: It holds anything but tensors and plain containers.
        InputError, CorruptModelError: It cannot be read, is damaged, or holds no tensors.
    """
    checkpoint = read_checkpoint(path)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    what, _ = identify_tensors(shapes) or ("a model, or a part of one", "")
    safe = f"ldmref convert {path.name} {path.stem}.safetensors"
    if as_json:
        tensors = {name: list(shape) for name, shape in shapes.items()}
        row = {"path": str(path), "pickle": True, "kind": what, "tensors": tensors}
        click.echo(json.dumps(row))
        return
    click.echo(one_line(f"{path.name}: a pickle, whose tensors are those of {what}"))
    click.echo(one_line(f"it is not used as it is; make it safe first: {safe}"))
    if listed:
        rows: list[TableRow] = [{"name": name, "shape": x} for name, x in sorted(shapes.items())]
        print_rows(rows, False, lambda r: (r["name"], "x".join(map(str, r["shape"]))))
    numbers = sum(prod(shape) for shape in shapes.values())
    print_line(f"{len(shapes)} tensors, {numbers:,} numbers")


def describe_value(value: object) -> str:
    """Return a value of a configuration as words; "" for an empty one, which is left out.

    >>> describe_value({"sizes": (64, 128), "bias": True, "kind": "", "part": {"a": 1}})
    'sizes 64 128, bias yes, part (a 1)'
    """
    if isinstance(value, dict):
        parts = {key: describe_value(entry) for key, entry in value.items()}
        nested = {key for key, entry in value.items() if isinstance(entry, dict)}
        return ", ".join(
            f"{key} ({text})" if key in nested else f"{key} {text}"
            for key, text in parts.items()
            if text
        )
    if isinstance(value, list | tuple):
        if len(value) > MOST_VALUES:
            return f"({len(value)} values)"
        texts = [describe_value(entry) for entry in value]
        if any(isinstance(entry, dict | list | tuple) for entry in value):
            return " ".join(f"({text})" for text in texts)
        return " ".join(texts)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def list_weight_files(path: Path, variant: str | None = None) -> list[tuple[str, ModelFile]]:
    """Return (prefix of the tensors' names, file) for each weight file of a model."""
    if not path.is_dir():
        return [("", open_model_file(path))]
    if is_diffusers(path):
        return [
            (f"{part}.", file)
            for part in list_parts()
            if (path / part).is_dir()
            for file in open_weight_files(path / part, get_weight_stem(part), variant)
        ]
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path.name!r} is not a model folder: config.json is missing", code="E-MODEL"
        )
    return [("", open_model_file(path / "model.safetensors"))]


def list_tensors(prefix: str, file: ModelFile) -> list[TableRow]:
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
