"""Describe what families declare, as plain values: `tests/families/declared/NAME.json`.

Names of arrays in traces and graphs, names of tensors in files, sizes of presets and the settings
of diffusers' classes are read by other programs and by files that exist. Here they are computed
from the declarations; `test_declared_values.py` compares them with the stored ones, and names each
value that changed. After a change on purpose, write them again and read the difference:

    python tests/families/declared_values.py
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.cases.golden_families import golden_models_of
from ldmref.cases.shrink import shrink
from ldmref.errors import UsageError
from ldmref.families.auxiliary import (
    auxiliary_networks,
    describe_classifier,
    describe_tiny,
)
from ldmref.io.key_table import KeyEntry
from ldmref.models import autoencoder_kind, text_kind
from ldmref.models.autoencoder_kind import find_autoencoder
from ldmref.models.classifier import ClassifierConfig
from ldmref.models.config import Defaults, ModelConfig, TextConfig
from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.models.family import BUILT_IN, Family, find_family
from ldmref.models.taesd import TinyConfig
from ldmref.models.text_kind import find_text_encoder, kind_of
from ldmref.ports.arguments import first_layers_of, names_of
from ldmref.ports.network_port import find_autoencoder_port, find_text_encoder_port
from ldmref.ports.port import port_of
from ldmref.samplers.config import SchedulerConfig
from ldmref.training.family_rules import training_rules_of

BLOCK = re.compile(r"\.\d+\.")
FOLDER = Path(__file__).with_name("declared")
PROSE = {"description", "title"}  # sentences, which may be improved at any time
ASKED = {
    "steps": 4,
    "cfg_scale": 5.0,
    "sampler": "euler",
    "width": 64,
    "height": 32,
    "prompt": "a cat",
    "negative_prompt": "",
}
LAYOUT = ("third", "form", "heads", "rows", "frames")  # of a tensor in a file
DISTILLED = {"is_distilled": True}
SIZES = ((64, 32), (1024, 1024))  # pixels


def plain(x: Any) -> Any:
    """Return a value as JSON has it, with the names of functions and classes.

    A dataclass is described by the fields that differ from the default, which `describe_defaults`
    returns.
    """
    if x is None or isinstance(x, str | int | float | bool):
        return x
    if isinstance(x, DeclaredNetwork):
        return describe_network(x)
    if isinstance(x, KeyEntry):
        layout = {
            name: plain(getattr(x, name))
            for name in LAYOUT
            if getattr(x, name) != getattr(KeyEntry, name)
        }
        return x.name + (f" {layout}" if layout else "")
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = [(field.name, getattr(x, field.name), default_of(field)) for field in fields_of(x)]
        values = {name: plain(value) for name, value, default in fields if value != default}
        if any(isinstance(value, dict) for value in values.values()):
            return {"class": type(x).__name__} | values
        return f"{type(x).__name__}({', '.join(f'{k}={v!r}' for k, v in values.items())})"
    if isinstance(x, Mapping):
        return {key if isinstance(key, str) else repr(key): plain(v) for key, v in x.items()}
    if isinstance(x, np.ndarray):
        return f"{x.dtype} {x.shape} {float(np.abs(x).sum()):.6g}"
    if isinstance(x, partial):
        return [x.func.__name__, plain(x.args), plain(x.keywords)]
    if isinstance(x, re.Pattern):
        return x.pattern
    if isinstance(x, set | frozenset):
        return sorted(map(str, x))
    if isinstance(x, Collection):
        return [plain(value) for value in x]
    return getattr(x, "__name__", type(x).__name__)


def fields_of(x: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass without its sentences."""
    return [field for field in dataclasses.fields(x) if field.name not in PROSE]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or MISSING."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def describe_defaults(x: Any) -> Any:
    """Return the defaults of a class's fields that have some."""
    defaults = {field.name: default_of(field) for field in fields_of(x)}
    return {k: plain(v) for k, v in defaults.items() if v is not dataclasses.MISSING}


def describe_network(network: DeclaredNetwork) -> dict[str, Any]:
    """Return a network's fields, without its parameters and the values of its settings."""
    fields = [field.name for field in fields_of(network) if field.name not in ("settings", "spec")]
    found = {name: plain(getattr(network, name)) for name in fields}
    known = {}
    for x in (*network.inputs, *network.optional):
        layers = ["/".join(layer) for layer in first_layers_of(network, x)]
        known[x.argument] = " ".join([*names_of(network, x)[1:], *layers])
    return found | {"names": known} | {"settings": sorted(network.settings)}


