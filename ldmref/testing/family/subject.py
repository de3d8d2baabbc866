"""The family under test: its presets made small, with random weights, and requests for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.backends import available
from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.golden_models import make_tokenizers, vocabularies_of
from ldmref.cases.network_cases import count_text_tokens, random_input
from ldmref.cases.parameters import random_parameters
from ldmref.cases.shrink import shrink
from ldmref.errors import UsageError
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import Family
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.params import Params, count, flatten, unflatten
from ldmref.models.text_kind import kind_of
from ldmref.modes.checks import can_generate
from ldmref.testing.family.oracles import FamilyOptions
from ldmref.testing.family.report import NotChecked
from ldmref.training.family_rules import training_rules_of

SMALL = 2**22  # parameters of a model that need not be made smaller
PROMPTS = {  # of unequal length, by what a text encoder reads
    "text": ("red", "a red heart table", ""),
    "class": ("0", "1", "2"),
    "nothing": ("", "", ""),
}
STEPS = 2
LATENTS = 8  # height and width of the latents of small images


class Subject:
    """A family under test.

    Args:
        family: The family.
        options: The arguments of the caller.
        folder: A folder for everything that the checks write.
    """

    def __init__(self, family: Family, options: FamilyOptions, folder: Path):
        self.family = family
        self.options = options
        self.folder = folder
        self._kept: dict[Any, Any] = {}

    def keep(self, key: object, make: Callable[[], Any]) -> Any:
        """Return what `make` returned at the first call for a key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def place(self, name: str) -> Path:
        """Return the path of a new folder or file."""
        return self.folder / f"{len(list(self.folder.iterdir()))}-{name}"

    @cached_property
    def presets(self) -> dict[str, ModelConfig]:
        """The presets under test."""
        wanted = self.options.presets
        return {n: c for n, c in self.family.presets.items() if not wanted or n in wanted}

    @cached_property
    def small(self) -> dict[str, ModelConfig]:
        """The presets made small, without those that are equal to an earlier one then."""
        found: dict[str, ModelConfig] = {}
        seen = []
        for name, config in self.presets.items():
            tiny = self.make_small(config)
            bare = tiny and replace(tiny, name="", defaults=config.defaults)
            if tiny is not None and bare not in seen:
                seen.append(bare)
                found[name] = tiny
        return found

    def make_small(self, config: ModelConfig) -> ModelConfig | None:
        """Return a small version of a model; None if the family does not say how."""
        try:
            return shrink(config)
        except UsageError:
            return config if count(model_spec(config)) <= SMALL else None

    def require_small(self) -> dict[str, ModelConfig]:
        """Return `small`; there must be a model."""
        if not self.small:
            raise NotChecked(
                "the family has no preset that is small or can be made small (GoldenModels.shrink)"
            )
        return self.small

    def params(self, name: str) -> dict[str, Params]:
        """Return random parameters of a small model, float32; computed ones as they must be."""
        config = self.small[name]
        spec = model_spec(config)
        made = {n: random_parameters(f"{name}.{n}", shapes) for n, shapes in spec.items()}
        fixed = training_rules_of(self.family).fixed(config)
        if not fixed:
            return made
        values = {n: np.asarray(value(), np.float32) for n, value in fixed.items()}
        return unflatten(flatten(made) | values)

    def model(self, name: str, backend: Backend | None = None) -> LatentDiffusion:
        """Return a small model with random weights; None: on NumPy in float32."""
        config = self.small[name]
        params = self.keep(("params", name), lambda: self.params(name))
        ops = backend or NumpyBackend(dtype="float32")
        tokenizers = make_tokenizers(config, vocabularies_of(name)) or [
            tokenizer_for(config.text_encoder)
        ]
        return LatentDiffusion(ops, config, params, tokenizers[0], "", *tokenizers[1:])

    # -- requests ---------------------------------------------------------------------------------

    def prompts(self, config: ModelConfig) -> list[str]:
        """Return three prompts, of unequal length if the model reads text."""
        asked = self.options.request.get("prompt")
        known = PROMPTS[kind_of(config.text_encoder).reads]
        return [asked, *known[1:]] if asked is not None else [*known]

    def request(self, config: ModelConfig) -> dict[str, Any]:
        """Return a short request for a small model, without what belongs to a mode."""
        asked = {"prompt": self.prompts(config)[0], "steps": STEPS, "seed": 1}
        if config.concat == "control":
            asked["control_image"] = make_image(*size_of(config))
        return asked | {**self.options.request}

    def modes(self, config: ModelConfig) -> dict[str, dict[str, Any]]:
        """Return a request for each mode that a small model has.

        Images from prompts are square, changed ones are not.
        """
        image = make_image(*size_of(config, wide=True))
        text = self.request(config)
        bare = {key: value for key, value in text.items() if key != "prompt"}
        unseeded = {key: value for key, value in text.items() if key != "seed"}
        width, height = size_of(config)
        sized = text | {"width": width, "height": height}
        every = {
            "txt2img": sized,
            "img2img": text | {"image": image, "strength": 0.5},
            "inpaint": text | {"image": image, "mask": make_mask(image)},
            "interpolate": sized | {"prompt_b": self.prompts(config)[1], "positions": 2},
            "invert": unseeded | {"image": image, "iterations": 0},
            "edit": text | {"image": image},
            "superres": bare | {"image": make_image(LATENTS, LATENTS)},
            "seg2img": bare | {"segmentation": make_map(config)},
        }
        return {mode: asked for mode, asked in every.items() if can_generate(config, mode)}

    def first_mode(self, config: ModelConfig) -> tuple[str, dict[str, Any]]:
        """Return the first mode that a small model has, with a request."""
        return next(iter(self.modes(config).items()))

    def generate(self, model: LatentDiffusion, mode: str, request: Mapping[str, Any]) -> Any:
        """Return the result of a mode."""
        return getattr(modes, mode)(model, **request)

    # -- networks ---------------------------------------------------------------------------------

    def inputs(
        self,
        config: ModelConfig,
        network: DeclaredNetwork,
        key: str,
        side: tuple[int, int] = (8, 8),
    ) -> dict[str, np.ndarray]:
        """Return random inputs of a network, by argument."""
        tokens = self.keep(("tokens", repr(config)), lambda: count_text_tokens(config))
        found = {x.argument: random_input(key, network, x, tokens, side) for x in network.inputs}
        for x in network.inputs if network.reads_tokens else ():
            # all that an encoder reads at once, which graphs fix
            length = x.shape_at({"batch": 1, "tokens": tokens})[1]
            known = found[x.argument]
            if x.content == "ids":
                found[x.argument] = np.tile(known, -(-length // known.shape[1]))[:, -length:]
            elif x.content == "mask":  # with the padding at the end
                before = ((0, 0), (length - known.shape[1], 0))
                found[x.argument] = np.pad(known, before, constant_values=1)
        return found

    def denoiser(self, config: ModelConfig) -> DeclaredNetwork:
        """Return the declaration of a model's denoiser."""
        return self.family.declared(config, config.denoiser.network)

    @cached_property
    def backends(self) -> dict[str, str]:
        """The backends to compare with NumPy, with the reason why one cannot run here, or ""."""
        found = available()
        wanted: Iterable[str] = self.options.backends or [name for name in found if name != "numpy"]
        return {name: found.get(name, "") for name in wanted}


def require(library: str, *, why: str = "") -> Any:
    """Return a module of a library that need not be installed.

    Raises:
        NotChecked: It is not installed.
    """
    try:
        return import_module(library)
    except ImportError:
        name = library.partition(".")[0]
        raise NotChecked(f"{name} is not installed{why}") from None


def size_of(config: ModelConfig, wide: bool = False) -> tuple[int, int]:
    """Return the width and height of small images; `wide`: wider than high, if the model allows."""
    step = config.size_multiple
    side = -(-LATENTS * config.vae.factor // step) * step
    width = side + 4 * step if wide else side
    return (side if config.max_side and width > config.max_side else width), side


def make_image(width: int, height: int) -> Image.Image:
    """Return a random image."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def make_mask(image: Image.Image) -> Image.Image:
    """Return a mask whose left half is repainted."""
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def make_map(config: ModelConfig) -> Image.Image:
    """Return a random segmentation map."""
    width, height = size_of(config)
    classes = max(config.segmentation_classes, 1)
    numbers = np.random.default_rng(0).integers(0, classes, (height, width), np.uint8)
    return Image.fromarray(numbers)
