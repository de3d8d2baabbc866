"""`ldmref backends`, `models`, `samplers`, `info`: what there is, and what a file tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.cli.progress import one_line
from ldmref.errors import InputError, KeyMismatchError, UsageError

if TYPE_CHECKING:
    from ldmref.io.tensors.safetensors import TensorFile
    from ldmref.models.config import ModelConfig

FOREIGN = {
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "Comment": "NovelAI or others",
}

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.command()
@as_json
def backends(as_json: bool) -> None:
    """Which backends run here, and why the others do not."""
    from ldmref.backends import available

    rows = [
        {"name": name, "usable": not reason, "reason": reason, "devices": devices(name, reason)}
        for name, reason in available().items()
    ]
    show(rows, as_json, lambda r: (r["name"], " ".join(r["devices"]) or f"no: {r['reason']}"))


def devices(name: str, reason: str) -> list[str]:
    """The devices on which a usable backend runs; a plug-in's are its own affair."""
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
    """The embedded models, and the presets for training."""
    from ldmref.io.locate import EMBEDDED, find_model
    from ldmref.models.model import model_spec
    from ldmref.models.params import count
    from ldmref.models.presets import PRESETS

    rows = []
    for kind, names in (("embedded", EMBEDDED), ("preset", PRESETS)):
        for name in names:
            config, here = PRESETS[name], True
            if kind == "embedded":
                here = (find_model(name) / "model.safetensors").is_file()
            size = config.defaults
            row = {"name": name, "kind": kind, "installed": here, "width": size.width,
                   "height": size.height, "parameters": count(model_spec(config)),
                   "description": DESCRIPTIONS.get(name, "")}  # fmt: skip
            rows.append(row)
    show(
        rows,
        as_json,
        lambda r: (
            r["name"],
            r["kind"] if r["installed"] else "missing",
            f"{r['width']}x{r['height']}",
            f"{r['parameters'] / 1e6:.2f} M",
            r["description"],
        ),
    )


DESCRIPTIONS = {
    "emoji": "text to emoji",
    "tiny": "for tests: draws noise in milliseconds",
    "sd15": "Stable Diffusion 1.5's networks",
}


@click.command()
@as_json
def samplers(as_json: bool) -> None:
    """The samplers, and what is declared about each."""
    from ldmref.samplers import SAMPLERS

    rows = [
        {"name": name, "order": s.order, "evaluations_per_step": s.nfe,
         "stochastic": s.stochastic, "source": s.source}
        for name, s in SAMPLERS.items()
    ]  # fmt: skip
    show(
        rows,
        as_json,
        lambda r: (
            r["name"],
            f"order {r['order']}",
            f"{r['evaluations_per_step']} per step",
            "stochastic" if r["stochastic"] else "deterministic",
            r["source"],
        ),
    )


@click.command()
@click.argument("target", metavar="IMAGE|MODEL")
@click.option("--fetch", is_flag=True, help="Fetch OWNER/MODEL from Hugging Face; else nothing is.")
@click.option("--variant", metavar="NAME", help="Of a folder with several weights, such as fp16.")
@as_json
def info(target: str, fetch: bool, variant: str | None, as_json: bool) -> None:
    """What a picture records of its making, or what a model holds: a folder or a single file.

    Never runs a model.
    """
    from ldmref.io import hub
    from ldmref.io.locate import EMBEDDED, find_model

    place = None if Path(target).exists() else hub.parse(target)
    if place is not None and (fetch or place.folder.is_dir()):
        model_info(find_model(target, fetch, variant), as_json, variant)
    elif target in EMBEDDED and not Path(target).exists():
        model_info(find_model(target), as_json)
    elif Path(target).is_dir() or Path(target).suffix.lower() in (".safetensors", ".gguf"):
        model_info(Path(target), as_json, variant)
    else:
        picture_info(target, as_json)


COMMANDS = (backends, models, samplers, info)


