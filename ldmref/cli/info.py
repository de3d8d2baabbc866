"""`ldmref backends`, `models`, `samplers`, `info`: what is available, and what a file holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import click

from ldmref import backends as backend_registry
from ldmref.cli.progress import one_line
from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.files import input_path
from ldmref.io import hub
from ldmref.io.compvis.single_file import averages_of, unread
from ldmref.io.diffusers.folder import WEIGHTS, weight_files
from ldmref.io.locate import (
    EMBEDDED,
    NATIVE_WEIGHTS,
    find_model,
    is_diffusers,
    is_native,
    model_config,
)  # fmt: skip
from ldmref.io.pictures.images import open_image
from ldmref.io.pictures.infotext import parse_infotext
from ldmref.io.pictures.metadata import read_parameters
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import count
from ldmref.models.presets import PRESETS
from ldmref.plugins import hidden, plugin_names
from ldmref.samplers import ALIASES, SAMPLERS, Sampler, get_sampler
from ldmref.samplers.registry import GROUP as SAMPLER_PLUGINS

OTHER_PROGRAMS = {  # key of a picture's metadata -> the program that writes it
    "prompt": "ComfyUI", "workflow": "ComfyUI", "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI", "sd-metadata": "InvokeAI", "Dream": "InvokeAI",
    "Comment": "NovelAI or others",
}  # fmt: skip
DESCRIPTIONS = {
    "emoji": "the networks of the embedded model's first edition",
    "emoji-128": "the networks of the embedded model",
    "tiny": "for tests: draws noise in milliseconds",
    "sd15": "Stable Diffusion 1.5's networks",
}
Row = dict[str, Any]

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.command()
@as_json
def backends(as_json: bool) -> None:
    """List the backends, their devices, and why a backend cannot run here."""
    rows = [
        {"name": name, "usable": not reason, "reason": reason, "devices": devices(name, reason)}
        for name, reason in backend_registry.available().items()
    ]
    show(rows, as_json, lambda r: (r["name"], " ".join(r["devices"]) or f"no: {r['reason']}"))


def devices(name: str, reason: str) -> list[str]:
    """The devices of a usable backend; of a plug-in, `cpu`."""
    if reason:
        return []
    if name == "torch":
        import torch

        return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name == "cupy":
        import cupy

        return [f"cuda:{i}" for i in range(cupy.cuda.runtime.getDeviceCount())]
    return ["cpu"]


@click.command()
@as_json
def models(as_json: bool) -> None:
    """List the embedded models, and the presets for training."""

    def row(name: str, config: ModelConfig, description: str, kind: str, installed: bool) -> Row:
        return {"name": name, "kind": kind, "installed": installed,
                "width": config.defaults.width, "height": config.defaults.height,
                "parameters": count(model_spec(config)), "description": description}  # fmt: skip

    rows = []
    for name in EMBEDDED:
        installed = (find_model(name) / NATIVE_WEIGHTS).is_file()
        about = "text to emoji and scenes of them"
        rows.append(row(name, model_config(name), about, "embedded", installed))
    for name, config in PRESETS.items():
        rows.append(row(name, config, DESCRIPTIONS.get(name, ""), "preset", True))

    def cells(row: Row) -> tuple[str, ...]:
        kind = row["kind"] if row["installed"] else "missing"
        size, millions = f"{row['width']}x{row['height']}", f"{row['parameters'] / 1e6:.2f} M"
        return row["name"], kind, size, millions, row["description"]

    show(rows, as_json, cells)


@click.command()
@as_json
def samplers(as_json: bool) -> None:
    """List the samplers: order of convergence, evaluations per step, other names, source;
    then plug-ins."""
    rows = [sampler_row(name, sampler) for name, sampler in SAMPLERS.items()]
    reasons = hidden(SAMPLER_PLUGINS, {*SAMPLERS, *ALIASES})
    for name, package in plugin_names(SAMPLER_PLUGINS).items():
        try:
            row = {} if name in reasons else sampler_row(name, get_sampler(name), package)
        except UsageError as error:
            row, reasons[name] = {}, f"{error} ({error.hint})"
        unusable = {"name": name, "package": package, "reason": reasons.get(name, "")}
        rows.append(row or dict.fromkeys(rows[0]) | unusable)

    def cells(row: Row) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], "no", "", "", row["reason"]
        noise = "stochastic" if row["stochastic"] else "deterministic"
        evaluations = f"{row['evaluations_per_step']} per step"
        source = f"{row['source']} (package {row['package']})" if row["package"] else row["source"]
        if row["aliases"]:
            source += f"; also {', '.join(row['aliases'])}"
        return row["name"], f"order {row['order']}", evaluations, noise, source

    show(rows, as_json, cells)


def sampler_row(name: str, sampler: Sampler, package: str = "") -> Row:
    """What is declared about a sampler, and the package that a plug-in is from."""
    return {"name": name, "order": sampler.order, "evaluations_per_step": sampler.nfe,
            "stochastic": sampler.stochastic, "source": sampler.source, "package": package,
            "aliases": [alias for alias, meant in ALIASES.items() if meant == name],
            "reason": ""}  # fmt: skip


@click.command()
@click.argument("target", metavar="IMAGE|MODEL")
@click.option("--fetch", is_flag=True, help="Download OWNER/MODEL from Hugging Face if needed.")
@click.option("--variant", metavar="NAME", help="Which weights of a diffusers folder, e.g. fp16.")
@as_json
def info(target: str, fetch: bool, variant: str | None, as_json: bool) -> None:
    """Show how a picture was made, or what a model holds: a folder or a single file.

    Never runs a model.
    """
    path = input_path(target)
    reference = None if path.exists() else hub.parse(target)
    if reference is not None and (fetch or reference.folder.is_dir()):
        model_info(find_model(target, fetch, variant), as_json, variant)
    elif target in EMBEDDED and not path.exists():
        model_info(find_model(target), as_json)
    elif path.is_dir() or path.suffix.lower() in (".safetensors", ".gguf"):
        model_info(folder_of(path), as_json, variant)
    else:
        picture_info(target, as_json)


COMMANDS = (backends, models, samplers, info)


def folder_of(path: Path) -> Path:
    """The folder of ldmref whose weights a file is, else the path itself."""
    return path.parent if path.name == NATIVE_WEIGHTS and is_native(path.parent) else path


def show(rows: list[Row], as_json: bool, cells: Callable[[Row], Sequence[object]]) -> None:
    """Print one JSON object per row, or aligned columns of its cells."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = [[one_line(str(cell)) for cell in cells(row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        start = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        click.echo("  ".join([*start, line[-1]]).rstrip())


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, separated by commas."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def weights_read(averaged: bool) -> str:
    """Which weights of a training checkpoint are read, in words."""
    return "the averaged weights (EMA)" if averaged else "the last weights"


