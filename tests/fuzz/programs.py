"""Targets of training and of `ldmref info`: recipes, saved states, what is printed of a file."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ldmref.apps.cli import replay
from ldmref.apps.cli.file_info import print_image_info, print_model_info
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.tasks import plan_tasks
from ldmref.datasets.config import DataSummary
from ldmref.datasets.folder import captioned_files
from ldmref.modes.record import compare_inputs, compare_models
from ldmref.support.config import settings
from ldmref.training.checkpoint import Header, read_checkpoint
from ldmref.training.recipes.file import SHIPPED, read_recipe, recipe_from_dict, to_toml
from ldmref.training.recipes.schema import Recipe

from .cached import constants_cached
from .configs import TARGETS as CONFIGS
from .configs import folder
from .files import PARAMS
from .files import TARGETS as FILES
from .guard import Target, file
from .mutate import dump, mutate_json, mutate_png, mutate_toml
from .names import TARGETS as NAMES
from .names import families, tensor_file
from .texts import TINY

RECIPE = b"""[data]
source = "images"
size = 64
[model]
preset = "tiny"
[model.unet]
norm_num_groups = 4
[diffusion.optimizer]
learning_rate = 1e-3
"""
WORDS = (
    b"[data]",
    b"[model.unet]",
    b"[diffusion]",
    b"size = ",
    b"steps = ",
    b"nan",
    b"inf",
    b"{",
    b"[",
    b"]",
    b'"',
    b"1e999",
    b"-1",
    b"preset = ",
)

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def _recipe_seeds() -> list[bytes]:
    return [RECIPE, *(path.read_bytes() for path in sorted(SHIPPED.glob("*.toml")))]


@constants_cached
def run_recipe(path: Path) -> None:
    """Check that an accepted recipe is written with every key and read again as the same."""
    recipe = read_recipe(path)
    tables = tomllib.loads(to_toml(recipe))
    assert repr(recipe_from_dict(tables)) == repr(recipe)  # NaN is not itself


def _state_seeds() -> list[bytes]:
    header = Header(7, Recipe(), DataSummary(3, "ab" * 32), "{}")
    metadata = {name: json.loads(value) for name, value in header.to_metadata().items()}
    state = {"tensors": {"params.w": [2, 3]}, "metadata": metadata}
    return [dump(state), dump({"tensors": {}, "metadata": {"step": "1"}})]


@constants_cached
def run_state(path: Path) -> None:
    """Check that an accepted saved state has a step and a recipe."""
    header, arrays = read_checkpoint(path)
    assert isinstance(header.step, int) and isinstance(header.recipe, Recipe)
    assert all(array.shape == arrays[name].shape for name, array in arrays.items())


def _captions_seeds() -> list[bytes]:
    row = {"file_name": "a.png", "text": "red heart"}
    table = 'file_name,text\na.png,red heart\na.png,"a, b"\n'
    return [
        dump({"a.png": "", "b.png": ""} | captions)
        for captions in (
            {"metadata.jsonl": row},
            {"metadata.jsonl": json.dumps(row) + "\n\n" + json.dumps(row)},
            {"metadata.csv": table},
            {"a.txt": "red heart\nblue cat", "b.txt": ""},
        )
    ]


def run_captions(path: Path) -> None:
    """Check that every image has captions, which are text."""
    captions, warnings = captioned_files(path)
    assert captions and all(captions.values())
    for caption in [*(text for texts in captions.values() for text in texts), *warnings]:
        caption.encode("utf-8")


# -- ldmref run and info ---------------------------------------------------------------------------

SOURCE = file("source.png")(FILES["png"].seeds()[4])
NEEDED = {"img2img": ("-i", str(SOURCE)), "superres": ("-i", str(SOURCE)),
          "seg2img": ("-i", str(SOURCE)), "invert": ("-i", str(SOURCE)),
          "inpaint": ("-i", str(SOURCE), "--mask", str(SOURCE))}  # fmt: skip
NO_SETTINGS = settings(None, {"HOME": "", "XDG_CONFIG_HOME": ""})
MODEL = SimpleNamespace(sha256="0123456789abcdef", modifications={})


def _record_seeds() -> list[bytes]:
    made = {"name": "a", "sha256": "0123456789", "vae": {"name": "b"}, "loras": [], "ema": True}
    seeds = [PARAMS]
    for request in map(json.loads, CONFIGS["request"].seeds()):
        request.pop("latents", None)
        seeds.append(PARAMS | request | {"model": made, "control": []})
    seeds[-1]["inverted"] = {"prompt": "cat", "iterations": 2}
    return [dump(seed) for seed in seeds]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _planned(mode: str, flags: dict[str, Any], origin: replay.ImageReplay) -> None:
    """Do what `generate` does before it loads a model, and check its notes on the record."""
    [task] = plan_tasks(mode, TINY, with_settings(mode, flags, NO_SETTINGS))
    plan = task.plan
    recorded = origin.record
    used = json.loads(json.dumps(plan.params))
    for note in (*compare_models(recorded.get("model"), MODEL), *compare_inputs(recorded, used)):  # pyright: ignore
        assert len(note) < 1000


@constants_cached
@mock.patch.object(replay, "generate", _planned)
def run_record(record: Any) -> None:
    """Check that the record of an image, whatever JSON it is, is planned again or refused."""
    mode = record.get("mode") if isinstance(record, dict) else None
    needed = NEEDED.get(mode, ()) if isinstance(mode, str) else ()
    with mock.patch.object(replay, "read_parameters", lambda _: {"ldmref": record}):
        replay.run.main(["--from", "a.png", *needed], "ldmref run", standalone_mode=False)


def _printed(show: Callable[[Any, bool], None], path: str | Path) -> None:
    """Check that the output is lines without control characters, and JSON if asked for."""
    for as_json in (False, True):
        output = io.StringIO()
        with redirect_stdout(output):
            show(path, as_json)
        text = output.getvalue()
        text.encode("utf-8")
        if as_json:
            json.loads(text)
        assert not CONTROL.search(text), repr(text)


@families
@constants_cached
def run_model_info(path: Path) -> None:
    """Describe a model of any kind."""
    _printed(print_model_info, path)


def run_image_info(path: Path) -> None:
    """Show the record of an image."""
    _printed(print_image_info, str(path))


TARGETS = {
    "recipe": Target(run_recipe, _recipe_seeds, file("recipe.toml"), mutate_toml, WORDS),
    "training-state": Target(
        run_state, _state_seeds, tensor_file("state.safetensors"), mutate_json
    ),
    "captions": Target(
        run_captions, _captions_seeds, folder("captions/metadata.jsonl"), mutate_json
    ),
    "record": Target(run_record, _record_seeds, _json, mutate_json),
    "model-info": Target(
        run_model_info, NAMES["single-file"].seeds, tensor_file("info.safetensors"), mutate_json
    ),
    "image-info": Target(
        run_image_info, FILES["metadata"].seeds, file("info.png"), mutate_png
    ),
}  # fmt: skip
