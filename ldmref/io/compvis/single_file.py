"""CompVis single files: one safetensors file with all networks under their original names.

Which family a file belongs to is not guessed from a few names: it is the published configuration
whose table it fits, tensor by tensor. Files that fit none are refused with what does not fit the
nearest one; files of other sizes need `config=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ldmref.errors import CorruptModelError, KeyMismatchError, UsageError
from ldmref.io.compvis.ema import (
    COUNTERS,
    PREFIX,
    WRAPPER,
    ema_table,
    has_averages,
    uses_ema,
    were_updated,
)
from ldmref.io.compvis.key_entry import Entry, as_stored, stack, stored_shapes
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.identify import SUPPORTED, refuse_foreign
from ldmref.io.key_report import Report, compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import ModelConfig
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import LDM_PRESETS

FAMILIES = (
    "sd15", "sd15-inpainting", "sd2-base", "sd2-v", "sd2-inpainting", "sdxl", *LDM_PRESETS,
)  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}
OLD_CLIP = "cond_stage_model.transformer."
SCALE = "scale_factor"  # of the latents, where training measured it

# What training and other programs leave in a file: buffers, averages (where they are not read, see
# io.ema), unused heads of the text encoders, the trainer's own state.
IGNORED = re.compile(
    r"model_ema\..*|betas|alphas|alphas_cumprod(_prev)?|sqrt_.*alphas_cumprod.*|log_one_minus_.*"
    r"|posterior_.*|logvar|lvlb_weights|scale_factor|denoiser\.(log_)?sigmas"
    r"|.*\.position_ids|.*\.logit_scale|.*\.attn_mask"
    r"|first_stage_model\.((loss|model_ema)\..*|logvar)"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.((model|transformer)\.)?text_projection"
    r"(\.weight)?|cond_stage_model\.transformer\.to_logits\..*"
    r"|embedding_manager\..*|(optimizer|optimizer_states|lr_schedulers?|callbacks|loops)\..*"
    r"|epoch|global_step|v_pred|ztsnr"
)
# Where the autoencoder also encodes the masked picture, a file holds it twice.
SECOND_COPY = re.compile(
    r"cond_stage_model\.(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\..*"
)


def shapes_in_file(file: TensorFile) -> dict[str, tuple[int, ...]]:
    """Name -> shape, with two old habits undone: a `state_dict.` prefix and CLIP without its name.

    Files saved by transformers before 2022 lack `text_model.` below `cond_stage_model.transformer.`
    """
    return {name: file.shapes[stored] for name, stored in stored_names(file).items()}


def stored_names(file: Iterable[str]) -> dict[str, str]:
    """The name that the tables use -> the name in the file."""
    names = {}
    for stored in file:
        name = stored.removeprefix("state_dict.")
        rest = name.removeprefix(OLD_CLIP)
        if rest != name and rest.split(".")[0] in ("embeddings", "encoder", "final_layer_norm"):
            name = f"{OLD_CLIP}text_model.{rest}"
        names[name] = stored
    return names


def report_on(
    shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, ema: bool = False
) -> Report:
    """How a file fits a configuration, with its averages in place of the weights or without."""
    table = compvis_table(config)
    table = ema_table(table) if ema else table
    want, shapes = stored_shapes(table), as_stored(shapes, table)
    unused = re.compile(_layers_beyond(config))
    ignorable = {name for name in shapes if IGNORED.fullmatch(name) or unused.fullmatch(name)}
    if config.concat == "masked_image":
        ignorable |= {name for name in shapes if SECOND_COPY.fullmatch(name)}
    if ema:
        ignorable = {name for name in ignorable if not name.startswith(PREFIX)} | {*COUNTERS}
        ignorable |= {entry.name for entry in compvis_table(config).values()}
    return compare(shapes, want, ignorable)


def _layers_beyond(config: ModelConfig) -> str:
    """SD 2 takes OpenCLIP's penultimate layer, so our configuration has no last one."""
    text = config.text_encoder
    if (text.model_type, text.hidden_act) != ("clip", "gelu") or config.text_encoder_2 is not None:
        return r"(?!)"
    last = text.num_hidden_layers
    return rf"cond_stage_model\.model\.transformer\.resblocks\.{last}\..*"


def averages_of(file: TensorFile, config: ModelConfig, ema: bool | None = None) -> bool | None:
    """Whether the averaged weights of a file (`io.compvis.ema`) are read; None if it has none.

    As `ema` says; with `ema` None, if the makers of such models sample with them and the file has
    the whole set, or if it has no other weights.

    Raises:
        UsageError: they are asked for, and the file has none.
    """
    names = stored_names(file)
    if not has_averages(names):
        if ema:
            raise UsageError(
                f"{file.path.name} holds no averaged weights (model_ema.*)",
                code="E-EMA",
                hint="leave out ema=True (--ema): its only weights are then read",
            )
        return None
    if ema is not None:
        return ema
    if not any(name.startswith(WRAPPER) for name in names):
        return True
    return (
        uses_ema(config)
        and were_updated(file, names)
        and report_on(shapes_in_file(file), config, ema=True).fits
    )


def averages_note(file: TensorFile, config: ModelConfig) -> str:
    """Warn that a file holds averages and say which weights are read by default; "" if none."""
    averaged = averages_of(file, config)
    if averaged is None:
        return ""
    if not report_on(shapes_in_file(file), config, ema=True).fits:
        what, hint = "an incomplete set of averaged weights", ""
    elif averaged:
        what, hint = "averaged weights", ": --no-ema (ema=False) reads the last weights"
    else:
        what, hint = "averaged weights", ": --ema (ema=True) reads the averages"
    read = "averages" if averaged else "last weights"
    return f"{file.path.name} also holds {what}; the {read} are read{hint}"


