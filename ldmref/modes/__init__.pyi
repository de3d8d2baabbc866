"""What static tools see of the modes; written by scripts/make_mode_stubs.py."""

import collections.abc
import os
import pathlib
import typing

import numpy
import PIL.Image

import ldmref.models.config
import ldmref.models.model
import ldmref.modes.control
import ldmref.modes.generate
import ldmref.modes.guide
import ldmref.modes.inversion
import ldmref.modes.result
import ldmref.samplers.guidance
import ldmref.samplers.own_spacing
import ldmref.samplers.sampler
from ldmref.modes.control import Control as Control
from ldmref.modes.cost import Cost as Cost
from ldmref.modes.generate import GeneratedImage as GeneratedImage
from ldmref.modes.generate import Progress as Progress
from ldmref.modes.inversion import Inversion as Inversion
from ldmref.modes.inversion import InversionPlan as InversionPlan
from ldmref.modes.observers import Observers as Observers
from ldmref.modes.observers import PreviewObserver as PreviewObserver
from ldmref.modes.plan import plan as plan
from ldmref.modes.plan import schema as schema
from ldmref.modes.result import Result as Result
from ldmref.modes.run import Plan as Plan
from ldmref.modes.run import Run as Run
from ldmref.modes.trajectory import RunObserver as RunObserver
from ldmref.modes.trajectory import TakenStep as TakenStep

__all__ = [
    "Control",
    "Cost",
    "GeneratedImage",
    "Inversion",
    "InversionPlan",
    "Observers",
    "Plan",
    "PreviewObserver",
    "Progress",
    "Result",
    "Run",
    "RunObserver",
    "TakenStep",
    "edit",
    "img2img",
    "inpaint",
    "interpolate",
    "invert",
    "plan",
    "schema",
    "seg2img",
    "superres",
    "txt2img",
]

