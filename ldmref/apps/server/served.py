"""What a server was started with and requests may name: models and ControlNets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.models.config import ModelConfig
from ldmref.models.control import ControlNet, control_of, require_fit
from ldmref.models.model import LatentDiffusion
from ldmref.modes.validation import code_for


@dataclass(frozen=True)
class Served:
    """The networks that requests may name.

    Args:
        models: The models by name.
        controlnets: The ControlNets by name, on the backend of the models that they fit.
    """

    models: Mapping[str, LatentDiffusion] = field(default_factory=dict)
    controlnets: Mapping[str, ControlNet] = field(default_factory=dict)

    def find_model(self, name: str, value: object) -> LatentDiffusion:
        """Return the model that a parameter names.

        The value is looked up and never opened as a path.

        Raises:
            UsageError: The server does not have it.
        """
        return find_named(name, value, self.models, "model")

    def find_controlnet(self, name: str, value: object) -> ControlNet:
        """Return the ControlNet that a parameter names, as `find_model` does."""
        return find_named(name, value, self.controlnets, "ControlNet")

    def find_flow_map(self, name: str) -> str | None:
        """Return the name of the first flow map of a model; itself if it is one, None without one.

        A map has the networks and the noise of its model; nothing else says what it was made from.
        """
        base = self.models[name].config
        if base.denoiser.is_flow_map:
            return name
        maps = (other for other, model in self.models.items() if is_map_of(model.config, base))
        return next(maps, None)

    def fitting(self, config: ModelConfig) -> dict[str, ControlNet]:
        """Return the ControlNets that fit a model, by name."""
        return {name: net for name, net in self.controlnets.items() if fits(config, net.config)}


def find_named(name: str, value: object, known: Mapping[str, Any], kind: str) -> Any:
    """Return what a parameter names among those that are known.

    Raises:
        UsageError: It is none of them.
    """
    if isinstance(value, str) and value in known:
        return known[value]
    if not known:
        message = f"{name} cannot be used: the server has no {kind}"
        hint = f"its operator names one: ldmref serve --{kind.lower()} NAME=FOLDER"
        raise UsageError(message, code=code_for(name), hint=hint)
    hint = did_you_mean(value if isinstance(value, str) else "", known)
    message = f"{name} must name a {kind} of the server, and {short_repr(value)} is none"
    raise UsageError(message, code=code_for(name), hint=hint)


def fits(config: ModelConfig, net: object) -> bool:
    """Return whether a ControlNet, given by its configuration, fits a model."""
    try:
        require_fit(config, net, "")
    except UsageError:
        return False
    return True


def is_map_of(config: ModelConfig, base: ModelConfig) -> bool:
    """Return whether a configuration is that of a flow map of a model."""
    return config.denoiser.is_flow_map and describe_networks(config) == describe_networks(base)


def describe_networks(config: ModelConfig) -> dict[str, Any]:
    """Return what a flow map has in common with its model: networks, and the noise of training."""
    described = asdict(config)
    described["family"] = config.denoiser.family
    del described["name"], described["defaults"]
    described["denoiser"].pop("flow_map", None)
    for name in ("sampler", "spacing"):
        del described["scheduler"][name]
    return described


def describe_controlnets(nets: Mapping[str, ControlNet]) -> Iterable[dict[str, Any]]:
    """Yield ControlNets as JSON: name, source, and what they read.

    `source` is the last part of the path of its folder or file, which only the operator knows.
    `kinds` is the number of kinds of images, 0 for a ControlNet of a single kind. `image` is
    whether a request gives an image; otherwise the net reads that of `inpaint`.
    """
    for name, net in nets.items():
        declared = control_of(net.config)
        kind = declared.networks(net.config)[-1].input_of("mode")
        needs_image = not declared.reads_mask(net.config)
        kinds = kind.below if kind else 0
        yield {"name": name, "source": net.name, "kinds": kinds, "image": needs_image}