def unread(file: TensorFile, config: ModelConfig, ema: bool | None = None) -> list[str]:
    """The tensors of a file that drawing does without, by the names that the tables use."""
    report = report_on(shapes_in_file(file), config, bool(averages_of(file, config, ema)))
    return [name for name in report.ignored if name != SCALE]


def find_config(
    file: TensorFile, told: ModelConfig | None = None, ema: bool | None = None
) -> ModelConfig:
    """The configuration that the file fits: the one told, or a published family.

    `ema`: whether the averages of its weights must fit, or the weights; None as `averages_of`
    says. The scaling factor of the latents is the file's, if it holds one (`scale_by_std`).

    Raises:
        KeyMismatchError: it does not fit; lists what is missing, unexpected or misshapen.
        UsageError: it fits several, which differ in what the network predicts.
    """
    return _with_scale(file, _family(file, told, ema))


def _with_scale(file: TensorFile, config: ModelConfig) -> ModelConfig:
    """The configuration with the scaling factor that training measured and left in the file."""
    names = [name for name in stored_names(file).items() if name[0] == SCALE]
    if not names:
        return config
    scale = np.asarray(file[names[0][1]], np.float64)
    if scale.size != 1 or not 0 < scale.item() < np.inf:
        raise CorruptModelError(
            f"{file.path.name}: scale_factor must be one positive number", code="E-CONFIG"
        )
    return replace(config, vae=replace(config.vae, scaling_factor=float(scale.item())))


def _family(file: TensorFile, told: ModelConfig | None, ema: bool | None) -> ModelConfig:
    shapes = shapes_in_file(file)
    without = "ema=False (--no-ema) reads the weights without their averages" if ema else ""

    def report(config: ModelConfig) -> Report:
        return report_on(shapes, config, bool(averages_of(file, config, ema)))

    if told is not None:
        found = report(told)
        if not found.fits:
            refuse_foreign(file.path.name, shapes)
        found.require(f"{file.path.name} is no {told.name!r} model", hint=without)
        return told
    reports = {name: report(PRESETS[name]) for name in FAMILIES}
    fitting = [name for name, report in reports.items() if report.fits]
    if not fitting:
        refuse_foreign(file.path.name, shapes)
        nearest = max(FAMILIES, key=lambda name: reports[name].likeness)
        if not reports[nearest].shared:
            raise KeyMismatchError(
                f"{file.path.name} is no model: not one of its {len(shapes)} tensors has a name "
                f"that a model's has ({', '.join(sorted(shapes)[:3])[:200]})",
                code="E-KEYS",
                hint=SUPPORTED,
            )
        reports[nearest].require(
            f"{file.path.name} fits no known family; nearest is {nearest!r}",
            hint="for other sizes give config= with a preset or a folder with the configuration"
            + ("; " + without if without else ""),
        )
    prediction = _prediction(file)
    if prediction:
        matching = [n for n in fitting if PRESETS[n].scheduler.prediction_type == prediction]
        if matching:
            return PRESETS[matching[0]]
        base = PRESETS[fitting[0]]
        return replace(base, scheduler=replace(base.scheduler, prediction_type=prediction))
    if len(fitting) > 1:
        raise UsageError(
            f"{file.path.name} fits {' and '.join(map(repr, fitting))}, and does not say whether "
            "it predicts noise or velocity",
            code="E-FAMILY",
            hint="give config= " + " or ".join(fitting),
        )
    return PRESETS[fitting[0]]


def _prediction(file: TensorFile) -> str:
    """What the file itself says that its U-Net predicts; "" where it says nothing."""
    if "v_pred" in file:
        return "v"
    return PREDICTIONS.get(str(file.metadata.get("modelspec.prediction_type", "")).lower(), "")


def to_native(
    tensors: Mapping[str, np.ndarray], table: Mapping[str, Entry]
) -> dict[str, np.ndarray]:
    """Tensors under CompVis' names as ours."""
    return {name: entry.read(tensors[entry.name]) for name, entry in table.items()}


def to_compvis(flat: Mapping[str, np.ndarray], table: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """Our tensors under CompVis' names; the inverse of `to_native`."""
    parts: dict[str, list[tuple[Entry, np.ndarray]]] = {}
    for name, entry in table.items():
        parts.setdefault(entry.name, []).append((entry, np.asarray(flat[name])))
    return {name: np.ascontiguousarray(stack(found)) for name, found in parts.items()}


def scale_tensor(config: ModelConfig) -> dict[str, np.ndarray]:
    """The scaling factor as a file holds it, where a family of these tensors has another one."""
    table, scale = compvis_table(config), np.float64(config.vae.scaling_factor)
    families = [PRESETS[name] for name in FAMILIES if compvis_table(PRESETS[name]) == table]
    if all(family.vae.scaling_factor == scale for family in families):
        return {}
    short = np.float32(scale)
    return {SCALE: np.asarray(short if short == scale else scale)}


def load_compvis(
    file: TensorFile, told: ModelConfig | None = None, ema: bool | None = None
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Configuration and tensors (our names) of a single file; checked before any is read."""
    config = find_config(file, told, ema)
    names, table = stored_names(file), compvis_table(config)
    if averages_of(file, config, ema):
        table = ema_table(table)
    used = {entry.name for entry in table.values()}
    return config, to_native({name: file[names[name]] for name in used}, table)
