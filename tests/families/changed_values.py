"""Describe what families make of models with one changed field: `declared/changed/NAME.json`.

Each field of a small configuration is changed alone, to values beside its own. What follows is
stored: the rules that are broken or else the sizes of the parameters, the inputs, the cost and the
sizes that a single file says; likewise for ControlNets, autoencoders and text encoders. Of a
changed configuration only what differs from the unchanged one is stored. Files from which tensors
are missing, or whose tensors have other shapes, are other models or none. A new family is described
as soon as it is declared. After a change on purpose, write the values again and read the
difference:

    python tests/families/changed_values.py
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from declared_values import BLOCK, FOLDER, describe_table, fields_of, join_lists, plain

from ldmref.cases.shrink import shrink, shrink_autoencoder
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import autoencoder_kind
from ldmref.models.autoencoder_kind import find_autoencoder
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import BUILT_IN, Family, find_family
from ldmref.models.params import flatten
from ldmref.models.text_kind import kind_of
from ldmref.ports.network_port import find_autoencoder_port, find_text_encoder_port

CHANGED = FOLDER / "changed"
SIZE = (64, 96)  # pixels
LENGTH = 300  # tokens
RESIDUALS = (0, 1, 2, 3)
KINDS = (None, 0, 1, 2)  # of the images that ControlNets read
SHAPES = ((), (0,), (1, 1), (3, 7))
NAMES = (*BUILT_IN, "kinds")


def other_values(value: Any) -> list[Any]:
    """Return values beside that of a field, and far from it; none of a field that is no number."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value - 1, value + 1, 2 * value]
    if isinstance(value, float):
        return [2.5 * value]
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        first = not value[0] if isinstance(value[0], bool) else value[0] + 1
        changed = [(first, *value[1:]), value[1:], value[::-1]]
        return [other for other in changed if other]
    return []


def change_fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield a configuration with one changed field, after a text that says the change."""
    for field in fields_of(config):
        for value in other_values(getattr(config, field.name)):
            changed = replace(config, **{field.name: value})
            if changed != config:
                yield f"{field.name}={value}", changed


def describe_changes(config: Any, describe: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a configuration is described by, and in what each changed one differs from it."""
    plainly = dict(describe(config))
    found: dict[str, Any] = {"unchanged": plainly}
    for change, changed in change_fields(config):
        described = describe(changed)
        found[change] = {k: v for k, v in described.items() if plainly.get(k) != v}
    return found


def name_shapes(shapes: Mapping[str, Any]) -> str:
    """Return the count of the numbers of shapes, and a number that no other shapes have."""
    count = sum(map(math.prod, shapes.values()))
    return f"{count} {zlib.crc32(repr(sorted(shapes.items())).encode()):08x}"


def name_table(table: Mapping[str, Any]) -> str:
    """Return a number that no other table of the tensors in a file has."""
    return f"{zlib.crc32(repr(describe_table(table)).encode()):08x}"


def properties_of(config: Any) -> dict[str, Any]:
    """Return what a configuration computes from its fields."""
    kind = type(config)
    names = [name for name in dir(kind) if isinstance(getattr(kind, name), property)]
    return {name: plain(getattr(config, name)) for name in names}


def describe_inputs(network: DeclaredNetwork) -> dict[str, Any]:
    """Return the inputs of a network with the sizes of their axes, and its outputs."""
    inputs = [
        f"{x.argument} {' '.join(str(plain(axis)) for axis in x.shape)}"
        for x in (*network.inputs, *network.optional)
    ]
    return {"inputs": inputs, "outputs": " ".join(x.role for x in network.outputs)}


def name_found(found: ModelConfig | None, config: Any) -> Any:
    """Return what a file is recognised as: the model's name, and the fields that differ."""
    if found is None:
        return "none"
    fields = [field.name for field in fields_of(config)]
    theirs = {name: getattr(found.denoiser, name, None) for name in fields}
    differing = {k: plain(v) for k, v in theirs.items() if v != getattr(config, k)}
    return {"name": found.name} | differing


# -- families -------------------------------------------------------------------------------------


def layouts_of(family: Family) -> list[Any]:
    """Return the layouts that say sizes; those of U-Nets are compared with every preset."""
    if family.denoiser is UNetConfig:
        return []
    return [layout for layout in family.files if layout.recognise is not None]


