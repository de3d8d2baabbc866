"""Runs of every pipeline that guides, with what is asked for of the guidance and what is used."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import flux2_pipelines
import flux3_pipelines
import flux_networks
import krea2_pipelines
import numpy as np
import qwen_image_21_pipelines
import sd3_networks
import small_pipelines
import torch
import z_image_pipelines
from PIL import Image
from qwen3_networks import write_vocabulary

import ldmref
from ldmref.locate.pipeline import judge_host
from ldmref.locate.pipeline.asked import GUIDES
from ldmref.models.family import list_families
from ldmref.trace import Selection, Trace, read_trace, record_pipeline

STEPS = 4
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
MASK = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((8, 8))).astype(np.uint8))
# What is asked for and what is used instead, of each argument of a call that guides.
ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "guidance_scale": (5.0, 3.0),
    "guidance_rescale": (0.5, 0.1),
    "true_cfg_scale": (3.0, 2.0),
    "skip_guidance_layers": ([1], [0]),
    "skip_layer_guidance_scale": (2.8, 0.3),
    "skip_layer_guidance_start": (0.0, 0.3),
    "skip_layer_guidance_stop": (0.9, 0.5),
    "pag_scale": (3.0, 1.0),
    "pag_adaptive_scale": (0.002, 0.0),
    "cfg_normalization": (0.5, False),
    "cfg_truncation": (0.2, 1.0),
    "control_guidance_start": (0.3, 0.0),
    "control_guidance_end": (0.8, 1.0),
    "controlnet_conditioning_scale": (0.7, 0.3),
}
DROPPED: dict[str, Any] = {  # what is used where a guidance is dropped
    "guidance_scale": 0.0,
    "true_cfg_scale": 1.0,
    "skip_guidance_layers": None,
    "pag_scale": 0.0,
}
OF_GUIDER: dict[str, tuple[Any, Any]] = {  # by the argument of a guider
    "guidance_scale": (5.0, 3.0),
    "guidance_rescale": (0.5, 0.1),
    "start": (0.3, 0.0),
    "stop": (0.8, 1.0),
    "enabled": (True, False),
    "use_original_formulation": (True, False),
}
MODULAR = ("Flux3ModularPipeline",)  # with a guider
UNGUIDED = {
    "Flux3DistilledModularPipeline": "it has no guidance",
    "LDMPipeline": "it has no guidance",
    "LDMSuperResolutionPipeline": "it has no guidance",
    "StableDiffusion3InpaintPipeline": "it wants latents of 16 channels",
    "LDMTextToImagePipeline": "its text encoder is a class that no folder of transformers has",
}
READ = {"flux2": (1, 2, 3), "flux3": (1, 2)}  # layers of the small text encoders
UNUSABLE = {  # arguments that diffusers itself cannot take
    ("StableDiffusionPAGInpaintPipeline", "guidance_rescale"): "an UnboundLocalError",
}
PAG = {"sd1": ["mid"], "sdxl": ["mid"], "sd3": ["blocks.0"]}
OTHER_LAYERS = {"sd1": ["up"], "sdxl": ["up"], "sd3": ["blocks.1"]}


class AskedRun(NamedTuple):
    """A run: the class of its pipeline, and arguments that are used in place of those asked for.

    `layers` are used for perturbed attention, `guider` are settings of a guider.
    """

    kind: str
    used: dict[str, Any] = {}  # noqa: RUF012
    layers: list[str] | None = None
    guider: dict[str, Any] = {}  # noqa: RUF012
    guider_class: str = "ClassifierFreeGuidance"

    @property
    def name(self) -> str:
        """The run in words."""
        used = self.used | self.guider | ({"layers": self.layers} if self.layers else {})
        return " ".join([self.kind, *(f"{k}={x}" for k, x in used.items())])


def guided_kinds() -> list[str]:
    """Return the classes of pipelines that the families read, and those of PAG, that guide."""
    known = [kind for family in list_families() for kind in family.folders]
    known += [
        kind for kind in dir(diffusers) if kind.startswith("StableDiffusion") and "PAG" in kind
    ]
    return [kind for kind in known if kind not in UNGUIDED and kind not in MODULAR]


def arguments_of_guidance(kind: str) -> list[str]:
    """Return the arguments of a pipeline's call that ask for guidance."""
    names = inspect.signature(getattr(diffusers, kind).__call__).parameters
    names = [k for k in names if (kind, k) not in UNUSABLE]
    return [k for k in names if GUIDES.fullmatch(k) or k == "controlnet_conditioning_scale"]


