"""Recipes in TOML: reading, which checks every key, and writing, which fills in every key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ldmref.datasets.config import EMOJI, MAX_SIZE, DataConfig
from ldmref.datasets.registry import is_dataset
from ldmref.declare import Invalid, read
from ldmref.errors import InputError, UsageError, did_you_mean
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import BUILT_IN, config_class
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.presets import preset
from ldmref.models.validate import config_from_dict, find_named_family
from ldmref.support.files import read_file
from ldmref.training.finetune.defaults import DEFAULTS, default_tables
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.recipes.model import (
    check_given_autoencoder,
    for_objective,
    trained_autoencoder,
)
from ldmref.training.recipes.schema import (
    CLASSIFIER_GROUPS,
    STAGES,
    AutoencoderStage,
    OptimizerConfig,
    Recipe,
    recipe_error,
)

SHIPPED = Path(__file__).parent
MAX_BYTES = 1_000_000
CODES = {"learning_rate": "E-LR", "size": "E-SIZE"}  # all other keys: E-RECIPE
AnyRecipe = Recipe | FineTuneRecipe
T = TypeVar("T")


def read_recipe(source: str | Path | None, overrides: Mapping[str, Any] | None = None) -> AnyRecipe:
    """Return the recipe in a TOML file, or a recipe that ldmref ships.

    Args:
        source: The path of a TOML file, or a name such as "emoji-128". None: no file, every
            value that `overrides` does not set is the default.
        overrides: Nested tables whose values replace those of the file. None: there are none.

    Returns:
        A `Recipe` for `train`, or a `FineTuneRecipe` for `fine_tune` if it has a `base`. Every
        default is filled in. A relative `data.source` is relative to the file's folder unless it
        is the name of a data set; so are `data.font`, `data.keywords`, `data.packages` and
        `autoencoder.source`.

    Raises:
        InputError: There is no such file, or it is not TOML.
        UsageError: A key is unknown, a value has the wrong type or range, the model cannot be
            trained, or the size does not fit the model.
        CorruptModelError: The model's networks do not fit together.

    >>> from ldmref.training import read_recipe
    >>> read_recipe("tiny", {"seed": 1}).seed
    1
    """
    tables: dict[str, Any] = {}
    if source is not None:
        path = recipe_path(source)
        tables = _parse(path)
        data = tables.get("data")
        folder = data.get("source", EMOJI) if isinstance(data, dict) else EMOJI
        if isinstance(folder, str) and not is_dataset(folder):
            tables["data"]["source"] = str(path.absolute().parent / folder)
        for key in ("font", "keywords", "packages"):
            file = data.get(key) if isinstance(data, dict) else None
            if isinstance(file, str) and file:
                tables["data"][key] = str(path.absolute().parent / file)
        stage = tables.get("autoencoder")
        if isinstance(stage, dict) and isinstance(stage.get("source"), str) and stage["source"]:
            stage["source"] = str(path.absolute().parent / stage["source"])
    return recipe_from_dict(_merge(tables, overrides or {}))


def recipe_path(source: str | Path) -> Path:
    """Return the file of a recipe, stage its path or the name of a recipe that ldmref ships."""
    if Path(source).is_file():
        return Path(source)
    names = {path.stem: path for path in SHIPPED.glob("*.toml")}
    if str(source) == "pictures":  # the name until 0.1
        return names["images"]
    if str(source) not in names:
        hint = f"a .toml file, or a recipe that ldmref ships; {did_you_mean(str(source), names)}"
        raise InputError(f"no recipe {str(source)!r}", code="E-RECIPE-FILE", hint=hint)
    return names[str(source)]


def recipe_from_dict(tables: Mapping[str, Any]) -> AnyRecipe:
    """Return the recipe of nested tables, with every key checked and every default filled in.

    With a `base` it is the recipe of a fine-tuning, whose defaults depend on the base
    (`finetune/defaults.py`).

    Raises:
        UsageError: A key is unknown, a value has the wrong type or range, the model cannot be
            trained, or the size does not fit the model.
        CorruptModelError: The model's networks do not fit together.
    """
    if isinstance(tables, Mapping) and "base" in tables:
        return _fine_tune(tables)
    fields = dict(tables) if isinstance(tables, Mapping) else tables
    model = fields.pop("model", {}) if isinstance(fields, dict) else {}
    recipe = _read(Recipe(), fields)
    config = for_objective(_model(model), recipe.diffusion.objective)
    if recipe.autoencoder.source:
        check_given_autoencoder(recipe)
    else:
        _check_autoencoder(recipe.autoencoder, trained_autoencoder(config))
    _check_accumulation({name: getattr(recipe, name).optimizer for name in ("features", *STAGES)})
    width = recipe.classifier.network.width
    if width % CLASSIFIER_GROUPS:
        raise recipe_error(
            f"classifier.network.width must be a multiple of {CLASSIFIER_GROUPS}, not {width}"
        )
    size = recipe.data.size or config.defaults.width
    multiple = config.size_multiple
    if size < multiple or size % multiple:
        message = f"size must be a multiple of {multiple} from {multiple} to {MAX_SIZE}, not {size}"
        raise UsageError(message, code="E-SIZE")
    if config.max_side is not None and size > config.max_side:
        message = f"size must be at most {config.max_side} for {config.name!r}, not {size}"
        hint = f"fields of model.{config.denoiser.network} limit it"
        raise UsageError(message, code="E-SIZE", hint=hint)
    crop = recipe.data.crop
    if crop and (crop > size or crop % config.vae.factor):
        multiple = config.vae.factor
        message = f"data.crop must be a multiple of {multiple} up to the size {size}, not {crop}"
        raise UsageError(message, code="E-SIZE")
    config = replace(
        config,
        denoiser=replace(config.denoiser, sample_size=size // config.vae.factor),
        defaults=replace(config.defaults, width=size, height=size),
    )
    return replace(recipe, data=replace(recipe.data, size=size), model=config)


def _check_autoencoder(stage: AutoencoderStage, vae: AutoencoderConfig) -> None:
    """Check that the objective of an autoencoder fits it, and that its batches can be divided."""
    problem = stage.objective.problem(vae)
    if problem:
        raise recipe_error(f"autoencoder.objective: {problem}")
    accumulation = stage.optimizer.accumulation
    if accumulation > 1 and not stage.objective.separable(vae):
        message = f"autoencoder.optimizer.accumulation must be 1, not {accumulation}"
        hint = "terms of this objective compare the images of a batch"
        raise recipe_error(message, hint=hint)


def to_toml(recipe: AnyRecipe) -> str:
    """Return the recipe as TOML with every key, which `read_recipe` reads.

    Args:
        recipe: The recipe, of a training or a fine-tuning.

    Returns:
        The text of a TOML file.

    >>> from ldmref.training import read_recipe, to_toml
    >>> print(to_toml(read_recipe("tiny")).splitlines()[0])
    stages = ["autoencoder", "diffusion"]
    """
    return "\n".join(_toml_lines(recipe.to_dict(), "")) + "\n"


def _toml_lines(table: Mapping[str, Any], name: str) -> list[str]:
    """Format a table: values first, then tables."""
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = ["", f"[{name}]"] if name and values else []
    lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if key not in values:
            lines += _toml_lines(value, f"{name}.{key}" if name else key)
    return lines


def _toml_value(value: object) -> str:
    """Format a value as JSON, which is also TOML except for the character DEL."""
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
    """Return `base` with the values of `over`, merging nested tables."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _fine_tune(tables: Mapping[str, Any]) -> FineTuneRecipe:
    """Return a recipe with the defaults for its base, which is read only if one is needed."""
    recipe = _read(FineTuneRecipe(), tables)
    if not recipe.data.size or not DEFAULTS[recipe.method].keys() <= _keys(tables, ""):
        config = recipe.read_base_config()
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
    """Return the dotted names of the values in nested tables."""
    keys: set[str] = set()
    for key, value in tables.items():
        keys |= _keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key}
    return keys


