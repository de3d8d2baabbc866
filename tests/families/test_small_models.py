"""The small pipelines of tests have two of everything of which the published ones have several.

A model with one refiner, or one head of keys, cannot show a fault that begins with the second. The
constructors of diffusers and transformers have the published numbers as defaults, and a pipeline of
another family enters the table by a file `*_pipelines.py` in this folder.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from qwen3_networks import write_vocabulary  # noqa: E402

MODULES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*_pipelines.py")
    if not path.stem.startswith("test_")
)
FOLDER = ("vocabulary", "folder")  # parameters for which a tokenizer is written
PUBLISHED = {"layers_per_block": 2}  # in every published autoencoder; the constructors say 1
# Numbers that do not count parts of a network; what small images and few tokens need.
NOT_COUNTED = {
    "patch_size",
    "in_channels",
    "out_channels",
    "axes_lens",
    "norm_num_groups",
    "sample_size",
}
UNREAD = {"vision_config"}  # of Qwen3-VL, whose encoder of images generates nothing
TRAINED_ON_VIDEO = {"temperal_downsample", "temporal_downsample"}  # a level less, as in `dim_mult`


def small_pipeline(name: str, folder: Path) -> Any:
    """Return the small pipeline of a module of this folder."""
    module = importlib.import_module(name)
    asked = inspect.signature(module.make_pipeline).parameters
    if "folder" in asked:
        return module.make_pipeline(folder)
    return (
        module.make_pipeline(write_vocabulary(folder))
        if "vocabulary" in asked
        else (module.make_pipeline())
    )


def networks(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Yield the networks of a pipeline, and those within its text encoder."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            yield name, part


def published_and_small(network: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings of a network: its name, as published, and here."""
    config = network.config
    if hasattr(config, "to_dict"):  # of transformers
        yield from _nested(type(config)().to_dict(), config.to_dict())
        return
    for name, parameter in inspect.signature(type(network).__init__).parameters.items():
        yield name, PUBLISHED.get(name, parameter.default), config.get(name)


def _nested(
    published: Mapping[Any, Any], small: Mapping[Any, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name, value in published.items():
        if name in UNREAD:
            continue
        if isinstance(value, Mapping) and isinstance(small.get(name), Mapping):
            yield from _nested(value, small[name])
        else:
            yield str(name), value, small.get(name)


def is_several(value: object) -> bool:
    """Return whether a setting counts at least two."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value >= 2
    return isinstance(value, list | tuple) and len(value) >= 2


@pytest.mark.parametrize("module", MODULES)
def test_small_pipelines_have_two_of_everything(module, tmp_path):
    single = {}
    for part, network in networks(small_pipeline(module, tmp_path)):
        for name, published, small in published_and_small(network):
            if name in NOT_COUNTED | TRAINED_ON_VIDEO or small is None:
                continue
            if is_several(published) and not is_several(small):
                single[f"{part}.{name}"] = (published, small)
    assert not single


def test_the_table_has_the_families_of_2026():
    assert {"flux2_pipelines", "flux3_pipelines", "krea2_pipelines", "qwen_image_21_pipelines",
            "z_image_pipelines"} <= {*MODULES}  # fmt: skip