def wrong_runs() -> Iterator[AskedRun]:
    """Yield a run for each argument of each pipeline, of which something else is used."""
    for kind in guided_kinds():
        for name in arguments_of_guidance(kind):
            yield AskedRun(kind, {name: ARGUMENTS[name][1]})
            if name in DROPPED and not reads_scale(kind, name):
                yield AskedRun(kind, {name: DROPPED[name]})
        if "PAG" in kind:
            yield AskedRun(kind, layers=OTHER_LAYERS[base_of(kind)])


def reads_scale(kind: str, name: str) -> bool:
    """Return whether the network itself reads the scale, which drops nothing."""
    return name == "guidance_scale" and base_of(kind) in ("dev", "fill", "control")


def base_of(kind: str) -> str:
    """Return the name of the small pipeline that has the parts of another one."""
    for start, base in BASES.items():
        if kind.startswith(start) and not (base in ("fill", "control") and "ControlNet" in kind):
            return base
    raise ValueError(kind)


BASES = {
    "StableDiffusionXL": "sdxl",
    "StableDiffusion3": "sd3",
    "StableDiffusion": "sd1",
    "Flux2": "flux2",
    "Flux3": "flux3",
    "FluxFill": "fill",
    "FluxControl": "control",
    "Flux": "dev",
    "ZImage": "z-image",
    "Krea2": "krea2",
    "QwenImage21": "qwen",
}


def make_base(base: str, folder: Path) -> Any:
    """Return a small pipeline; `folder` is for its tokenizer."""
    torch.manual_seed(0)
    makers = {
        "sd3": lambda: sd3_networks.make_pipeline("3 medium"),
        "dev": lambda: flux_networks.make_pipeline(True),
        "fill": flux_networks.make_fill_pipeline,
        "control": flux_networks.make_control_pipeline,
        "flux2": lambda: flux2_pipelines.make_pipeline(write_vocabulary(folder)),
        "flux3": lambda: flux3_pipelines.make_pipeline(write_vocabulary(folder)),
        "z-image": lambda: z_image_pipelines.make_pipeline(write_vocabulary(folder)),
        "krea2": lambda: krea2_pipelines.make_pipeline(folder),
        "qwen": qwen_image_21_pipelines.make_pipeline,
    }
    return makers[base]() if base in makers else small_pipelines.pipeline(base)


@cache
def model_of(base: str) -> Any:
    """Return ldmref's model of a small pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = make_base(base, Path(folder) / "words")
        save = flux3_pipelines.save_pipeline if base == "flux3" else save_pipeline
        return ldmref.load(save(pipe, Path(folder) / "model"), backend="numpy", dtype="float32")


def save_pipeline(pipe: Any, path: Path) -> Path:
    """Write the folder of a pipeline; return its path."""
    pipe.save_pretrained(path)
    return path


def make(run: AskedRun, folder: Path) -> Any:
    """Return the pipeline of a run."""
    base = base_of(run.kind)
    pipe = make_base(base, folder)
    if run.kind in MODULAR:
        settings = {k: asked for k, (asked, _) in OF_GUIDER.items()}
        guider = getattr(diffusers.guiders, run.guider_class)
        if run.guider_class != "ClassifierFreeGuidance":
            settings = {"guidance_scale": settings["guidance_scale"]}
        pipe.update_components(guider=guider(**settings))
        return pipe
    cls = getattr(diffusers, run.kind)
    optional = ("safety_checker", "feature_extractor", "image_encoder")
    wanted = inspect.signature(cls.__init__).parameters
    parts = {k: x for k, x in pipe.components.items() if k in wanted}
    parts = {k: x for k, x in parts.items() if x is not None or k in optional}
    if "requires_safety_checker" in wanted:
        parts["requires_safety_checker"] = False
    if "controlnet" in wanted:
        parts["controlnet"] = make_controlnet(pipe)
    if "pag_applied_layers" in wanted:
        parts["pag_applied_layers"] = PAG[base]
    if "text_encoder_select_layers" in wanted:
        parts["text_encoder_select_layers"] = krea2_pipelines.LAYERS
    return cls(**parts)


def make_controlnet(pipe: Any) -> Any:
    """Return a ControlNet of the pipeline's denoiser."""
    if hasattr(pipe, "unet"):
        return diffusers.ControlNetModel.from_unet(
            pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(4, 8)
        )
    kind = "SD3" if hasattr(pipe, "text_encoder_3") else "Flux"
    made = getattr(diffusers, f"{kind}ControlNetModel")
    sizes = {"attention_head_dim": 12, "num_attention_heads": 2, "num_single_layers": 1}
    config = pipe.transformer.config
    sizes |= {k: config[k] for k in sizes if k in config}
    more = (
        {"num_extra_conditioning_channels": 0}
        if kind == "SD3"
        else sizes | {"num_single_layers": 1}
    )
    return made.from_transformer(pipe.transformer, num_layers=1, **more)