def _model(table: object) -> ModelConfig:
    """Return the preset's configuration, with the fields that the table replaces."""
    if not isinstance(table, Mapping):
        raise recipe_error(f"model must be a table, not {table!r}")
    fields = dict(table)
    base = _base_config(fields.pop("preset", None), fields.get("family"))
    vae = fields.get("vae")
    z = vae.get("latent_channels") if isinstance(vae, dict) else None
    if type(z) is int:  # the default of the denoiser's channels
        each = base.denoiser.out_channels // base.vae.latent_channels
        channels = {"in_channels": z, "out_channels": each * z}
        fields = _merge({base.denoiser.network: channels}, fields)
    known = base.to_dict()
    if isinstance(vae, dict) and _names_other_fields(vae.get("kind"), base.vae):
        del known["vae"]
    tables = _merge(known, fields)
    for text in TEXT_ENCODERS[1:]:
        if isinstance(tables.get(text), dict) and tables[text].get("model_type") == "none":
            del tables[text]  # TOML has no null
    config = config_from_dict(tables)
    if config.image_channels:
        message = f"the model {config.name!r} cannot be trained: its denoiser also reads an image"
        raise recipe_error(message, hint="choose a preset that generates from noise alone")
    return config


def _names_other_fields(kind: object, config: BaseAutoencoderConfig) -> bool:
    """Return whether a kind of autoencoder, None if unstated, has other fields than `config`."""
    if kind in (None, config.kind):
        return False
    return kind not in BUILT_IN or config_class(kind) is not type(config)


def _base_config(name: object, family: object) -> ModelConfig:
    """Return a preset, or the defaults of a family if no preset is named."""
    if name is None and family is not None:
        return ModelConfig(denoiser=find_named_family(family).denoiser())
    name = EMOJI if name is None else name
    if not isinstance(name, str):
        raise recipe_error(f"model.preset must be of type str, not {name!r}")
    base = preset(name)
    if family not in (None, base.denoiser.family):
        message = f"model.family = {family!r} does not fit the preset {name!r}"
        raise recipe_error(message, hint="leave family out: the preset names it")
    return base


def _check_accumulation(optimizers: Mapping[str, OptimizerConfig]) -> None:
    """Check that batches can be divided into equal parts."""
    for name, optimizer in optimizers.items():
        count = optimizer.accumulation
        batch_size = optimizer.batch_size
        if batch_size % count:
            message = f"{name}.optimizer.accumulation = {count} must divide batch_size = "
            raise recipe_error(message + str(batch_size))


def _read(default: T, tables: object) -> T:
    """Return `default` with the values of TOML tables."""
    try:
        return read(type(default), tables, base=default)
    except Invalid as error:
        code = CODES.get(error.path.rpartition(".")[2], "E-RECIPE")
        raise recipe_error(str(error), code=code, hint=error.hint) from None
