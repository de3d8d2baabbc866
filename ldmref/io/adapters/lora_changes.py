"""What a LoRA file changes: for each of our tensors, the tensors of its change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ldmref.errors import CorruptModelError, KeyMismatchError
from ldmref.io.adapters.control_lora import narrow_columns, pad_columns, widen_config
from ldmref.io.adapters.lora_file import Lora, layer_config, lora_error
from ldmref.io.adapters.lora_forms import (
    FACTORED,
    FORMS,
    MAGNITUDES,
    bare,
    expected_shapes,
    find_form,
    rank_of,
)
from ldmref.io.adapters.lora_keys import (
    BUNDLED,
    UNUSED,
    LoraNames,
    LoraTarget,
    lora_names,
    unwrapped,
)
from ldmref.io.identify import refuse_networks, refuse_other_adapters
from ldmref.io.key_report import KeyReport, compare
from ldmref.io.key_table import KeyEntry
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.models.presets import list_presets

DOWN = (".lora_down.weight", ".lora_A.weight")
MOST_NAMES = 10_000  # of a file that is compared with every preset
SAMPLE = 16  # names that are looked up before all
HADAMARD_ROWS = ("hada_w1_a", "hada_w2_a")
ROWS = ("up", "offset", "whole", "diff", *HADAMARD_ROWS)  # roles whose rows are those of the layer


class NamedTensor(NamedTuple):
    """A tensor of the file by name, and where ours is in its layer."""

    name: str
    entry: KeyEntry | None


Roles = Mapping[str, NamedTensor]


@dataclass(frozen=True)
class Change:
    """The change of one of our tensors.

    Attributes:
        form: A key of `FORMS`.
        parts: Its tensors by role. If a layer of the file holds several of ours, or the halves of
            one in another order, the rows are cut and arranged as ours, except for LoKr.
        scale: The factor of the change, alpha / rank.
        layer: The shape of the layer in the file.
        entry: Where our tensor is in this layer. None: it is the layer.
        magnitude: The lengths that DoRA gives to the rows of our tensor or to the columns of the
            layer. None: it gives none.
        by_columns: Whether they are those of columns.
        siblings: With lengths of columns, the names of all tensors of the layer.
    """

    form: str
    parts: Mapping[str, np.ndarray] = field(repr=False)
    scale: float = 1.0
    layer: Shape = ()
    entry: KeyEntry | None = None
    magnitude: np.ndarray | None = None
    by_columns: bool = False
    siblings: tuple[str, ...] = ()


def match_tensors(config: ModelConfig, lora: Lora) -> dict[str, dict[str, NamedTensor]]:
    """Return, for each of our tensors that a LoRA changes, its tensors in the file by role.

    Names and shapes are compared; no numbers are read.

    A LoRA that was made for a model without a control image may leave out the image's columns.

    Raises:
        KeyMismatchError: A tensor of the file is not used, or has another shape.
        CorruptModelError: The file holds no tensors.
    """
    if not lora.tensors:
        raise lora_error(f"the LoRA {lora.name!r} holds no tensors")
    refuse_other_adapters(lora.name, lora.tensors)
    known = lora_names(config)
    named, report = compare_names(config, lora, known)
    if all(role == "whole" for roles in named.values() for role in roles):
        refuse_networks(lora.name, lora.tensors)
    if not report.fits:
        _refuse_second_names(config, lora, named, report, known)
        report.require(
            f"the LoRA {lora.name!r} does not fit {config.name!r}",
            _explain_misfit(config, lora, report),
        )
    return named


def _refuse_second_names(
    config: ModelConfig,
    lora: Lora,
    named: Mapping[str, Roles],
    report: KeyReport,
    known: LoraNames,
) -> None:
    """Refuse a file that has two tensors for one role of a layer, such as of `qkv` and of `to_q`.

    Raises:
        KeyMismatchError: It has; the message names both.
    """
    for name in report.unexpected:
        for target in known.get(unwrapped(name), ()):
            first = named.get(target.tensor, {}).get(target.role)
            if first is not None and first.name != name:
                raise KeyMismatchError(
                    f"the LoRA {lora.name!r} does not fit {config.name!r}: it changes "
                    f"{target.tensor} twice, as {first.name} and as {name}",
                    code="E-KEYS",
                    hint="keep one of the two notations for each layer",
                )


def compare_names(
    config: ModelConfig, lora: Lora, known: LoraNames | None = None
) -> tuple[dict[str, dict[str, NamedTensor]], KeyReport]:
    """Return what `match_tensors` does, and how names and shapes of the file fit the model.

    `known` are the model's `lora_names`. None: they are listed.
    """
    shapes = flatten(model_spec(config))
    names = [name for name in lora.tensors if not is_ignored(name)]
    named = _assign(lora_names(config) if known is None else known, names)
    have = {name: bare(lora.shape_of(name)) for name in names}
    narrow = narrow_columns(config)
    want: dict[str, Shape] = {}
    for tensor, roles in named.items():
        fitting = _wanted(tensor, roles, have, shapes)
        if "down" in roles and have[roles["down"].name][1:] == (narrow.get(_layer(tensor)),):
            fitting[roles["down"].name] = have[roles["down"].name]
        want |= fitting
    return named, compare(have, want)


def find_families(lora: Lora, most: int = 100) -> list[str]:
    """Return at most so many presets that a LoRA fits, by names and shapes.

    No numbers are read, and no preset is looked at closely whose widths or layers are others.
    """
    names = [name for name in lora.tensors if not is_ignored(name)]
    if not names or len(names) > MOST_NAMES:
        return []
    downs = (lora.shape_of(name) for name in names if name.endswith(DOWN))
    columns = {shape[1] for shape in downs if len(shape) > 1}
    fitting: list[str] = []
    compared: dict[tuple[Any, ...], bool] = {}  # by the networks, which several presets may share
    for preset, config in list_presets().items():
        widths = {shape[1] for shape in flatten(model_spec(config)).values() if len(shape) > 1}
        if len(fitting) == most or not columns <= widths:
            continue
        wide = widen_config(config, [lora])
        networks = (wide.denoiser, *wide.text_encoders)
        if networks not in compared:
            known = lora_names(wide)
            seen = all(unwrapped(name) in known for name in names[:SAMPLE])
            compared[networks] = seen and compare_names(wide, lora, known)[1].fits
        if compared[networks]:
            fitting.append(preset)
    return fitting


def _explain_misfit(config: ModelConfig, lora: Lora, report: KeyReport) -> str:
    """Return the hint for a file that does not fit a model: what it fits, if that is known."""
    used = len(report.used)
    if report.missing and not report.unexpected:
        return "all of its names are those of layers of this model: it is incomplete"
    families = find_families(lora, 1)
    if families and config.name not in families:
        return f"it is made for another family: give a model such as {families[0]}"
    if used:
        return f"{used} of its tensors fit: it is incomplete, or of a program with other names"
    return "none of its names is that of a layer of this model, in the notation of any program"


def is_ignored(name: str) -> bool:
    """Return whether a tensor of a file changes no weight, although it belongs there."""
    return name.startswith(BUNDLED) or UNUSED.match(name) is not None


def lora_changes(config: ModelConfig, lora: Lora) -> dict[str, Change]:
    """Return the change of each of our tensors; every tensor of the file is used, and fits.

    Raises:
        KeyMismatchError, CorruptModelError: As for `apply_loras`.
    """
    named = match_tensors(config, lora)
    tensors = {name: lora.tensors[name] for name in lora.tensors if not is_ignored(name)}
    bad = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        what = f"the LoRA {lora.name!r} holds NaN or infinity: {', '.join(bad[:3])}"
        raise CorruptModelError(what, code="E-NONFINITE")
    shapes = flatten(model_spec(config))
    narrow = narrow_columns(config)
    changes = {}
    for tensor, roles in named.items():
        parts = {role: tensors[name] for role, (name, _) in roles.items()}
        if tensor in narrow and "down" in parts:  # made for the model without a control image
            parts["down"] = pad_columns(parts["down"], shapes[tensor][1])
        change = _change(lora, tensor, roles, parts, shapes[tensor])
        if change.by_columns:
            name = roles["magnitude"].name
            siblings = (
                other
                for other, found in named.items()
                if "magnitude" in found and found["magnitude"].name == name
            )
            change = replace(change, siblings=tuple(siblings))
        changes[tensor] = change
    return changes


def _change(
    lora: Lora, tensor: str, roles: Roles, parts: dict[str, np.ndarray], shape: Shape
) -> Change:
    """Return the change that the tensors of a layer in the file describe, by role."""
    form = find_form(parts)
    entry = next(iter(roles.values())).entry
    layer = entry.stored_shape if entry is not None else shape
    scale, magnitude, by_columns = 1.0, None, False
    if form in FACTORED:
        scale = _scale(lora, tensor, roles, form, parts)
        magnitude, by_columns = _magnitude(parts, layer, entry)
    elif form == "offset":
        scale = _scale(lora, tensor, roles, "LoRA", parts)
    parts = {role: parts[role] for role in FORMS[form] if role in parts}
    if "hada_t1" in parts:  # the rows first, as without Tucker
        parts |= {role: parts[role].T for role in HADAMARD_ROWS}
    if entry is not None:
        parts |= {role: _cut(entry, parts[role]) for role in ROWS if role in parts}
    return Change(form, parts, scale, layer, entry, magnitude, by_columns)


def _cut(entry: KeyEntry, rows: np.ndarray) -> np.ndarray:
    """Return our rows of a tensor that has the rows of a layer in the file."""
    if rows.shape == entry.stored_shape:
        return entry.read(rows)
    return replace(entry, shape=(*entry.shape[:1], *rows.shape[1:2])).read(rows)


def _scale(
    lora: Lora, tensor: str, roles: Roles, form: str, parts: Mapping[str, np.ndarray]
) -> float:
    """Return alpha / rank, from the file or from what PEFT records beside it."""
    rank = rank_of(form, parts)
    name = unwrapped(next(roles[role].name for role in FORMS[form] if role in roles))
    recorded = layer_config(lora.adapter, tensor, name)
    if recorded.use_dora and not {*MAGNITUDES} & parts.keys() and not tensor.endswith(".bias"):
        raise lora_error(f"the LoRA {lora.name!r} is a DoRA without the magnitude of {name}")
    if "alpha" in parts:
        alpha = float(np.asarray(parts["alpha"], np.float64).reshape(()))
        return 1.0 if rank is None else alpha / rank
    return recorded.scale(rank)


def _magnitude(
    parts: Mapping[str, np.ndarray], layer: Shape, entry: KeyEntry | None
) -> tuple[np.ndarray | None, bool]:
    """Return DoRA's lengths of our rows, or of the layer's columns, and whether they are these."""
    role = next((role for role in MAGNITUDES if role in parts), None)
    if role is None:
        return None, False
    lengths = np.asarray(parts[role], np.float64)
    shape = bare(lengths.shape)
    if role == "magnitude" and shape == (1, layer[1]) and shape != (layer[0], 1):
        return lengths.reshape(-1), True
    lengths = lengths.reshape(-1)
    return lengths if entry is None else _cut(entry, lengths), False


def _assign(
    known: Mapping[str, tuple[LoraTarget, ...]], names: Iterable[str]
) -> dict[str, dict[str, NamedTensor]]:
    """Return the tensors of the file by our tensor and role.

    A second name of one target is left out, and so unexpected. The change of a bias needs rank and
    alpha, so `down` and `alpha` of its layer are also its own.
    """
    named: dict[str, dict[str, NamedTensor]] = {}
    for name in names:
        targets = known.get(unwrapped(name), ())
        if not any(target.role in named.get(target.tensor, {}) for target in targets):
            for tensor, role, entry in targets:
                named.setdefault(tensor, {})[role] = NamedTensor(name, entry)
    for tensor, roles in named.items():
        if "offset" in roles:
            of_layer = named.get(_layer(tensor), {})
            roles.update((role, of_layer[role]) for role in ("down", "alpha") if role in of_layer)
    return named


def _layer(tensor: str) -> str:
    """Return the matrix of a bias's layer, and the name of any other tensor."""
    return tensor.removesuffix("bias") + "weight" if tensor.endswith(".bias") else tensor


def _wanted(
    tensor: str, roles: Roles, have: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Return names and shapes that the change of a tensor needs."""
    form = find_form(roles)
    entry = next(iter(roles.values())).entry
    if form == "offset":
        rows = (roles["offset"].entry or KeyEntry("", shapes[tensor])).stored_shape[:1]
        columns = bare(shapes[_layer(tensor)])[1:]
        rank = have[roles["down"].name][:1] if "down" in roles else ()
        expected = {"down": (*(rank or (1,)), *columns), "offset": rows}
        if "alpha" in roles:
            expected["alpha"] = have[roles["alpha"].name]
    else:
        layer = entry.stored_shape if entry is not None else shapes[tensor]
        own = {role: have[named.name] for role, named in roles.items()}
        expected = expected_shapes(form, own, bare(layer))
    first = next(iter(roles.values())).name
    return {
        roles[role].name if role in roles else f"{role} for {first}": shape
        for role, shape in expected.items()
    }