def show(rows: list[dict[str, Any]], as_json: bool, cells: Any) -> None:
    """One JSON object per row, or aligned columns."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = [[one_line(str(cell)) for cell in cells(row)] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]) - 1)]
    for line in table:
        start = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*start, line[-1]]).rstrip())


def picture_info(path: str, as_json: bool) -> None:
    from ldmref.io.pictures.images import open_image
    from ldmref.io.pictures.metadata import parse_infotext, read_parameters

    image, found = open_image(path), read_parameters(path)
    others = {key: FOREIGN[key] for key in image.info if key in FOREIGN}
    facts = {"path": path, "width": image.width, "height": image.height, "mode": image.mode}
    facts |= found | {"other": others}
    if "parameters" in found:
        facts["infotext"] = parse_infotext(found["parameters"])
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(one_line(f"{path}: {image.width}x{image.height} {image.mode}"))
    if "ldmref" in found:
        click.echo(one_line("ldmref: " + json.dumps(found["ldmref"], ensure_ascii=False)))
    for line in found.get("parameters", "").split("\n"):
        click.echo(one_line(line))
    for key, program in others.items():
        click.echo(f"also holds {key!r}, as {program} writes it")
    if not found and not others:
        click.echo("no record of how it was made")


def model_info(path: Path, as_json: bool, variant: str | None = None) -> None:
    """Configuration, and every tensor with its type and shape; weights are not read."""
    from ldmref.io.locate import model_config

    files = model_files(path, variant)
    config, fits, unused, averaged = {}, True, [], None
    try:
        found = model_config(path)
        config = found.to_dict()
        unused, averaged = not_read(path, found)
    except (KeyMismatchError, UsageError) as error:  # a single file that does not say all
        why = f"{error}; {error.hint}" if error.hint else str(error)
        config, fits = {"name": path.name, "family": {"not found": why}}, False
    table = [row for prefix, file in files for row in tensors(prefix, file)]
    digests = [file.sha256() for _, file in files]
    if as_json:
        facts = {"path": str(path), "sha256": digests[0], "files": len(files), "fits": fits,
                 "config": config, "tensors": table, "unused": unused,
                 "ema": averaged}  # fmt: skip
        click.echo(json.dumps(facts))
        return
    name = config.pop("name")
    for (_, file), digest in zip(files, digests, strict=True):
        click.echo(one_line(f"{name}: {file.path} sha256 {digest}"))
    for part, values in config.items():
        facts = values if isinstance(values, dict) else {"": values}
        click.echo(one_line(f"{part}: " + ", ".join(f"{k} {v}".strip() for k, v in facts.items())))
    show(table, False, lambda r: (r["name"], r["dtype"], "x".join(map(str, r["shape"]))))
    if averaged is not None:
        click.echo("read are " + ("the averaged weights (EMA)" if averaged else "the last weights"))
    if unused:
        more = ", ..." if len(unused) > 5 else ""
        click.echo(one_line(f"{len(unused)} tensors are not read: {', '.join(unused[:5])}{more}"))
    click.echo(f"{len(table)} tensors, {sum(row['numbers'] for row in table):,} numbers")


def not_read(path: Path, config: ModelConfig) -> tuple[list[str], bool | None]:
    """Of a single file: its tensors that drawing does without, and whether averages are read."""
    from ldmref.io.compvis.single_file import averages_of, unread
    from ldmref.io.tensors.safetensors import TensorFile

    if not path.is_file():
        return [], None
    file = TensorFile(path)
    return unread(file, config), averages_of(file, config)


def model_files(path: Path, variant: str | None = None) -> list[tuple[str, TensorFile]]:
    """The weights of a model: (what stands before their names, file)."""
    from ldmref.io.diffusers.folder import WEIGHTS, weight_files
    from ldmref.io.tensors.safetensors import TensorFile

    if path.is_file():
        return [("", TensorFile(path))]
    if (path / "model_index.json").is_file():
        parts = {part: stem for part, stem in WEIGHTS.items() if (path / part).is_dir()}
        return [
            (f"{part}.", file)
            for part, stem in parts.items()
            for file in weight_files(path / part, stem, variant)
        ]
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path.name!r} is no model folder: config.json is missing", code="E-MODEL"
        )
    return [("", TensorFile(path / "model.safetensors"))]


def tensors(prefix: str, file: TensorFile) -> list[dict[str, Any]]:
    """Name, type and shape of every tensor, from the header alone."""
    from math import prod

    return [
        {"name": prefix + name, "dtype": file.kinds[name], "shape": list(shape),
         "numbers": prod(shape)}
        for name, shape in sorted(file.shapes.items())
    ]  # fmt: skip
