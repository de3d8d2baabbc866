"""Independent oracles of a family: original networks, pipelines, published numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape


def identity(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tensors as they are."""
    return state


@dataclass(frozen=True)
class Original:
    """A torch module that computes a network of a family, in float64.

    Args:
        module: The module, whose parameters are float64. A program that computes a part of it in
            float32, such as the sines of the time, must be changed to float64 there.
        call: `call(module, tensors)` returns the output, a tensor. The tensors are those that
            ldmref's function takes, by argument, float64 or int64.
        config: The configuration of the model.
        network: The name of the network, as its family declares it. "": the denoiser.
        read: Returns our tensors, by name, of those of `module.state_dict()`.
        sides: Height and width of the latents that are compared.

    >>> import torch
    >>> from ldmref.models import preset
    >>> from ldmref.testing import Original
    >>> Original(torch.nn.Identity(), lambda module, x: module(x["x"]), preset("tiny")).sides
    ((8, 8), (8, 12))
    """

    module: Any = field(repr=False)
    call: Callable[[Any, Mapping[str, Any]], Any] = field(repr=False)
    config: ModelConfig = field(repr=False)
    network: str = ""
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = field(default=identity, repr=False)
    sides: tuple[tuple[int, int], ...] = ((8, 8), (8, 12))


@dataclass(frozen=True)
class LivePipeline:
    """A pipeline of another program, such as diffusers, that runs a model of a family.

    Args:
        pipeline: The pipeline, with small random networks.
        run: `run(pipeline)` generates an image, in two or three steps, and returns the pipeline's
            result. It must give the same each time: with a seeded generator, or given latents.
        request: The parameters with which ldmref generates the same image: prompt, steps, seed,
            `rng="torch"` or latents. None: images are not compared.
        mode: The mode of the request.
        image: Returns the image of the result: a PIL image, or an array (h, w, 3) in [0, 1].
        folder: The folder of the same model. None: what `pipeline.save_pretrained` writes.
        whole: Whether everything that is recorded must be compared, so `ldmref diff` ends with exit
            code 0. False: what is not compared is listed as left out.

    >>> from ldmref.testing import LivePipeline
    >>> LivePipeline(None, lambda pipeline: pipeline("a cat", num_inference_steps=2)).mode
    'txt2img'
    """

    pipeline: Any = field(repr=False)
    run: Callable[[Any], Any] = field(repr=False)
    request: Mapping[str, Any] | None = None
    mode: str = "txt2img"
    image: Callable[[Any], Any] = field(default=lambda result: result.images[0], repr=False)
    folder: str | Path | None = None
    whole: bool = True


@dataclass(frozen=True)
class FamilyOptions:
    """What a family is compared with, by the names that `check_family` takes.

    Args:
        originals: Modules of the original program (`Original`), for parity in float64.
        pipelines: Pipelines of another program, such as diffusers (`LivePipeline`), for traces of
            live runs and equal images.
        parameters: The published number of the denoiser's parameters, by preset.
        presets: The presets to check. (): all.
        backends: The backends to compare with NumPy. (): those that run here.
        request: Parameters of all runs of small models, such as a prompt. {}: short ones.
        flops_within: The part by which `work.flops` may differ from what torch counts. 0.05 leaves
            room for what is computed once per image, such as the embedding of the time.
        unread: Returns, for a configuration, the parameters of the denoiser that files hold and
            no layer reads; no gradient reaches them.
        also_stored: Returns, for a configuration, the shapes of tensors that single files hold
            besides those that are read, and by which they are recognised.
    """

    originals: Sequence[Original] = ()
    pipelines: Sequence[LivePipeline] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)
    presets: Sequence[str] = ()
    backends: Sequence[str] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    flops_within: float = 0.05
    unread: Callable[[ModelConfig], Collection[str]] = lambda config: ()
    also_stored: Callable[[ModelConfig], Mapping[str, Shape]] = lambda config: {}