def edit(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str | collections.abc.Sequence[str],
    image: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    source_prompt: str = "",
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    count: int = 1,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    batch_size: int = 1,
    tile: int | None = None,
    method: typing.Literal["flowedit", "rf_inversion"] = "flowedit",
    source_cfg_scale: float | None = None,
    n_max: int | None = None,
    n_min: int | None = None,
    n_avg: int | None = None,
    gamma: float | None = None,
    keep: float | None = None,
    keep_start: float | None = None,
    keep_end: float | None = None,
    resize: typing.Literal["crop", "stretch", "fill"] = "crop",
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def img2img(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str | collections.abc.Sequence[str] | None,
    image: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    strength: float | None = 0.75,
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    guide: ldmref.modes.guide.Guide
    | ldmref.models.model.LatentDiffusion
    | ldmref.models.config.ModelConfig
    | str
    | pathlib.Path
    | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    count: int = 1,
    latents: numpy.ndarray | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    prompt_embeds: numpy.ndarray | None = None,
    negative_prompt_embeds: numpy.ndarray | None = None,
    pooled_prompt_embeds: numpy.ndarray | None = None,
    negative_pooled_prompt_embeds: numpy.ndarray | None = None,
    prompt_mask: numpy.ndarray | None = None,
    negative_prompt_mask: numpy.ndarray | None = None,
    control: collections.abc.Sequence[ldmref.modes.control.Control] = (),
    control_image: str
    | os.PathLike
    | typing.BinaryIO
    | PIL.Image.Image
    | numpy.ndarray
    | None = None,
    references: collections.abc.Sequence[
        str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray
    ] = (),
    batch_size: int = 1,
    tile: int | None = None,
    resize: typing.Literal["crop", "stretch", "fill"] = "crop",
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def inpaint(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str | collections.abc.Sequence[str] | None,
    image: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    mask: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    strength: float | None = 1.0,
    mask_blur: float = 0.0,
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    guide: ldmref.modes.guide.Guide
    | ldmref.models.model.LatentDiffusion
    | ldmref.models.config.ModelConfig
    | str
    | pathlib.Path
    | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    count: int = 1,
    latents: numpy.ndarray | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    prompt_embeds: numpy.ndarray | None = None,
    negative_prompt_embeds: numpy.ndarray | None = None,
    pooled_prompt_embeds: numpy.ndarray | None = None,
    negative_pooled_prompt_embeds: numpy.ndarray | None = None,
    prompt_mask: numpy.ndarray | None = None,
    negative_prompt_mask: numpy.ndarray | None = None,
    control: collections.abc.Sequence[ldmref.modes.control.Control] = (),
    control_image: str
    | os.PathLike
    | typing.BinaryIO
    | PIL.Image.Image
    | numpy.ndarray
    | None = None,
    references: collections.abc.Sequence[
        str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray
    ] = (),
    batch_size: int = 1,
    tile: int | None = None,
    fill: typing.Literal["original", "noise", "fill", "nothing"] = "original",
    only_masked: bool | None = None,
    padding: int = 32,
    resample: tuple[int, int] | None = None,
    mask_invert: bool = False,
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def interpolate(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str,
    prompt_b: str,
    positions: int | collections.abc.Sequence[float] = 8,
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    guide: ldmref.modes.guide.Guide
    | ldmref.models.model.LatentDiffusion
    | ldmref.models.config.ModelConfig
    | str
    | pathlib.Path
    | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    control: collections.abc.Sequence[ldmref.modes.control.Control] = (),
    control_image: str
    | os.PathLike
    | typing.BinaryIO
    | PIL.Image.Image
    | numpy.ndarray
    | None = None,
    batch_size: int = 1,
    tile: int | None = None,
    path: typing.Literal["lerp", "slerp"] = "lerp",
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def invert(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str,
    image: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    width: int | None = None,
    height: int | None = None,
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    resize: typing.Literal["crop", "stretch", "fill"] = "crop",
    iterations: int = 5,
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.inversion.Inversion: ...
def seg2img(
    model: ldmref.models.model.LatentDiffusion,
    /,
    segmentation: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    *,
    steps: int | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    count: int = 1,
    latents: numpy.ndarray | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    batch_size: int = 1,
    tile: int | None = None,
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def superres(
    model: ldmref.models.model.LatentDiffusion,
    /,
    image: str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray,
    *,
    steps: int | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    count: int = 1,
    latents: numpy.ndarray | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    batch_size: int = 1,
    tile: int | None = None,
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
def txt2img(
    model: ldmref.models.model.LatentDiffusion,
    /,
    prompt: str | collections.abc.Sequence[str] | None,
    *,
    negative_prompt: str | collections.abc.Sequence[str] | None = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    guidance: str
    | ldmref.samplers.guidance.Guidance
    | collections.abc.Mapping[str, typing.Any]
    | None = None,
    guide: ldmref.modes.guide.Guide
    | ldmref.models.model.LatentDiffusion
    | ldmref.models.config.ModelConfig
    | str
    | pathlib.Path
    | None = None,
    sampler: str | ldmref.samplers.sampler.Sampler | None = None,
    schedule: str | ldmref.samplers.own_spacing.Spacing | None = None,
    seed: int | collections.abc.Sequence[int] | None = None,
    width: int | None = None,
    height: int | None = None,
    count: int = 1,
    latents: numpy.ndarray | None = None,
    eta: float | None = None,
    rng: typing.Literal[
        "philox",
        "torch",
        "torch-bf16",
        "a1111-gpu",
        "cuda:T4",
        "cuda:RTX-2070-Super",
        "cuda:RTX-A4000",
        "cuda:L4",
        "cuda:A10G",
        "cuda:RTX-A6000",
        "cuda:H20",
        "cuda:RTX-4090D",
        "cuda:L40",
        "cuda:L40S",
        "cuda:A100",
        "cuda:H100-PCIe",
        "cuda:H100-SXM",
    ] = "philox",
    sigmas: collections.abc.Sequence[float] | None = None,
    noise_path: typing.Literal["ve", "flow"] | None = None,
    clip_skip: int | None = 0,
    max_sequence_length: int | None = None,
    longest_prompt: int | None = None,
    longest_negative_prompt: int | None = None,
    long_prompts: typing.Literal["truncate", "chunk"] = "truncate",
    prompt_weights: typing.Literal["none", "a1111"] = "none",
    strict_prompt: bool = False,
    prompt_embeds: numpy.ndarray | None = None,
    negative_prompt_embeds: numpy.ndarray | None = None,
    pooled_prompt_embeds: numpy.ndarray | None = None,
    negative_pooled_prompt_embeds: numpy.ndarray | None = None,
    prompt_mask: numpy.ndarray | None = None,
    negative_prompt_mask: numpy.ndarray | None = None,
    control: collections.abc.Sequence[ldmref.modes.control.Control] = (),
    control_image: str
    | os.PathLike
    | typing.BinaryIO
    | PIL.Image.Image
    | numpy.ndarray
    | None = None,
    references: collections.abc.Sequence[
        str | os.PathLike | typing.BinaryIO | PIL.Image.Image | numpy.ndarray
    ] = (),
    batch_size: int = 1,
    tile: int | None = None,
    upscale: float | None = None,
    upscale_strength: float | None = None,
    upscale_steps: int | None = None,
    upscale_sigmas: collections.abc.Sequence[float] | None = None,
    upscaler: typing.Literal["latent", "lanczos"] | None = None,
    callback: collections.abc.Callable[[ldmref.modes.generate.Progress], None] | None = None,
    cancel: ldmref.modes.generate.CancelFlag | None = None,
) -> ldmref.modes.result.Result: ...
