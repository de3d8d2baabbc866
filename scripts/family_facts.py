"""What the pages of families say, read from the declarations, and from nowhere else.

Everything that a page needs of `Family` is read here, by public functions.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import LdmrefError
from ldmref.models import preset
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.declared import CallSize, DeclaredNetwork
from ldmref.models.family import BUILT_IN, Family, find_family
from ldmref.models.params import Params, count, init, name_parts
from ldmref.models.text_config import TextConfig
from ldmref.modes.registry import MODES
from ldmref.ports import port_of
from ldmref.ports.port import BUILT_IN as PORTS
from ldmref.training.family_rules import training_rules_of

ROOT = Path(__file__).parents[1]
SIDE = 64  # pixels of the images with which modes are asked
LETTERS = {"batch": "n", "height": "h", "width": "w", "tokens": "l", "references": "k"}
WORDS = {"clip": "CLIP", "t5": "T5", "qwen3": "Qwen3", "ldmbert": "LDM's BERT", "class": "classes"}
ENTRY = re.compile(r"^    (\w+): (.*)")


class Template(NamedTuple):
    """The text around a prompt, and the rules about it."""

    text: str
    rules: str


class LayerRow(NamedTuple):
    """A layer, or the same layer of all blocks of a list."""

    name: str
    outputs: str
    computes: str


class ListingBackend(NumpyBackend):
    """NumPy, which lists the layers of a network with their functions and results."""

    def __init__(self) -> None:
        super().__init__(dtype="float32")
        self.calls: list[tuple[str, Any, Any]] = []

    def call_layer(self, function: Any, p: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        place = len(self.calls)
        result = super().call_layer(function, p, args, kwargs)
        self.calls.insert(place, (p.path or "", function, result))
        return result


def read_entries(docstring: str | None) -> dict[str, str]:
    """Return the texts about the arguments or fields of a docstring, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        match = ENTRY.match(line)
        if match:
            name = match[1]
            found[name] = match[2]
        elif name and line.startswith("        "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return {name: text.replace("|", "\\|") for name, text in found.items()}


def read_meanings(cls: type) -> dict[str, str]:
    """Return the text about each field of a dataclass, from its docstrings."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= read_entries(base.__doc__)
    declared = {field.name for field in dataclasses.fields(cls)}
    return {name: text for name, text in found.items() if name in declared}


def name_shape(shape: tuple[int | CallSize, ...]) -> str:
    """Return a shape with letters for the sizes that a call chooses."""

    def name(size: int | CallSize) -> str:
        if not isinstance(size, CallSize):
            return str(size)
        letter = LETTERS.get(size.of, "n")
        return f"{size.times} {letter}" if size.times > 1 else letter

    return f"({', '.join(map(name, shape))}{',' if len(shape) == 1 else ''})"


def describe_encoder(number: int, encoder: TextConfig) -> tuple[str, ...]:
    """Return name, kind, sizes, tokens and what is read of a text encoder."""
    kind = WORDS.get(encoder.model_type, encoder.model_type)
    name = "text_encoder" + (f"_{number + 1}" if number else "")
    sizes = (encoder.num_hidden_layers, encoder.hidden_size, encoder.vocab_size)
    if encoder.model_type in ("class", "label", "none"):
        return f"`{name}`", kind, "", "", str(encoder.vocab_size), "1", "the class"
    cells = (*map(str, sizes), str(encoder.max_position_embeddings))
    return f"`{name}`", kind, *cells, read_states(encoder)


def read_states(encoder: TextConfig) -> str:
    """Return in words which hidden states of a text encoder are read."""
    layers = getattr(encoder, "hidden_layers", None)
    if layers is None:
        text = "the last states" if not encoder.skipped_layers else "the last states but one"
    elif len(layers) == 1:
        text = {-1: "the last states", -2: "the last states but one"}[layers[0]]
    else:
        text = f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}, side by side"
    text += ", normalised" if encoder.final_norm else ", before the final norm"
    return text + ("; the pooled state" if encoder.projection_dim else "")


def title_of(vae: Any) -> str:
    """Return the name of an autoencoder's kind, with a capital."""
    title = autoencoder_of(vae).title
    return title[:1].upper() + title[1:]


class Facts:
    """A family, as its page shows it.

    Attributes:
        name: Its name.
        family: Its declaration.
        published: The configurations of its published models, by name.
        tiny: The preset for tests. "": there is none.
        first: The first of the published models.
    """

    def __init__(self, family: Family):
        self.family = family
        self.name = family.name
        self.tiny = next((name for name in family.presets if name.endswith("tiny")), "")
        self.published = {n: c for n, c in family.presets.items() if n != self.tiny}
        self.first = KITS.get(family.name, next(iter(self.published)))

    @cached_property
    def module(self) -> Any:
        """The module of the declaration, whose docstring introduces the family."""
        return import_module(BUILT_IN[self.name].partition(":")[0])

    @property
    def title(self) -> str:
        return inspect.cleandoc(self.module.__doc__).partition(":")[0]

    @property
    def summary(self) -> str:
        return " ".join(inspect.cleandoc(self.module.__doc__).partition("\n\n")[0].split())

    @cached_property
    def network(self) -> DeclaredNetwork:
        """The denoiser of the first published model."""
        return self.declared(self.published[self.first])

    def declared(self, config: ModelConfig) -> DeclaredNetwork:
        return self.family.declared(config, config.denoiser.network)

    def count_parameters(self, config: ModelConfig) -> tuple[int, int]:
        """Return the numbers of parameters of the denoiser, and of all networks."""
        specs: dict[str, int] = {}
        for network in self.family.networks(config):
            specs[network.params] = count(network.spec())
        return specs[config.denoiser.network], sum(specs.values())

    def templates(self) -> dict[Template, str]:
        """Return the texts around prompts, with the names of their encoders."""
        found: dict[Template, str] = {}
        for config in self.published.values():
            for name, template in self.family.text.templates(config).items():
                rules = [f"A text that is too long loses the end of {CUT[template.cut]}."]
                if template.dropped:
                    rules.append(f"The states of the first {template.dropped} tokens are dropped.")
                if "blank" in template.prepare:
                    rules.append("An empty prompt is read as a blank.")
                rules.append(f"Padding follows {PADDED[template.padding]}.")
                text = template.before + "PROMPT" + template.after
                found[Template(text.rstrip("\n"), " ".join(rules))] = f"`{name}`"
        return found

    def text_rules(self) -> list[str]:
        """Return what else the declaration says about the way from prompts to arrays."""
        text = self.family.text
        rules = []
        if text.optional:
            names = ", ".join(f"`{name}`" for name in text.optional)
            rules.append(f"A model may be without {names}: zeros are read instead.")
        if text.with_length is not None:
            rules.append(f"`max_sequence_length` may be up to {text.longest:,} tokens.")
        if text.grows:
            rules.append("A longer prompt is read whole, up to this number.")
        if text.multiple > 1:
            padding = "read" if text.reads_padding else "not read"
            rules.append(
                f"Padding is cut down to a multiple of {text.multiple} tokens; what is left of it "
                f"is {padding} by the denoiser."
            )
        if not text.feels_weights:
            rules.append("Weights of a prompt have no effect: each token is normalised.")
        return rules

    def list_layers(self) -> list[LayerRow]:
        """Return the layers of the denoiser, from a call of its smallest model."""
        config = preset(self.tiny or self.first)
        network = self.declared(config)
        ops = ListingBackend()
        params = init(network.spec(), 0)
        tree = Params(params)
        name_parts(tree)
        sizes = {"batch": 1, "timesteps": 1, "height": 4, "width": 4, "tokens": 16, "references": 4}
        sizes["tokens"] = max(sizes["tokens"], self.family.text.multiple)
        inputs = {x.argument: np.ones(x.shape_at(sizes), np.float32) for x in network.inputs}
        network.function(ops, tree, **network.settings, **inputs)
        return merge_layers(ops.calls)

    def zeros(self) -> tuple[str, ...]:
        """Return how the names of the parameters end that a training begins with zeros."""
        return training_rules_of(self.family).zeros(self.published[self.first])

    def prediction(self) -> str:
        kinds = [config.scheduler.prediction_type for config in self.published.values()]
        return ", ".join(PREDICTIONS[kind] for kind in dict.fromkeys(kinds))

    def text_title(self) -> str:
        kinds: dict[str, None] = {}
        for config in self.published.values():
            for encoder in config.text_encoders:
                kinds[WORDS.get(encoder.model_type, "")] = None
        return ", ".join(kind for kind in kinds if kind)

    def guidance_rules(self) -> list[str]:
        """Return how the models are guided."""
        rules = []
        reads = [n for n, c in self.published.items() if c.denoiser.reads_guidance]
        maps = [n for n, c in self.published.items() if c.denoiser.is_flow_map]
        zero = [n for n, c in self.published.items() if c.zero_empty_negative]
        if reads:
            rules.append(f"{name_models(reads)} {is_or_are(reads)} given the guidance scale.")
        if maps:
            rules.append(
                f"{name_models(maps)} {is_or_are(maps)} a flow map: it also reads the time to "
                "which a step leads, and guidance is a part of it."
            )
        if zero:
            rules.append(f"An empty negative prompt of {name_models(zero)} is zeros.")
        ours = self.scale_of_diffusers()
        if ours:
            rules.append(ours)
        return rules

    def scale_of_diffusers(self) -> str:
        """Return how the guidance scale of diffusers' pipelines differs from ours."""
        if self.family.guidance_scale.convert(4.0) == 4.0:
            return ""
        return "diffusers' guidance scale g is g + 1 here."

    def pipelines(self) -> list[str]:
        """Return the classes of diffusers' pipelines whose folders are opened."""
        return sorted(self.family.folders)

    def other_programs(self) -> str:
        """Return how diffusers writes the family: its classes and the order of predictions."""
        port = port_of(self.family)
        classes = ", ".join(f"`{name}`" for name in port.modules)
        words = {"uncond": "without the prompt", "cond": "with it"}
        if port.halves[0] == "cond":
            words = {"cond": "with the prompt", "uncond": "without it"}
        first, second = (words[half] for half in port.halves)
        return (
            f"In diffusers, {classes} computes the denoiser, and a batch that guidance needs holds "
            f"the prediction {first}, then that {second}."
        )

    def single_files(self) -> list[str]:
        return list(dict.fromkeys(file.description for file in self.family.files))

    def further_inputs(self) -> list[str]:
        """Return what a request may hold in addition to text and an image."""
        lines = []
        if self.family.control is not None:
            names = ", ".join(f"`{name}`" for name in self.family.control.classes)
            lines.append(f"ControlNets: {names} ([files](../checkpoints.md#controlnets)).")
        if self.family.references is not None:
            most = self.family.references.most
            lines.append(f"`references=`: up to {most} images as further tokens.")
        concat = {n: c.concat for n, c in self.published.items() if c.concat}
        for kind in dict.fromkeys(concat.values()):
            names = name_models([name for name, of_it in concat.items() if of_it == kind])
            lines.append(f"Joined to the latents of {names}: {CONCATENATED[kind]}.")
        targets = ", ".join(f"`{target}`" for target in self.family.lora.targets)
        lines.append(f"`ldmref finetune` trains LoRAs of these layers: {targets}.")
        return lines

    def serve(self) -> dict[str, list[str]]:
        """Return the models that each mode accepts, by asking for a small image."""
        picture = Image.new("RGB", (SIDE, SIDE))
        arguments = {
            "prompt": "",
            "prompt_b": "",
            "image": picture,
            "mask": Image.new("L", (SIDE, SIDE), 255),
            "segmentation": Image.new("L", (SIDE, SIDE)),
            "source_prompt": "",
        }
        served: dict[str, list[str]] = {}
        for mode, declared in MODES.items():
            served[mode] = []
            needed = {n: v for n, v in arguments.items() if n in declared.parameters}
            for name, config in self.published.items():
                if accepts(mode, config, needed):
                    served[mode].append(f"`{name}`")
        return served

    def sources(self) -> list[tuple[str, str]]:
        """Return the files of the family with the first lines of their docstrings."""
        path = Path(inspect.getfile(self.module))
        paths = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
        places = [inspect.getfile(inspect.unwrap(self.network.function))]
        places.append(inspect.getfile(import_module(PORTS[self.name].partition(":")[0])))
        rows = {str(p): summarise(p) for p in [*paths, *map(Path, places)]}
        return [(str(Path(p).relative_to(ROOT)), text) for p, text in rows.items()]


CUT = {"prompt": "the prompt", "end": "the whole text, the template's included"}
PADDED = {"prompt": "the prompt, before the text behind it", "end": "the whole text"}
PREDICTIONS = {"eps": "noise", "v": "v", "flow": "velocity", "x0": "the clean latents"}
CONCATENATED = {
    "mask": "the mask and the latents of the masked image",
    "masked_image": "the latents of the masked image and the mask",
    "folded_mask": "the latents of the masked image and each pixel of the mask",
    "low_resolution": "a small image",
    "segmentation": "a map of classes",
    "control": "the latents of a control image",
}
KITS = {"latent-diffusion": "sd15"}


def name_models(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def is_or_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def accepts(mode: str, config: ModelConfig, arguments: dict[str, Any]) -> bool:
    """Return whether a mode plans a request of a model, if need be with a control image."""
    more = [{}]
    if "control_image" in MODES[mode].parameters:
        more.append({"control_image": Image.new("RGB", (SIDE, SIDE))})
    for control in more:
        try:
            modes.plan(mode, config, **arguments, **control)
        except LdmrefError:
            continue
        return True
    return False


def merge_layers(calls: list[tuple[str, Any, Any]]) -> list[LayerRow]:
    """Return the layers of a call in their order, those of all blocks of a list as one."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for path, function, result in calls:
        if not path:  # a function without parameters
            continue
        name = re.sub(r"\.\d+(?=\.|$)", ".*", path)
        found.setdefault(name, []).append((function, result))
    rows = []
    for name, entries in found.items():
        function = entries[0][0]
        most = max(len(result) if isinstance(result, tuple) else 1 for _, result in entries)
        outputs = "`output`" if most == 1 else f"`output.0` to `.{most - 1}`"
        text = (function.__doc__ or "").strip().partition("\n\n")[0]
        rows.append(LayerRow(name, outputs, " ".join(text.split())))
    return rows


def summarise(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    match = re.match(r'"""(.*?)(?:"""|\n\n)', path.read_text("utf-8"), re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def read_families() -> list[Facts]:
    """Return the families that come with ldmref, in their order."""
    return [Facts(find_family(name)) for name in BUILT_IN]
