"""`ldmref backends`, `models`, `samplers` and `info`, also of a folder of one network."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import click

from ldmref import backends as backend_registry
from ldmref.apps.cli.file_info import (
    may_hold_weights,
    print_image_info,
    print_model_info,
    print_pickle_info,
)
from ldmref.apps.cli.progress import one_line
from ldmref.apps.cli.tables import TableRow, print_rows
from ldmref.io import hub
from ldmref.io.adapters.autoencoder import CLASSES
from ldmref.io.adapters.lora_file import find_weights, is_adapter_folder
from ldmref.io.checkpoint import read_model_config
from ldmref.io.diffusers.checks import read_json
from ldmref.io.embedded import BASES, EMBEDDED
from ldmref.io.identify import CONTROL, FOLDER, VAE, get_foreign_class
from ldmref.io.locate import (
    MODEL_ENDINGS,
    NATIVE_INDEX,
    NATIVE_WEIGHTS,
    PICKLES,
    find_model,
    is_diffusers,
    is_model,
    is_native,
)
from ldmref.io.tensors.torch_checkpoint import is_pickle
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of, list_families
from ldmref.models.model import model_spec
from ldmref.models.params import count
from ldmref.models.presets import list_presets
from ldmref.samplers import ALIASES, SAMPLERS, Sampler
from ldmref.samplers.own_spacing import GROUP as SCHEDULE_PLUGINS
from ldmref.samplers.registry import GROUP as SAMPLER_PLUGINS
from ldmref.samplers.spacings import FLOW_SUMMARIES, SUMMARIES
from ldmref.support.files import check_input_path
from ldmref.support.plugins import list_plugins, list_unusable

DESCRIPTIONS = {
    "emoji": "networks of the first version of the bundled model",
    "emoji-128": "networks of the bundled model",
    "tiny": "for tests: generates noise in milliseconds",
    "sd15": "networks of Stable Diffusion 1.5",
}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")


@click.command()
@as_json
def backends(as_json: bool) -> None:
    """List the backends and their devices, or why a backend cannot run here.

    A backend is a library that does the computation. Plug-ins are listed without being imported, so
    their devices are unknown.
    """
    rows: list[TableRow] = [
        {
            "name": name,
            "usable": not reason,
            "reason": reason,
            "devices": list_devices(name, reason),
            "package": "",
        }
        for name, reason in backend_registry.available().items()
    ]
    for plugin in make_plugin_rows(backend_registry.GROUP, backend_registry.BUILT_IN):
        usable = False if plugin["reason"] else None
        rows.append(plugin | {"usable": usable, "devices": []})

    def cells(row: TableRow) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], f"no: {row['reason']}"
        return row["name"], " ".join(row["devices"]) or describe_plugin(row)

    print_rows(rows, as_json, cells)


def make_plugin_rows(group: str, built_in: Collection[str]) -> list[TableRow]:
    """Return name, package and, if it cannot be used, the reason of each plug-in; import none."""
    reasons = list_unusable(group, built_in)
    return [
        {"name": name, "package": package, "reason": reasons.get(name, "")}
        for name, package in list_plugins(group).items()
    ]


def describe_plugin(row: TableRow) -> str:
    """Describe a plug-in that is not imported."""
    return f"plug-in of {row['package']}, imported at first use"


def list_devices(name: str, reason: str) -> list[str]:
    """Return the devices of a built-in backend; none if there is a reason why it cannot run."""
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
    """List the bundled models, and the network configurations (presets) for training."""

    def row(
        name: str, config: ModelConfig, description: str, kind: str, installed: bool
    ) -> TableRow:
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
        about = "emoji, and scenes of them"
        about += f", a flow map of {BASES[name]}" if name in BASES else ""
        rows.append(row(name, read_model_config(name), about, "embedded", installed))
    for name, config in list_presets().items():
        rows.append(
            row(
                name,
                config,
                DESCRIPTIONS.get(name) or family_of(config).description,
                "preset",
                True,
            )
        )

    def cells(row: TableRow) -> tuple[str, ...]:
        kind = row["kind"] if row["installed"] else "missing"
        size = f"{row['width']}x{row['height']}"
        millions = f"{row['parameters'] / 1e6:.2f} M"
        return row["name"], kind, size, millions, row["description"]

    print_rows(rows, as_json, cells)


@click.command()
@click.option("--schedules", is_flag=True, help="List the schedules of noise levels instead.")
@as_json
def samplers(schedules: bool, as_json: bool) -> None:
    """List the samplers with their order, cost, source and other names.

    The order is that of convergence; the cost is the number of network evaluations per step.
    Plug-ins are listed without being imported, so only their names and packages are known.
    """
    if schedules:
        print_schedules(as_json)
        return
    rows = [sampler_row(name, sampler) for name, sampler in SAMPLERS.items()]
    for plugin in make_plugin_rows(SAMPLER_PLUGINS, {*SAMPLERS, *ALIASES}):
        rows.append(dict.fromkeys(rows[0]) | plugin)

    def cells(row: TableRow) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], "no", "", "", row["reason"]
        if row["package"]:
            return row["name"], "", "", "", describe_plugin(row)
        noise = "stochastic" if row["stochastic"] else "deterministic"
        evaluations = f"{row['evaluations_per_step']} per step"
        source = row["source"]
        if row["defaults"]:
            source += "; parameters " + ",".join(f"{k}={v}" for k, v in row["defaults"].items())
        if row["aliases"]:
            source += f"; also {', '.join(row['aliases'])}"
        return row["name"], f"order {row['order']}", evaluations, noise, source

    print_rows(rows, as_json, cells)


def print_schedules(as_json: bool) -> None:
    """Print the names of schedules, each with a line about it."""
    rows: list[TableRow] = [
        {"name": name, "summary": text, "package": "", "reason": ""}
        for name, text in (SUMMARIES | FLOW_SUMMARIES).items()
    ]
    for plugin in make_plugin_rows(SCHEDULE_PLUGINS, SUMMARIES | FLOW_SUMMARIES):
        rows.append(plugin | {"summary": ""})

    def cells(row: TableRow) -> tuple[str, ...]:
        if row["reason"]:
            return row["name"], f"no: {row['reason']}"
        return row["name"], row["summary"] or describe_plugin(row)

    print_rows(rows, as_json, cells)


def sampler_row(name: str, sampler: Sampler) -> TableRow:
    """Return the declaration of a built-in sampler."""
    return {
        "name": name,
        "order": sampler.order,
        "evaluations_per_step": sampler.nfe,
        "stochastic": sampler.stochastic,
        "defaults": sampler.defaults,
        "source": sampler.source,
        "package": "",
        "aliases": [alias for alias, meant in ALIASES.items() if meant == name],
        "reason": "",
    }


@click.command()
@click.argument("target", metavar="IMAGE|MODEL")
@click.option(
    "--fetch", is_flag=True, help="Download OWNER/MODEL from Hugging Face if it is not cached."
)
@click.option(
    "--variant",
    metavar="NAME",
    help="Which weights to read from a folder with several, e.g. fp16.",
)
@click.option("--tensors", is_flag=True, help="Also list every tensor of a model.")
@as_json
def info(target: str, fetch: bool, variant: str | None, tensors: bool, as_json: bool) -> None:
    """Show how an image was made, or what a model contains.

    IMAGE is a file. MODEL is a name from ldmref models, a folder, a .safetensors or .gguf file, or
    OWNER/MODEL from Hugging Face. Of other files, such as LoRAs, text encoders and ControlNets, it
    says what they are and which option takes them; of a pickle, such as a .ckpt, the tensors'
    names. No model is run, and no code of a file.
    """
    path = check_input_path(target)
    reference = None if path.exists() else hub.parse_reference(target)
    if reference is not None and (fetch or reference.folder.is_dir()):
        print_model_info(find_model(target, fetch, variant), as_json, variant, tensors)
    elif target in EMBEDDED and not path.exists():
        print_model_info(find_model(target), as_json, listed=tensors)
    elif is_adapter_folder(path) and not is_model(path):
        print_model_info(find_weights(path), as_json, variant, tensors)
    elif path.is_file() and path.suffix.lower() in PICKLES and is_pickle(path):
        print_pickle_info(path, as_json, tensors)
    elif is_network_folder(path):
        print_network_folder(path, as_json)
    elif (
        path.is_dir() or path.suffix.lower() in (*MODEL_ENDINGS, *PICKLES) or may_hold_weights(path)
    ):
        print_model_info(find_folder(path), as_json, variant, tensors)
    elif not path.exists() and target in list_presets():
        find_model(target)  # raises an error that explains presets
    else:
        print_image_info(target, as_json)


COMMANDS = (backends, models, samplers, info)


def find_folder(path: Path) -> Path:
    """Return the folder of ldmref whose weights a file contains, otherwise the path itself."""
    return path.parent if path.name == NATIVE_WEIGHTS and is_native(path.parent) else path


# -- the folder of one network --------------------------------------------------------------------


TEXT = (
    "it belongs to the model folder around it; its file of weights alone is text_encoders= "
    "(--text-encoder)"
)


def is_network_folder(path: Path) -> bool:
    """Return whether a folder has the configuration of one network, and is no model."""
    config = path / NATIVE_INDEX
    return (
        config.is_file() and not is_diffusers(path) and bool(get_foreign_class(read_json(config)))
    )


def print_network_folder(path: Path, as_json: bool) -> None:
    """Print what the network of a folder is, and which option takes the folder."""
    kind = get_foreign_class(read_json(path / NATIVE_INDEX))
    hint = describe_class(kind)
    if as_json:
        click.echo(json.dumps({"path": str(path), "class": kind, "fits": False, "hint": hint}))
        return
    click.echo(one_line(f"{path.name}: the folder of one network, a {kind}, and no model; {hint}"))


def describe_class(kind: str) -> str:
    """Return what to do with the folder of a network of this class.

    >>> describe_class("AutoencoderKL")
    'give the model it belongs to, and this as vae= (--vae)'
    """
    controls = (family.control for family in list_families())
    if any(control is not None and kind in control.classes for control in controls):
        return CONTROL
    if kind in CLASSES:
        return VAE
    return TEXT if kind.startswith(("CLIPText", "T5")) else FOLDER