def request_of(run: AskedRun) -> dict[str, Any]:
    """Return what is asked for in the call of a run."""
    names = {}
    if run.kind not in MODULAR:
        names = inspect.signature(getattr(diffusers, run.kind).__call__).parameters
    guides = [] if run.kind in MODULAR else arguments_of_guidance(run.kind)
    asked = {k: x for k, (x, _) in ARGUMENTS.items() if k in guides}
    if base_of(run.kind) in READ:
        asked["text_encoder_out_layers"] = READ[base_of(run.kind)]
    size = 32 if base_of(run.kind) == "qwen" else 16
    asked |= {"prompt": "a red cat", "num_inference_steps": STEPS, "output_type": "np"}
    more = {
        "negative_prompt": "dog",
        "height": size,
        "width": size,
        "image": PHOTO,
        "mask_image": MASK,
        "control_image": PHOTO,
        "strength": 0.8,
    }
    if run.kind in MODULAR:
        return asked | {k: more[k] for k in ("height", "width")}
    if "ControlNet" in run.kind and "control_mask" in names:
        more["control_mask"] = MASK
    required = {k: more[k] for k in more if k in names}
    if "img2img" in run.kind.lower() and base_of(run.kind) in ("sd1", "sdxl"):
        required = {k: x for k, x in required.items() if k not in ("height", "width")}
    if run.kind in TEXT_ONLY:
        required.pop("image", None)
    return asked | required


TEXT_ONLY = ("Flux2KleinPipeline", "QwenImage21Pipeline")  # whose images are references


def use(pipe: Any, run: AskedRun) -> None:
    """Let a pipeline use something else than what it is asked for."""
    kind = type(pipe)
    own = kind.__call__

    @functools.wraps(own)
    def call(self: Any, *args: Any, **arguments: Any) -> Any:
        if run.layers is not None:
            self.set_pag_applied_layers(run.layers, self._pag_attn_processors)
        for name, value in run.guider.items():
            hidden = name in ("start", "stop", "enabled")
            setattr(self.guider, f"_{name}" if hidden else name, value)
        return own(self, *args, **arguments | run.used)

    pipe.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def record(run: AskedRun, folder: Path, layers: tuple[str, ...] = ("",)) -> Trace:
    """Return the trace of a run."""
    pipe = make(run, folder / "words")
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    if run.used or run.layers or run.guider:
        use(pipe, run)
    request = request_of(run)
    with record_pipeline(pipe, folder / "trace", selection=Selection(layers=layers)):
        pipe(**request, generator=torch.Generator().manual_seed(1))
    return read_trace(folder / "trace")


def judge(run: AskedRun, folder: Path) -> list[Any]:
    """Record a run, and return the rows of what is computed between the networks."""
    trace = record(run, folder)
    with np.errstate(all="ignore"):
        return judge_host(trace, model_of(base_of(run.kind)), "float32", [])
