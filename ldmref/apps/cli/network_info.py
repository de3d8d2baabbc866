"""`ldmref info FOLDER`: the folder of one network, as diffusers and transformers write it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ldmref.apps.cli.progress import one_line
from ldmref.io.adapters.autoencoder import CLASSES
from ldmref.io.diffusers.checks import read_json
from ldmref.io.identify import CONTROL, FOLDER, VAE, get_foreign_class
from ldmref.io.locate import NATIVE_INDEX, is_diffusers
from ldmref.models.family import list_families

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