def describe_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of names in a file, one line for the same layer of all blocks."""
    found: dict[str, Any] = {}
    for name, entry in table.items():
        text = plain(entry)
        if BLOCK.search(name):
            text = BLOCK.sub(".#.", text)
        found.setdefault(BLOCK.sub(".#.", name), text)
    return found


def describe_files(family: Family, config: ModelConfig) -> list[dict[str, Any]]:
    """Return the names of tensors in each kind of single file.

    A network that has the names of an earlier file behind a prefix is described by the prefix.
    """
    found: list[dict[str, Any]] = []
    first: dict[str, dict[str, Any]] = {}
    for layout in family.files:
        others = layout.others(config) if layout.others is not None else {}
        tables: dict[str, Any] = {}
        for network, table in ({"denoiser": layout.table(config)} | dict(others)).items():
            described = describe_table(table)
            known = first.setdefault(network, described)
            prefix = find_prefix(known, described) if known is not described else None
            tables[network] = described if prefix is None else f"{prefix}..."
        found.append(tables)
    return found


def find_prefix(known: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """Return the prefix that makes the names of `other` from known ones; None if none does."""
    name, end = next(iter(known.items()))
    prefix = other.get(name, "").removesuffix(end)
    return prefix if other == {key: prefix + value for key, value in known.items()} else None


def describe_pipeline(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Return the objects of diffusers that are made for a model, and their arguments."""
    parts = port_of(family).parts
    if parts is None:
        return {}
    try:
        pipeline = parts.pipeline(config)
    except UsageError as error:  # diffusers has none
        return {"refused": error.code}
    vae = find_autoencoder_port(config.vae.kind)
    texts = [
        parts.text_encoder or find_text_encoder_port(kind_of(text).name).module
        for text in config.text_encoders
    ]
    return {
        "pipeline": plain(pipeline),
        "denoiser": plain(parts.denoiser(config)),
        "scheduler": plain(parts.scheduler(config, "euler")),
        "request": plain(parts.request(config, ASKED)),
        "more": plain(parts.more(config, ASKED)),
        "autoencoder": plain(vae.module(config.vae)) if vae.module else None,
        "text_encoders": [
            plain(make(text)) if make else None
            for make, text in zip(texts, config.text_encoders, strict=True)
        ],
    }


def describe_model(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Return what a family computes from a small configuration."""
    rules = training_rules_of(family)
    return {
        "files": describe_files(family, config),
        "zeros": plain(rules.zeros(config)),
        "fixed": sorted(rules.fixed(config)),
        "lora_layers": describe_table(family.lora.layers(config)),
        "templates": plain(family.text.templates(config)),
    }


def describe_networks(family: Family) -> dict[str, Any]:
    """Return the networks of all presets, made small, without those that an earlier one has."""
    configs = dict(family.presets)
    if "emoji" in configs:
        flow_map = replace(configs["emoji"].unet, flow_map=True)
        configs["emoji as a flow map"] = replace(configs["emoji"], denoiser=flow_map)
    found: dict[str, list[Any]] = {}
    known: list[Any] = []
    for preset, config in configs.items():
        small = config if "tiny" in preset else shrink(config)
        made = [*map(describe_network, [*family.networks(small), *auxiliary_networks(small)])]
        new = [x for x in made if x not in known and not x["name"].startswith("taesd.")]
        known += new
        found[preset] = new
    return {preset: new for preset, new in found.items() if new}


def describe_family(name: str) -> dict[str, Any]:
    """Return what a family declares, and what follows from it for its presets."""
    family = find_family(name)
    port = port_of(family)
    work = {}
    for preset, config in family.presets.items():
        work[preset] = [
            [function(config, *size) for size in SIZES]
            for function in (family.work.flops, family.work.activations)
        ]
    return {
        "family": plain(family),
        "port": plain(port),
        "training": plain(training_rules_of(family)),
        "golden": plain(golden_models_of(family)),
        "denoiser": describe_defaults(family.denoiser),
        "scale": [family.guidance_scale.convert(5.0), *map(port.unguided, ({}, DISTILLED))],
        "work": work,
        "networks": describe_networks(family),
        "models": {
            preset: describe_model(family, config)
            for preset, config in family.presets.items()
            if "tiny" in preset
        },
        "pipelines": {
            preset: describe_pipeline(family, config)
            for preset, config in family.presets.items()
            if config.text_encoders
        },
    }


def describe_kinds() -> dict[str, Any]:
    """Return what autoencoders and text encoders declare, without what plug-ins add."""
    autoencoders = {}
    for name in autoencoder_kind.BUILT_IN:
        kind = find_autoencoder(name)
        config = kind.config()
        autoencoders[kind.name] = {
            "kind": plain(kind),
            "preview": plain(kind.preview(config)),
            "makers_names": describe_table(kind.makers(config)) if kind.makers else None,
            "defaults": describe_defaults(kind.config),
        }
    texts = {kind.name: plain(kind) for kind in map(find_text_encoder, text_kind.BUILT_IN)}
    classes = (TextConfig, SchedulerConfig, Defaults, ModelConfig, NetworkInput, KeyEntry)
    defaults = {kind.__name__: describe_defaults(kind) for kind in classes}
    auxiliary = [
        *describe_tiny(TinyConfig()),
        describe_classifier(ClassifierConfig(class_names=("a", "b"))),
    ]
    return {
        "autoencoders": autoencoders,
        "text_encoders": texts,
        "ports": [
            *map(plain, map(find_autoencoder_port, autoencoder_kind.BUILT_IN)),
            *map(plain, map(find_text_encoder_port, text_kind.BUILT_IN)),
        ],
        "defaults": defaults,
        "auxiliary": [describe_network(network) for network in auxiliary],
    }


NAMES = (*BUILT_IN, "kinds")


def describe(name: str) -> dict[str, Any]:
    """Return the values of a family, or of the kinds, as they are stored."""
    found = describe_kinds() if name == "kinds" else describe_family(name)
    return json.loads(json.dumps(found))


def join_lists(text: str) -> str:
    """Return JSON with each list that holds no list or object in one line."""

    def join(match: re.Match[str]) -> str:
        return f"[{' '.join(match[1].split())}]"

    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", join, text) + "\n"


def main() -> None:
    """Write the values of all families."""
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        (FOLDER / f"{name}.json").write_text(join_lists(json.dumps(describe(name), indent=1)))


if __name__ == "__main__":
    main()
