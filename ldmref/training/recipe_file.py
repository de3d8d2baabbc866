"""Recipes in TOML: reading with every key checked, and writing with every key filled in."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ldmref.declare import Invalid, read
from ldmref.errors import InputError, UsageError, did_you_mean
from ldmref.files import read_file
from ldmref.io.locate import find_model, read_model_config
from ldmref.models.config import ModelConfig
from ldmref.models.presets import preset
from ldmref.models.validate import config_from_dict
from ldmref.training.finetune.defaults import DEFAULTS, default_tables
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.model_config import for_objective
from ldmref.training.recipe import (
    CLASSIFIER_GROUPS,
    EMOJI,
    MAX_SIZE,
    SCENES,
    STAGES,
    DataConfig,
    OptimizerConfig,
    Recipe,
    recipe_error,
)

SHIPPED = Path(__file__).parent / "recipes"
MAX_BYTES = 1_000_000
CODES = {"learning_rate": "E-LR", "size": "E-SIZE"}  # E-RECIPE of all others
AnyRecipe = Recipe | FineTuneRecipe
T = TypeVar("T")


def read_recipe(source: str | Path | None, overrides: Mapping[str, Any] | None = None) -> AnyRecipe:
    """The recipe in a TOML file, or the one of that name that comes with ldmref.

    `data.source` is relative to the file's folder. `overrides`: tables whose values replace those
    of the file. Without a source, every value that they do not set is the default.

    Raises:
        InputError: no such file, or it is no TOML.
        UsageError, CorruptModelError: as `recipe_from_dict`.
    """
    tables: dict[str, Any] = {}
    if source is not None:
        path = recipe_path(source)
        tables = _parse(path)
        data = tables.get("data")
        folder = data.get("source", EMOJI) if isinstance(data, dict) else EMOJI
        if isinstance(folder, str) and folder not in (EMOJI, SCENES):
            tables["data"]["source"] = str(path.absolute().parent / folder)
    return recipe_from_dict(_merge(tables, overrides or {}))


def recipe_path(source: str | Path) -> Path:
    """The file of a recipe, by its path or by the name of one that comes with ldmref."""
    if Path(source).is_file():
        return Path(source)
    names = {path.stem: path for path in SHIPPED.glob("*.toml")}
    if str(source) == "pictures":  # the name until 0.1
        return names["images"]
    if str(source) not in names:
        hint = f"a .toml file, or one that comes with ldmref; {did_you_mean(str(source), names)}"
        raise InputError(f"no recipe {str(source)!r}", code="E-RECIPE-FILE", hint=hint)
    return names[str(source)]


def recipe_from_dict(tables: Mapping[str, Any]) -> AnyRecipe:
    """The recipe of nested tables, with every key checked and every default filled in.

    With a `base` it is a fine-tuning, whose size and other defaults are those for the base
    (`finetune/defaults.py`).

    Raises:
        UsageError: an unknown key, a value of the wrong type or range, a model that cannot be
            trained, or a size that it cannot have.
        CorruptModelError: a model whose networks do not fit together.
    """
    if isinstance(tables, Mapping) and "base" in tables:
        return _fine_tune(tables)
    fields = dict(tables) if isinstance(tables, Mapping) else tables
    model = fields.pop("model", {}) if isinstance(fields, dict) else {}
    recipe = _read(Recipe(), fields)
    config = for_objective(_model(model), recipe.diffusion.objective)
    problem = recipe.autoencoder.objective.problem(config.vae)
    if problem:
        raise recipe_error(f"autoencoder.objective: {problem}")
    _check_accumulation({name: getattr(recipe, name).optimizer for name in ("features", *STAGES)})
    width = recipe.classifier.network.width
    if width % CLASSIFIER_GROUPS:
        raise recipe_error(
            f"classifier.network.width must be a multiple of {CLASSIFIER_GROUPS}, not {width}"
        )
    accumulation = recipe.autoencoder.optimizer.accumulation
    if accumulation > 1 and not recipe.autoencoder.objective.separable(config.vae):
        message = f"autoencoder.optimizer.accumulation must be 1, not {accumulation}"
        hint = "terms of this objective compare the images of a batch"
        raise recipe_error(message, hint=hint)
    size = recipe.data.size or config.defaults.width
    multiple = config.size_multiple
    if size < multiple or size % multiple:
        message = f"size must be a multiple of {multiple} from {multiple} to {MAX_SIZE}, not {size}"
        raise UsageError(message, code="E-SIZE")
    crop = recipe.data.crop
    if crop and (crop > size or crop % config.vae.factor):
        multiple = config.vae.factor
        message = f"data.crop must be a multiple of {multiple} up to the size {size}, not {crop}"
        raise UsageError(message, code="E-SIZE")
    config = replace(
        config,
        unet=replace(config.unet, sample_size=size // config.vae.factor),
        defaults=replace(config.defaults, width=size, height=size),
    )
    return replace(recipe, data=replace(recipe.data, size=size), model=config)


def to_toml(recipe: AnyRecipe) -> str:
    """The recipe with every key, as `read_recipe` reads it."""
    return "\n".join(_toml_lines(recipe.to_dict(), "")) + "\n"


def _toml_lines(table: Mapping[str, Any], name: str) -> list[str]:
    """Values first, then tables."""
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = ["", f"[{name}]"] if name and values else []
    lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if key not in values:
            lines += _toml_lines(value, f"{name}.{key}" if name else key)
    return lines


def _toml_value(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's, too, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = read_file(path, MAX_BYTES, "E-RECIPE-FILE")
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read the recipe {str(path)!r}: {reason}"
        raise InputError(message, code="E-RECIPE-FILE") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, those of `over` on top."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _fine_tune(tables: Mapping[str, Any]) -> FineTuneRecipe:
    """The recipe with the defaults of its base, which is looked at only if one is needed."""
    recipe = _read(FineTuneRecipe(), tables)
    if not recipe.data.size or not DEFAULTS[recipe.method].keys() <= _keys(tables, ""):
        config = read_model_config(find_model(recipe.base))
        tables = _merge(default_tables(recipe.method, config), tables)
        recipe = _read(FineTuneRecipe(), tables)
        size = recipe.data.size or config.defaults.width
        recipe = replace(recipe, data=replace(recipe.data, size=size))
    if "lora.alpha" not in _keys(tables, ""):
        recipe = replace(recipe, lora=replace(recipe.lora, alpha=float(recipe.lora.rank)))
    _check_accumulation({"diffusion": recipe.diffusion.optimizer})
    for key in ("flips", "crop"):
        if getattr(recipe.data, key) != getattr(DataConfig, key):
            raise recipe_error(f"data.{key} has no effect here: the autoencoder is not trained")
    return recipe


def _keys(tables: Mapping[str, Any], prefix: str) -> set[str]:
    """The names of the values in nested tables, with those of their tables."""
    keys: set[str] = set()
    for key, value in tables.items():
        keys |= _keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key}
    return keys


def _model(table: Any) -> ModelConfig:
    """The preset's configuration, with the fields of the table replaced."""
    if not isinstance(table, Mapping):
        raise recipe_error(f"model must be a table, not {table!r}")
    fields = dict(table)
    name = fields.pop("preset", EMOJI)
    if not isinstance(name, str):
        raise recipe_error(f"model.preset must be of type str, not {name!r}")
    vae = fields.get("vae")
    z = vae.get("latent_channels") if isinstance(vae, dict) else None
    if type(z) is int:  # the U-Net's channels follow, where the recipe does not say otherwise
        fields = _merge({"unet": {"in_channels": z, "out_channels": z}}, fields)
    config = config_from_dict(_merge(preset(name).to_dict(), fields))
    pooled = config.text_encoder_2 is not None or config.unet.addition_embed_type
    if pooled or config.image_channels:
        hint = "trained are an autoencoder, and a U-Net with one text encoder or none"
        raise recipe_error(f"the model {config.name!r} cannot be trained", hint=hint)
    return config


def _check_accumulation(optimizers: Mapping[str, OptimizerConfig]) -> None:
    """Batches are divided into equal parts."""
    for name, optimizer in optimizers.items():
        count = optimizer.accumulation
        batch_size = optimizer.batch_size
        if batch_size % count:
            message = f"{name}.optimizer.accumulation = {count} must divide batch_size = "
            raise recipe_error(message + str(batch_size))


def _read(default: T, tables: Any) -> T:
    """A recipe like `default` with the values of TOML tables."""
    try:
        return read(type(default), tables, base=default)
    except Invalid as error:
        code = CODES.get(error.path.rpartition(".")[2], "E-RECIPE")
        raise recipe_error(str(error), code=code, hint=error.hint) from None