def picture_info(path: str, as_json: bool) -> None:
    """Print what a picture records of its making."""
    image, recorded = open_image(path), read_parameters(path)
    others = {key: OTHER_PROGRAMS[key] for key in image.info if key in OTHER_PROGRAMS}
    row = {"path": path, "width": image.width, "height": image.height, "mode": image.mode}
    row |= recorded | {"other": others}
    if "parameters" in recorded:
        row["infotext"] = parse_infotext(recorded["parameters"])
    if as_json:
        click.echo(json.dumps(row))
        return
    lines = [f"{path}: {image.width}x{image.height} {image.mode}"]
    if "ldmref" in recorded:
        lines.append("ldmref: " + json.dumps(recorded["ldmref"], ensure_ascii=False))
    lines += recorded["parameters"].split("\n") if "parameters" in recorded else []
    lines += [f"also holds {key!r}, written by {program}" for key, program in others.items()]
    if not recorded and not others:
        lines.append("no record of how it was made")
    for line in lines:
        click.echo(one_line(line))


def model_info(path: Path, as_json: bool, variant: str | None = None) -> None:
    """Print the configuration, and every tensor with its type and shape; reads no weights."""
    files = model_files(path, variant)
    unused, averaged = [], None
    try:
        model = model_config(path)
        config, fits = model.to_dict(), True
        if path.is_file():
            file = TensorFile(path)
            unused, averaged = unread(file, model), averages_of(file, model)
    except (KeyMismatchError, UsageError) as error:  # a single file of no known family
        reason = f"{error}; {error.hint}" if error.hint else str(error)
        config, fits = {"name": path.name, "family": {"not found": reason}}, False
    table = [row for prefix, file in files for row in tensors(prefix, file)]
    digests = [file.sha256() for _, file in files]
    if as_json:
        row = {"path": str(path), "sha256": digests[0], "files": len(files), "fits": fits,
               "config": config, "tensors": table, "unused": unused,
               "ema": averaged}  # fmt: skip
        click.echo(json.dumps(row))
        return
    name = config.pop("name")
    for (_, file), digest in zip(files, digests, strict=True):
        click.echo(one_line(f"{name}: {file.path} sha256 {digest}"))
    for part, values in config.items():
        fields = values if isinstance(values, dict) else {"": values}
        click.echo(one_line(f"{part}: " + ", ".join(f"{k} {v}".strip() for k, v in fields.items())))
    show(table, False, lambda r: (r["name"], r["dtype"], "x".join(map(str, r["shape"]))))
    if averaged is not None:
        click.echo(f"reads {weights_read(averaged)}")
    if unused:
        click.echo(one_line(f"{len(unused)} tensors are not read: {first_few(unused)}"))
    click.echo(f"{len(table)} tensors, {sum(row['numbers'] for row in table):,} numbers")


def model_files(path: Path, variant: str | None = None) -> list[tuple[str, TensorFile]]:
    """(prefix of the tensors' names, file) for each weight file of a model."""
    if not path.is_dir():
        return [("", TensorFile(path))]
    if is_diffusers(path):
        return [
            (f"{part}.", file)
            for part, stem in WEIGHTS.items()
            if (path / part).is_dir()
            for file in weight_files(path / part, stem, variant)
        ]
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path.name!r} is not a model folder: config.json is missing", code="E-MODEL"
        )
    return [("", TensorFile(path / "model.safetensors"))]


def tensors(prefix: str, file: TensorFile) -> list[Row]:
    """Name, type, shape and size of every tensor, from the header alone."""
    return [
        {"name": prefix + name, "dtype": file.kinds[name], "shape": list(shape),
         "numbers": prod(shape)}
        for name, shape in sorted(file.shapes.items())
    ]  # fmt: skip
