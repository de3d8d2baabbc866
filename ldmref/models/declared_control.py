"""The ControlNets of a family as data, which loading, the modes, traces and exports read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref.math.arrays import Array
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.params import Shape

Difference = tuple[str, Any, Any]  # what differs, its value, and the value that fits


@dataclass(frozen=True)
class DeclaredControl:
    """The ControlNets of a family.

    A ControlNet's configuration has the attribute `family`, the family's name.

    Attributes:
        classes: For each class of diffusers, a function that reads the configuration from its
            config.json.
        default: Returns the configuration of a ControlNet that fits a model and has every network
            that one may have.
        networks: Returns the networks of a ControlNet. The last one returns the residuals; it takes
            the backend, the parameters, the configuration, noisy latents, timesteps, the hint and
            arrays of the conditioning by name. One before it makes the hint of an image, which is
            otherwise the latents of the image.
        differences: Yields in what a ControlNet differs from those that fit a model.
        residuals: The class of its output, a named tuple of arrays, and of tuples of arrays.
        passed: The fields of `residuals` by the arguments with which diffusers passes them to the
            denoiser.
        inputs: Returns the inputs of a model's denoiser for residuals: `residuals` of
            `NetworkInput`s, whose argument is `control`.
        place: Returns residuals as the denoiser adds them, one array for each place, from the
            configurations of the model and of the ControlNet; None: it is not known.
        make_hint: Returns the hint of scaled latents (n, c, h, w), from the configurations of the
            ControlNet and of the autoencoder.
        hole: Returns the value of masked pixels in the image that an inpainting ControlNet reads,
            beside pixels in the range of its hint's encoder or, without one, [-1, 1]. None: the
            ControlNet is not for inpainting.
        reads_mask: Returns whether the last channel of the hint is a mask, 1 where the image is
            kept. The denoiser then needs nothing else that keeps it.
        draws_hint: Whether diffusers' pipelines sample the latents of the image from the generator,
            before all other noise.
        kinds: Returns the names of the kinds of images, by number, if the network does not read the
            number and the kind only says how the image is scaled; a request may name it (`mode`).
        kind: Returns the number of the kind on which a ControlNet was trained; None: its file does
            not say.
        scale_image: Returns the image whose latents are the hint, from the configuration, pixels in
            [-1, 1] and the number of the kind or None.
        settings: The names of tensors in single files that are numbers of the configuration.
        with_settings: Returns the configuration with these numbers, each an array.
        zeroed: Returns the arguments of the network that it replaces by zeros, or that its caller
            does, as diffusers' pipelines do.
        shared: Returns the names of the parameters that a ControlNet takes from the denoiser.
        candidates: For a single file, which has no configuration: yields configurations that may
            fit its names and shapes, each with the tensor of the file for each parameter, a
            `KeyEntry`. Its second argument is the configuration of the model's denoiser, which may
            be of another family, or None.

    >>> from ldmref.models.family import find_family
    >>> sorted(find_family("sd3").control.classes)
    ['SD3ControlNetModel']
    """

    classes: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    default: Callable[[ModelConfig], Any]
    networks: Callable[[Any], Sequence[DeclaredNetwork]]
    differences: Callable[[ModelConfig, Any], Iterable[Difference]]
    residuals: type
    passed: Mapping[str, str]
    inputs: Callable[[ModelConfig], Any]
    place: Callable[[ModelConfig, Any, Any], Any] = lambda config, net, residuals: residuals
    make_hint: Callable[[Any, BaseAutoencoderConfig, Array], Array] = lambda net, vae, latents: (
        latents
    )
    hole: Callable[[Any], float | None] = lambda net: None
    reads_mask: Callable[[Any], bool] = lambda net: False
    draws_hint: bool = False
    kinds: Callable[[Any], tuple[str, ...]] = lambda net: ()
    kind: Callable[[Any], int | None] = lambda net: None
    scale_image: Callable[[Any, np.ndarray, int | None], np.ndarray] = lambda net, pixels, kind: (
        pixels
    )
    settings: tuple[str, ...] = ()
    with_settings: Callable[[Any, Mapping[str, np.ndarray]], Any] = lambda net, values: net
    zeroed: Callable[[Any], tuple[str, ...]] = lambda net: ()
    shared: Callable[[Any], tuple[str, ...]] = lambda net: ()
    candidates: Callable[[Mapping[str, Shape], Any], Iterable[tuple[Any, Mapping[str, Any]]]] = (
        lambda shapes, denoiser: ()
    )
