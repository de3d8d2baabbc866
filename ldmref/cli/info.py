"""`ldmref backends`, `models`, `samplers`, `info`: what is available."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import click

from ldmref import backends as backend_registry
from ldmref.cli.file_info import image_info, model_info
from ldmref.cli.rows import Row, show
from ldmref.files import check_input_path
from ldmref.io import hub
from ldmref.io.locate import (
    EMBEDDED,
    NATIVE_WEIGHTS,
    find_model,
    is_native,
    read_model_config,
)
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import count
from ldmref.models.presets import PRESETS
from ldmref.plugins import list_hidden, list_plugins
from ldmref.samplers import ALIASES, SAMPLERS, Sampler
from ldmref.samplers.registry import GROUP as SAMPLER_PLUGINS

DESCRIPTIONS = {
    "emoji": "the networks of the embedded model's first edition",
    "emoji-128": "the networks of the embedded model",
    "tiny": "for tests: draws noise in milliseconds",
    "sd15": "Stable Diffusion 1.5's networks",
}

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.command()
@as_json
def backends(as_json: bool) -> None:
    """List the backends, their devices, and why a backend cannot run here; then plug-ins.

    Plug-ins are not imported, so that their devices are not known.
    """
    rows: list[Row] = [
        {
            "name": name,
            "usable": not reason,
            "reason": reason,
            "devices": devices(name, reason),
            "package": "",
        }
        for name, reason in backend_registry.available().items()
    ]
    for plugin in offered(backend_registry.GROUP, backend_registry.BUILT_IN):
        usable = False if plugin["reason"] else None
        rows.append(plugin | {"usable": usable, "devices": []})

    def cells(row: Row) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], f"no: {row['reason']}"
        return row["name"], " ".join(row["devices"]) or plugin_of(row)

    show(rows, as_json, cells)


def offered(group: str, built_in: Collection[str]) -> list[Row]:
    """Name, package, and why it cannot be reached, of each plug-in; none is imported."""
    reasons = list_hidden(group, built_in)
    return [
        {"name": name, "package": package, "reason": reasons.get(name, "")}
        for name, package in list_plugins(group).items()
    ]


def plugin_of(row: Row) -> str:
    """What is known about a plug-in that is not imported."""
    return f"plug-in of {row['package']}, imported when it is named"


def devices(name: str, reason: str) -> list[str]:
    """The devices of a usable built-in backend."""
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
        return {
            "name": name,
            "kind": kind,
            "installed": installed,
            "width": config.defaults.width,
            "height": config.defaults.height,
            "parameters": count(model_spec(config)),
            "description": description,
        }

    rows = []
    for name in EMBEDDED:
        installed = (find_model(name) / NATIVE_WEIGHTS).is_file()
        about = "text to emoji and scenes of them"
        rows.append(row(name, read_model_config(name), about, "embedded", installed))
    for name, config in PRESETS.items():
        rows.append(row(name, config, DESCRIPTIONS.get(name, ""), "preset", True))

    def cells(row: Row) -> tuple[str, ...]:
        kind = row["kind"] if row["installed"] else "missing"
        size = f"{row['width']}x{row['height']}"
        millions = f"{row['parameters'] / 1e6:.2f} M"
        return row["name"], kind, size, millions, row["description"]

    show(rows, as_json, cells)


@click.command()
@as_json
def samplers(as_json: bool) -> None:
    """List the samplers: order of convergence, evaluations per step, source, other names.

    Plug-ins follow. They are not imported, so that only their names and packages are known.
    """
    rows = [sampler_row(name, sampler) for name, sampler in SAMPLERS.items()]
    for plugin in offered(SAMPLER_PLUGINS, {*SAMPLERS, *ALIASES}):
        rows.append(dict.fromkeys(rows[0]) | plugin)

    def cells(row: Row) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], "no", "", "", row["reason"]
        if row["package"]:
            return row["name"], "", "", "", plugin_of(row)
        noise = "stochastic" if row["stochastic"] else "deterministic"
        evaluations = f"{row['evaluations_per_step']} per step"
        source = row["source"]
        if row["aliases"]:
            source += f"; also {', '.join(row['aliases'])}"
        return row["name"], f"order {row['order']}", evaluations, noise, source

    show(rows, as_json, cells)


def sampler_row(name: str, sampler: Sampler) -> Row:
    """Return the declaration of a built-in sampler."""
    return {
        "name": name,
        "order": sampler.order,
        "evaluations_per_step": sampler.nfe,
        "stochastic": sampler.stochastic,
        "source": sampler.source,
        "package": "",
        "aliases": [alias for alias, meant in ALIASES.items() if meant == name],
        "reason": "",
    }


@click.command()
@click.argument("target", metavar="IMAGE|MODEL")
@click.option("--fetch", is_flag=True, help="Download OWNER/MODEL from Hugging Face if needed.")
@click.option("--variant", metavar="NAME", help="Which weights of a diffusers folder, e.g. fp16.")
@click.option("--tensors", is_flag=True, help="List every tensor of a model.")
@as_json
def info(target: str, fetch: bool, variant: str | None, tensors: bool, as_json: bool) -> None:
    """Show how an image was made, or what a model holds: a folder or a single file.

    Never runs a model.
    """
    path = check_input_path(target)
    reference = None if path.exists() else hub.parse_reference(target)
    if reference is not None and (fetch or reference.folder.is_dir()):
        model_info(find_model(target, fetch, variant), as_json, variant, tensors)
    elif target in EMBEDDED and not path.exists():
        model_info(find_model(target), as_json, listed=tensors)
    elif path.is_dir() or path.suffix.lower() in (".safetensors", ".gguf"):
        model_info(folder_of(path), as_json, variant, tensors)
    elif not path.exists() and target in PRESETS:
        find_model(target)  # which says what a preset is
    else:
        image_info(target, as_json)


COMMANDS = (backends, models, samplers, info)


def folder_of(path: Path) -> Path:
    """The folder of ldmref whose weights a file is, else the path itself."""
    return path.parent if path.name == NATIVE_WEIGHTS and is_native(path.parent) else path
