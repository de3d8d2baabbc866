"""CompVis single files: one safetensors file with all networks under their original names.

The family of a file is not guessed from a few names: it is the published configuration whose key
table the file fits, tensor by tensor. A file that fits none is refused with the problems of the
nearest family; files of other sizes need `config=`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ldmref.errors import CorruptModelError, KeyMismatchError, UsageError
from ldmref.io.compvis.ema import (
    COUNTERS,
    PREFIX,
    WRAPPER,
    ema_table,
    family_uses_ema,
    has_ema,
    has_updated_ema,
)
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.identify import SUPPORTED, refuse_foreign, refuse_variant
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import find_matching, fit, list_stored_shapes, to_native
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import TensorView
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import LDM_PRESETS

FAMILIES = (
    "sd15", "sd15-inpainting", "sd2-base", "sd2-v", "sd2-inpainting", "sdxl", *LDM_PRESETS,
)  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}
CLIP = "cond_stage_model.transformer."
CLIP_MODULES = ("embeddings", "encoder", "final_layer_norm")
SCALE = "scale_factor"  # of the latents, measured in training (`scale_by_std`)

# Tensors that training and other programs leave in a file: buffers, averages (unless they are
# read), unused heads of the text encoders, a ControlNet, the state of the trainer.
IGNORED = (
    r"model_ema\..*|betas|alphas|alphas_cumprod(_prev)?|sqrt_.*alphas_cumprod.*|log_one_minus_.*"
    r"|posterior_.*|logvar|lvlb_weights|scale_factor|denoiser\.(log_)?sigmas"
    r"|.*\.position_ids|.*\.logit_scale|.*\.attn_mask"
    r"|first_stage_model\.((loss|model_ema)\..*|logvar)"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.((model|transformer)\.)?text_projection"
    r"(\.weight)?|cond_stage_model\.transformer\.to_logits\..*"
    r"|control_model\..*|embedding_manager\..*|(optimizer|optimizer_states|lr_schedulers?|callbacks|loops)\..*"
    r"|epoch|global_step|v_pred|ztsnr"
)
# An autoencoder that also encodes the masked image is stored twice.
SECOND_COPY = r"cond_stage_model\.(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\..*"


def canonical_name(stored: str) -> str:
    """Return the name that the key tables use for a stored tensor.

    Some files have a `state_dict.` prefix. Those saved by transformers before 2022 lack
    `text_model.` below `cond_stage_model.transformer.`
    """
    name = stored.removeprefix("state_dict.")
    if name.startswith(CLIP) and name.removeprefix(CLIP).split(".")[0] in CLIP_MODULES:
        return f"{CLIP}text_model.{name.removeprefix(CLIP)}"
    return name


def view_canonical(file: ModelFile) -> TensorView:
    """Return the tensors of a single file under the names of the key tables."""
    return TensorView([file], canonical_name)


def report_fit(shapes: Mapping[str, Shape], config: ModelConfig, ema: bool = False) -> KeyReport:
    """Compare a file with a configuration.

    With `ema`, the averages are compared instead of the weights.
    """
    table = compvis_table(config)
    ignored = IGNORED
    if config.concat == "masked_image":
        ignored += "|" + SECOND_COPY
    text = config.text_encoder
    if (text.model_type, text.hidden_act) == ("clip", "gelu") and config.text_encoder_2 is None:
        # SD 2 takes the penultimate layer of OpenCLIP, so the configuration lacks the last one
        last = text.num_hidden_layers
        ignored += rf"|cond_stage_model\.model\.transformer\.resblocks\.{last}\..*"
    ignorable = find_matching(ignored, shapes)
    if ema:
        ignorable = {name for name in ignorable if not name.startswith(PREFIX)}
        ignorable |= {*COUNTERS, *list_stored_shapes(table)}
        table = ema_table(table)
    return fit(shapes, table, ignorable)


def select_ema(file: ModelFile, config: ModelConfig, ema: bool | None = None) -> bool | None:
    """Return whether to read the averaged weights of a file; None if it has none.

    With `ema` None they are read if the file has no other weights, or if the family is sampled with
    them, the set is complete and training updated it (`io.compvis.ema`).

    Raises:
        UsageError: `ema` is True, and the file has no averages.
    """
    view = view_canonical(file)
    if not has_ema(view):
        if ema:
            raise UsageError(
                f"{file.path.name} holds no averaged weights (model_ema.*)",
                code="E-EMA",
                hint="leave out ema=True (--ema): its only weights are then read",
            )
        return None
    if ema is not None:
        return ema
    if not any(name.startswith(WRAPPER) for name in view):
        return True
    return (
        family_uses_ema(config)
        and has_updated_ema(view)
        and report_fit(view.shapes, config, True).fits
    )


def describe_ema(file: ModelFile, config: ModelConfig) -> str:
    """Return a warning that a file holds averages, with the default choice; "" if it has none."""
    averaged = select_ema(file, config)
    if averaged is None:
        return ""
    if not report_fit(view_canonical(file).shapes, config, ema=True).fits:
        what = "an incomplete set of averaged weights"
        hint = ""
    elif averaged:
        what = "averaged weights"
        hint = ": --no-ema (ema=False) reads the last weights"
    else:
        what = "averaged weights"
        hint = ": --ema (ema=True) reads the averages"
    read = "averages" if averaged else "last weights"
    return f"{file.path.name} also holds {what}; the {read} are read{hint}"


def list_unread(file: ModelFile, config: ModelConfig, ema: bool | None = None) -> list[str]:
    """Return the canonical names of the tensors of a file that the model does not use."""
    report = report_fit(view_canonical(file).shapes, config, bool(select_ema(file, config, ema)))
    return [name for name in report.ignored if name != SCALE]


def find_config(
    file: ModelFile, config: ModelConfig | None = None, ema: bool | None = None
) -> ModelConfig:
    """Return the configuration that a file fits: `config` if given, otherwise a published family.

    The scaling factor of the latents is the file's, if it holds one.

    Args:
        file: The file.
        config: The configuration to fit; None tries all published families.
        ema: Whether the averages or the last weights must fit; None: as for `select_ema`.

    Raises:
        KeyMismatchError: It does not fit; the message lists the tensors that are missing,
            unexpected or misshapen.
        UsageError: It fits several families, which differ in what the network predicts.
    """
    view = view_canonical(file)
    config = _family(file, config, ema)
    if SCALE not in view:
        return config
    scale = np.asarray(view[SCALE], np.float64)
    if scale.size != 1 or not 0 < scale.item() < np.inf:
        raise CorruptModelError(
            f"{file.path.name}: scale_factor must be one positive number", code="E-CONFIG"
        )
    return replace(config, vae=replace(config.vae, scaling_factor=float(scale.item())))


def _family(file: ModelFile, config: ModelConfig | None, ema: bool | None) -> ModelConfig:
    shapes = view_canonical(file).shapes
    candidates = [PRESETS[name] for name in FAMILIES] if config is None else [config]
    reports = [
        (candidate, report_fit(shapes, candidate, bool(select_ema(file, candidate, ema))))
        for candidate in candidates
    ]
    fitting = [candidate for candidate, report in reports if report.fits]
    if fitting:
        return fitting[0] if config is not None else _with_prediction(file, fitting)
    refuse_variant(file.path.name, shapes)
    refuse_foreign(file.path.name, shapes)
    nearest, report = max(reports, key=lambda pair: pair[1].likeness)
    hints = ["ema=False (--no-ema) reads the weights without their averages"] if ema else []
    if config is not None:
        report.require(f"{file.path.name} is not a {nearest.name!r} model", hint="".join(hints))
    if not report.shared:
        raise KeyMismatchError(
            f"{file.path.name} is not a model: none of its {len(shapes)} tensors has a known name "
            f"({', '.join(sorted(shapes)[:3])[:200]})",
            code="E-KEYS",
            hint=SUPPORTED,
        )
    hints.insert(0, "for other sizes give config= with a preset or a folder with a configuration")
    report.require(
        f"{file.path.name} fits no known family; nearest is {nearest.name!r}", hint="; ".join(hints)
    )
    raise AssertionError("no family fits")


def _with_prediction(file: ModelFile, fitting: list[ModelConfig]) -> ModelConfig:
    """Choose the family with the prediction type that the file names, for equal tensors."""
    metadata = str(file.metadata.get("modelspec.prediction_type", "")).lower()
    prediction = "v" if "v_pred" in file else PREDICTIONS.get(metadata, "")
    if "ztsnr" in file:  # trained with zero terminal SNR, which needs the last timestep
        zero = {"rescale_betas_zero_snr": True, "spacing": "trailing"}
        fitting = [replace(c, scheduler=replace(c.scheduler, **zero)) for c in fitting]
    for config in fitting:
        if config.scheduler.prediction_type == prediction:
            return config
    if prediction:
        scheduler = replace(fitting[0].scheduler, prediction_type=prediction)
        return replace(fitting[0], scheduler=scheduler)
    if len(fitting) > 1:
        names = [config.name for config in fitting]
        raise UsageError(
            f"{file.path.name} fits {' and '.join(map(repr, names))}, and does not say whether "
            "it predicts noise or velocity",
            code="E-FAMILY",
            hint="give config= " + " or ".join(names),
        )
    return fitting[0]


def make_scale_tensor(config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the scaling factor as a tensor to store, if the family does not imply it."""
    table = compvis_table(config)
    scale = np.float64(config.vae.scaling_factor)
    families = [PRESETS[name] for name in FAMILIES if compvis_table(PRESETS[name]) == table]
    if all(family.vae.scaling_factor == scale for family in families):
        return {}
    short = np.float32(scale)
    return {SCALE: np.asarray(short if short == scale else scale)}


def load_compvis(
    file: ModelFile, config: ModelConfig | None = None, ema: bool | None = None
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Load configuration and tensors (our names) of a single file, checked before any is read.

    The arguments and errors are those of `find_config`.
    """
    config = find_config(file, config, ema)
    return config, read_compvis(file, config, bool(select_ema(file, config, ema)))


def read_compvis(file: ModelFile, config: ModelConfig, averaged: bool) -> dict[str, np.ndarray]:
    """Return the tensors (our names) of a single file that fits `config`.

    Args:
        file: The file.
        config: Its configuration, from `find_config`.
        averaged: Whether to read the averaged weights, from `select_ema`.
    """
    table = compvis_table(config)
    return to_native(view_canonical(file), ema_table(table) if averaged else table)