def describe_denoiser(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Return the broken rules of a model, or else its parameters, inputs, cost and files."""
    rules = [*family.broken_rules(config)]
    if rules:
        return {"rules": rules}
    network = family.declared(config, family.denoiser.network)
    work = [count(config, *SIZE) for count in (family.work.flops, family.work.activations)]
    files = []
    for layout in layouts_of(family):
        shapes = list_stored_shapes(layout.table(config))
        files.append(name_found(layout.recognise(shapes), config.denoiser))
    shapes = name_shapes(flatten(network.spec()))
    found = properties_of(config.denoiser) | describe_inputs(network)
    return found | {"rules": [], "shapes": shapes, "work": work, "files": files}


def damage_shapes(shapes: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield shapes of a file without one tensor, or with others of it; one for all blocks."""
    seen = set()
    for name, shape in shapes.items():
        kind = BLOCK.sub(".#.", name)
        if kind in seen:
            continue
        seen.add(kind)
        yield f"no {kind}", {other: x for other, x in shapes.items() if other != name}
        for other in (tuple(size + 1 for size in shape), *SHAPES):
            yield f"{kind} {other}", {**shapes, name: other}


def describe_damage(
    shapes: Mapping[str, Any], name: Callable[[Mapping[str, Any]], Any]
) -> dict[str, list[str]]:
    """Return what files are recognised as, whose tensors are missing or of other shapes.

    Args:
        shapes: Those of a whole file.
        name: Returns what the shapes of a file are recognised as.

    Returns:
        The damage by what follows from it, without the most frequent one.
    """
    found: dict[str, list[str]] = {}
    for damage, damaged in damage_shapes(shapes):
        found.setdefault(str(name(damaged)), []).append(damage)
    most = max(found, key=lambda outcome: len(found[outcome]))
    return {outcome: cases if outcome != most else ["others"] for outcome, cases in found.items()}


def describe_damaged_files(family: Family, config: ModelConfig) -> list[dict[str, list[str]]]:
    """Return what damaged files of each layout of a family are recognised as."""

    def describe_one(layout: Any) -> dict[str, list[str]]:
        def name(shapes: Mapping[str, Any]) -> Any:
            return name_found(layout.recognise(shapes), config.denoiser)

        return describe_damage(list_stored_shapes(layout.table(config)), name)

    return [describe_one(layout) for layout in layouts_of(family)]


def name_nets(control: Any, shapes: Mapping[str, Any], config: ModelConfig, net: Any) -> list[Any]:
    """Return the ControlNets that a file may hold: the same, or the fields that differ."""
    found = []
    for denoiser in (config.denoiser, None):
        for other, _ in control.candidates(shapes, denoiser):
            fields = [field.name for field in fields_of(net)]
            changed = {
                k: plain(getattr(other, k)) for k in fields if getattr(other, k) != getattr(net, k)
            }
            found.append(changed or "same")
    return found


def describe_control(family: Family, config: ModelConfig, net: Any) -> dict[str, Any]:
    """Return what a family says of a ControlNet beside a model."""
    control = family.control
    assert control is not None
    latents = np.zeros((1, config.vae.latent_channels, 2, 2))
    pixels = np.array([-1.0, 0.0, 1.0])
    residuals = control.residuals(*([RESIDUALS] * len(control.residuals._fields)))
    found = properties_of(net)
    for network in control.networks(net):
        described = describe_inputs(network) | {"shapes": name_shapes(flatten(network.spec()))}
        found |= {f"{network.name} {key}": value for key, value in described.items()}
    return found | {
        "differences": plain([*control.differences(config, net)]),
        "files": name_nets(control, flatten(control.networks(net)[-1].spec()), config, net),
        "placed": plain(control.place(config, net, residuals)),
        "hint": plain(np.asarray(control.make_hint(net, config.vae, latents))),
        "hole": control.hole(net),
        "mask": control.reads_mask(net),
        "kind": control.kind(net),
        "kinds": [*control.kinds(net)],
        "scaled": [plain(np.asarray(control.scale_image(net, pixels, kind))) for kind in KINDS],
        "zeroed": [*control.zeroed(net)],
        "shared": [*control.shared(net)],
    }


def describe_controls(family: Family, config: ModelConfig) -> dict[str, Any]:
    """Return what a family says of ControlNets with changed fields, and of damaged files."""
    control = family.control
    assert control is not None
    net = control.default(config)
    found = describe_changes(net, lambda net: describe_control(family, config, net))
    found["places"] = plain(control.inputs(config))
    if family.denoiser is not UNetConfig and "tiny" in config.name:  # files of U-Nets say no sizes
        shapes = flatten(control.networks(net)[-1].spec())
        found["damaged"] = describe_damage(
            shapes, lambda shapes: name_nets(control, shapes, config, net)
        )
    return found


def describe_texts(family: Family, config: ModelConfig) -> list[list[str]]:
    """Return the rules that a model breaks with other text encoders, one place after the other."""
    found = []
    texts = config.text_encoders
    places = ("text_encoder", "text_encoder_2", "text_encoder_3")
    other = [*find_family("sd3").presets["sd3-tiny"].text_encoders, None]
    for place in places:
        for text in (*texts, *other):
            changed = replace(config, **{place: text})
            if changed != config and changed.text_encoder is not None:
                found.append([*family.broken_rules(changed)])
    return found


def describe_family(name: str) -> dict[str, Any]:
    """Return what a family makes of its smallest models with changed fields."""
    family = find_family(name)
    small = {preset: shrink(config) for preset, config in family.presets.items()}
    scale = family.guidance_scale
    found: dict[str, Any] = {
        "small": {preset: plain(config) for preset, config in small.items()},
        "reads scale": {preset: scale.reads(config) for preset, config in family.presets.items()},
    }
    known: list[Any] = []
    for preset, config in family.presets.items():
        kept = config if "tiny" in preset else replace(small[preset], name=preset)
        if kept.denoiser in known:
            continue
        known.append(kept.denoiser)

        def describe(network: Any, config: ModelConfig = kept) -> dict[str, Any]:
            return describe_denoiser(family, replace(config, denoiser=network))

        found[preset] = describe_changes(kept.denoiser, describe)
    tiny = next(config for preset, config in family.presets.items() if "tiny" in preset)
    large = next(config for preset, config in family.presets.items() if "tiny" not in preset)
    found["damaged"] = describe_damaged_files(family, large)
    found["texts"] = describe_texts(family, tiny)
    if family.text.with_length is not None:
        found["length"] = plain(family.text.with_length(tiny, LENGTH))
    if family.control is not None:
        for config in (tiny, large):
            found[f"control of {config.name}"] = describe_controls(family, config)
    return found


# -- autoencoders and text encoders ---------------------------------------------------------------


def describe_autoencoder(config: Any) -> dict[str, Any]:
    """Return the broken rules of an autoencoder, or else its parameters and diffusers' class."""
    kind = find_autoencoder(config.kind)
    rules = [*kind.broken_rules(config)]
    if rules:
        return {"rules": rules}
    module = find_autoencoder_port(config.kind).module
    return properties_of(config) | {
        "rules": [],
        "shapes": name_shapes(flatten(kind.spec(config))),
        "shrunk": plain(shrink_autoencoder(config)),
        "module": plain(module(config)) if module else None,
        "makers": name_table(kind.makers(config)) if kind.makers else None,
    }


def describe_text_encoder(config: Any) -> dict[str, Any]:
    """Return the broken rules of a text encoder, or else its parameters and transformers' class."""
    kind = kind_of(config)
    rules = [*kind.broken_rules(config)]
    if rules:
        return {"rules": rules}
    module = find_text_encoder_port(kind.name).module
    return properties_of(config) | {
        "rules": [],
        "shapes": name_shapes(flatten(kind.spec(config))),
        "module": plain(module(config)) if module else None,
    }


def describe_kinds() -> dict[str, Any]:
    """Return what the kinds of autoencoders and text encoders make of changed fields."""
    found: dict[str, Any] = {}
    for name in autoencoder_kind.BUILT_IN:
        config = shrink_autoencoder(find_autoencoder(name).config())
        found[f"autoencoder {name}"] = describe_changes(config, describe_autoencoder)
    for name in BUILT_IN:
        tiny = next(x for preset, x in find_family(name).presets.items() if "tiny" in preset)
        for text in tiny.text_encoders:
            key = f"text encoder {kind_of(text).name}"
            if key not in found:
                found[key] = describe_changes(text, describe_text_encoder)
    return found


def describe(name: str) -> dict[str, Any]:
    """Return the values of a family, or of the kinds, as they are stored."""
    found = describe_kinds() if name == "kinds" else describe_family(name)
    return json.loads(json.dumps(found))


def main() -> None:
    """Write the values of all families."""
    CHANGED.mkdir(exist_ok=True)
    for name in NAMES:
        (CHANGED / f"{name}.json").write_text(join_lists(json.dumps(describe(name), indent=1)))


if __name__ == "__main__":
    main()
