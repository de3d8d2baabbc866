"""Faults of the wires between networks, made in right runs of diffusers' pipelines.

A fault changes the pipeline before it is observed, or what it passes while it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from host_runs import EULER, FROM_IMAGE, MASK, MASKED, PHOTO, TRUE_CFG, TWO, HostRun
from real_faults import change_class

Change = Callable[[Any], None]
SEVERAL_STATES = {"negative_prompt": "dog"}


class HostFault(NamedTuple):
    """A fault: its run, the functions that make it, and the kinds of the rows that may name it.

    `cause` is a part of the cause of one of these rows; "" where only the place is known.
    """

    name: str
    run: HostRun
    kinds: tuple[str, ...]
    cause: str = ""
    before: tuple[Change, ...] = ()
    within: tuple[Change, ...] = ()


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


def given(**changes: Callable[[Any], Any]) -> Change:
    """Change what the denoiser is given, by the names of its arguments."""

    def make(pipe: Any) -> None:
        network = denoiser(pipe)
        names = list(inspect.signature(type(network).forward).parameters)[1:]

        def change(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple:
            named = dict(zip(names, args, strict=False)) | kwargs
            for name, function in changes.items():
                if named.get(name) is not None:
                    named[name] = function(named[name])
            return (), named

        network.register_forward_pre_hook(change, with_kwargs=True)

    return make


def passed(part: str, method: str, **changes: Callable[[Any], Any]) -> Change:
    """Change the arguments with which the pipeline calls a method of one of its parts."""

    def make(pipe: Any) -> None:
        owner = pipe if part == "" else getattr(pipe, part)
        inner = getattr(owner, method)
        names = list(inspect.signature(inner).parameters)

        def call(*args: Any, **kwargs: Any) -> Any:
            named = dict(zip(names, args, strict=False)) | kwargs
            named |= {k: f(named[k]) for k, f in changes.items() if k in named}
            return inner(**named)

        setattr(owner, method, call)

    return make


def returned(method: str, change: Callable[[Any], Any]) -> Change:
    """Change what a method of the pipeline returns, before it is observed."""

    def make(pipe: Any) -> None:
        base = getattr(type(pipe), method)
        changed = wraps(base)(lambda self, *args, **kwargs: change(base(self, *args, **kwargs)))
        change_class(pipe, **{method: changed})

    return make


def called(**changes: Any) -> Change:
    """Change the arguments of the pipeline's own call: it does not do what it was asked for."""

    def make(pipe: Any) -> None:
        base = type(pipe).__call__
        values = {
            k: x if callable(x) else (lambda asked, value=x: value) for k, x in changes.items()
        }

        def call(self: Any, **kwargs: Any) -> Any:
            made = {k: f(kwargs) for k, f in values.items()}
            return base(self, **kwargs | made)

        call.__signature__ = inspect.signature(base)  # type: ignore[attr-defined]
        change_class(pipe, __call__=call)

    return make


def reversed_sign(pipe: Any) -> None:
    """Combine the predictions of Flux's true guidance with the opposite sign."""
    seen: list[torch.Tensor] = []
    denoiser(pipe).register_forward_hook(lambda module, args, output: seen.append(output[0]))
    inner = pipe.scheduler.step

    def step(model_output: Any, *args: Any, **kwargs: Any) -> Any:
        cond, uncond = seen[-2:]
        return inner(cond + 3.0 * (uncond - cond), *args, **kwargs)

    pipe.scheduler.step = step


def last_level(pipe: Any) -> None:
    """End a flow above 0."""
    base = type(pipe.scheduler).set_timesteps

    @wraps(base)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        base(self, *args, **kwargs)
        self.sigmas[-1] = 0.05

    change_class(pipe.scheduler, set_timesteps=set_timesteps)


def other_unpacking(tokens: torch.Tensor, height: int, width: int, factor: int) -> torch.Tensor:
    n, _, channels = tokens.shape
    rows, columns = height // factor // 2, width // factor // 2
    x = tokens.view(n, rows, columns, 2, 2, channels // 4).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, channels // 4, 2 * rows, 2 * columns)


def unpack_otherwise(pipe: Any) -> None:
    change_class(pipe, _unpack_latents=staticmethod(other_unpacking))


def exchange(x: torch.Tensor) -> torch.Tensor:
    """Exchange the halves of a batch."""
    return x.roll(len(x) // 2, 0)


def flip(x: torch.Tensor) -> torch.Tensor:
    """Exchange the rows of two prompts in each half of four rows."""
    return x[[2, 3, 0, 1]] if len(x) == 4 else x.flip(0)


def channels(start: int, stop: int | None, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change some channels of the latents, (n, c, h, w)."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, start:stop] = change(x[:, start:stop])
        return y

    return apply


def features(start: int, stop: int | None, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change some features of tokens, (n, l, d)."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[..., start:stop] = change(x[..., start:stop])
        return y

    return apply


def random(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)


def by_key(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: {**values, name: change(values[name])}


def unmasked_part(keep: float) -> Change:
    """Give the encoder another masked image: of the wrong part, or with black in place of grey."""

    def make(pipe: Any) -> None:
        inner = pipe.prepare_mask_latents

        def prepare(mask: Any, masked_image: Any, *args: Any, **kwargs: Any) -> Any:
            image = pipe.image_processor.preprocess(PHOTO)
            kept = (mask < 0.5).to(image.dtype)
            wrong = image * (1 - kept) if keep else image * kept - (1 - kept)
            return inner(mask, wrong, *args, **kwargs)

        pipe.prepare_mask_latents = prepare

    return make


SD, SDXL, SD3, DEV = (
    HostRun("", name, "", SEVERAL_STATES) for name in ("sd1", "sdxl", "sd3", "dev")
)
PAIR = HostRun("", "sd1", "", TWO)
XL_PAIR, SD3_PAIR = HostRun("", "sdxl", "", TWO), HostRun("", "sd3", "", TWO)
DEV_PAIR = HostRun("", "dev", "", {"prompt": ["a red cat", "a dog"]})
TRUE = HostRun("", "dev", "", TRUE_CFG)
NINE = HostRun("", "sd1-inpainting", "", MASKED)
FILL = HostRun("", "fill", "", {"image": PHOTO, "mask_image": MASK})
CONTROL = HostRun("", "control", "", {"control_image": PHOTO})
PAINT = HostRun("", "sd1", "inpaint", MASKED)
IMAGE, XL_IMAGE = (
    HostRun("", "sd1", "img2img", FROM_IMAGE),
    HostRun("", "sdxl", "img2img", FROM_IMAGE),
)
SD3_IMAGE, DEV_IMAGE = (HostRun("", name, "img2img", FROM_IMAGE) for name in ("sd3", "dev"))
FIRST_OF_STATES = given(encoder_hidden_states=exchange)

FAULTS = (
    # -- U-Nets
    HostFault("halves of the text", SD, ("text",), "are exchanged", (FIRST_OF_STATES,)),
    HostFault("rows of two prompts", PAIR, ("text",), "rows of prompts",
              (given(encoder_hidden_states=lambda x: torch.cat([flip(h) for h in x.chunk(2)])),)),
    HostFault("the negative text twice", SD, ("text",), "both halves",
              (given(encoder_hidden_states=lambda x: x[:1].repeat(2, 1, 1)),)),
    HostFault("pooled rows", XL_PAIR, ("pooled text",), "rows of prompts",
              (given(added_cond_kwargs=by_key(
                  "text_embeds", lambda x: torch.cat([flip(h) for h in x.chunk(2)]))),)),
    HostFault("halves of the pooled text", SDXL, ("pooled text",), "are exchanged",
              (given(added_cond_kwargs=by_key("text_embeds", exchange)),)),
    HostFault("sizes", SDXL, ("micro-conditioning",), "all sizes are zero",
              (given(added_cond_kwargs=by_key("time_ids", torch.zeros_like)),)),
    HostFault("an image without the scale", IMAGE, ("encoded latents",),
              "scaling factor is missing",
              (), (passed("scheduler", "add_noise", original_samples=lambda x: x / 0.18215),)),
    HostFault("a mask that is inverted", PAINT, ("mask",), "the mask is inverted",
              (), (passed("", "prepare_mask_latents", mask=lambda x: 1 - x),)),
    HostFault("an inverted mask between steps", PAINT, ("mask",), "the mask is inverted",
              (returned("prepare_mask_latents", lambda x: (1 - x[0], *x[1:])),)),
    HostFault("the other part of the image", NINE, ("masked image",), "the white part is kept",
              (), (unmasked_part(1.0),)),
    HostFault("black in place of grey", NINE, ("masked image",), "black instead of grey",
              (), (unmasked_part(0.0),)),
    HostFault("random channels", NINE, ("channels of the mask", "channels of the masked image"), "",
              (given(sample=channels(4, None, random)),)),
    HostFault("an inverted channel", NINE, ("channels of the mask",), "the mask is inverted",
              (given(sample=channels(4, 5, lambda x: 1 - x)),)),
    HostFault("masked latents without the scale", NINE, ("channels of the masked image",),
              "scaling factor is missing",
              (given(sample=channels(5, None, lambda x: x / 0.18215)),)),
    HostFault("another guidance", SD, ("guidance", "guidance scale"), "3.5 instead of 7.5",
              (called(guidance_scale=3.5),)),
    HostFault("no guidance", SD, ("guidance",), "guidance is dropped",
              (lambda pipe: change_class(
                  pipe, do_classifier_free_guidance=property(lambda self: False)),)),
    HostFault("time less 1", SD, ("timestep",), "smaller by 1", (given(timestep=lambda t: t - 1),)),
    HostFault("an input without its scale", SD._replace(scheduler=EULER), ("latents",), "",
              (lambda pipe: change_class(
                  pipe.scheduler, scale_model_input=lambda self, sample, timestep=None: sample),)),
    HostFault("latents that are not unscaled", SD, ("latents",), "scaling factor is missing",
              (), (passed("vae", "decode", z=lambda z: z * 0.18215),)),
    HostFault("noise of twice the size", SD, ("initial noise",), "",
              (returned("prepare_latents", lambda x: 2 * x),)),
    HostFault("an image from 0 to 1", XL_IMAGE, ("image",), "[0, 1] instead of [-1, 1]",
              (), (passed("vae", "encode", x=lambda x: 0.5 * x + 0.5),)),
    # -- SD3
    HostFault("rows of two prompts in SD3", SD3_PAIR, ("text",), "rows of prompts",
              (given(encoder_hidden_states=lambda x: torch.cat([flip(h) for h in x.chunk(2)])),)),
    HostFault("pooled halves in SD3", SD3, ("pooled text",), "are exchanged",
              (given(pooled_projections=exchange),)),
    HostFault("no T5", SD3, ("text",), "",
              (given(encoder_hidden_states=lambda x: torch.cat([x[:, :77], 0 * x[:, 77:]], 1)),)),
    HostFault("an encoder without the shift", SD3_IMAGE, ("encoded latents",), "shift factor",
              (), (passed("scheduler", "scale_noise", sample=lambda x: x + 0.0609 * 1.5305),)),
    HostFault("a decoder without the shift", SD3, ("latents",), "shift factor is missing",
              (), (passed("vae", "decode", z=lambda z: z - 0.0609),)),
    HostFault("no guidance in SD3", SD3, ("guidance",), "guidance is dropped",
              (lambda pipe: change_class(
                  pipe, do_classifier_free_guidance=property(lambda self: False)),)),
    HostFault("one half of the latents", SD3, ("latents",), "",
              (given(hidden_states=lambda x: torch.cat([x[:1], 0.9 * x[1:]])),)),
    HostFault("time times 1000", SD3, ("timestep",), "scaled by 1000",
              (given(timestep=lambda t: 1000 * t),)),
    # -- Flux.1
    HostFault("guidance of 1", DEV, ("guidance scale",), "guidance scale 1 instead of 3.5",
              (given(guidance=torch.ones_like),)),
    HostFault("rows of two prompts in Flux", DEV_PAIR, ("text",), "rows of prompts",
              (given(encoder_hidden_states=flip),)),
    HostFault("pooled rows in Flux", DEV_PAIR, ("pooled text",), "rows of prompts",
              (given(pooled_projections=flip),)),
    HostFault("no true guidance", TRUE, ("guidance",), "guidance is dropped",
              (called(true_cfg_scale=1.0),)),
    HostFault("another true guidance", TRUE, ("guidance", "guidance scale"), "1.5 instead of 3",
              (called(true_cfg_scale=1.5),)),
    HostFault("the sign of true guidance", TRUE, ("guidance",), "cond and uncond are swapped",
              (), (reversed_sign,)),
    HostFault("the text of true guidance", TRUE, ("ids",), "in its place",
              (called(negative_prompt=lambda asked: asked["prompt"]),)),
    HostFault("positions exchanged", DEV._replace(arguments={"width": 24}), ("positions",),
              "rows and columns are exchanged", (given(img_ids=lambda x: x[:, [0, 2, 1]]),)),
    HostFault("the mask's channels", FILL, ("channels of the mask",), "the mask is inverted",
              (given(hidden_states=features(32, None, lambda x: 1 - x)),)),
    HostFault("masked latents without the shift", FILL, ("channels of the masked image",), "",
              (given(hidden_states=features(16, 32, lambda x: x + 0.1159 * 0.3611)),)),
    HostFault("a control image that is inverted", CONTROL, ("channels of the control image",),
              "the control image is inverted",
              (given(hidden_states=features(16, None, lambda x: -x)),)),
    HostFault("an image without scale and shift", DEV_IMAGE, ("encoded latents",),
              "scale and shift are missing",
              (), (passed("scheduler", "scale_noise", sample=lambda x: x / 0.3611 + 0.1159),)),
    HostFault("another unpacking", DEV, ("latents",), "row, column, channel", (unpack_otherwise,)),
    HostFault("the last level", DEV, ("sigmas",), "the last sigma is 0.05 instead of 0",
              (last_level,)),
    HostFault("time in bfloat16", DEV, ("timestep",), "rounded to bfloat16",
              (given(timestep=lambda t: (1000 * t).bfloat16().float() / 1000),)),
)  # fmt: skip
PAIRS = (  # two faults in one run, by name
    ("halves of the text", "another guidance"),
    ("rows of two prompts", "time less 1"),
    ("random channels", "another guidance"),
    ("a mask that is inverted", "an inverted mask between steps"),
    ("pooled rows", "sizes"),
    ("no T5", "a decoder without the shift"),
    ("no T5", "no guidance in SD3"),
    ("guidance of 1", "another unpacking"),
    ("another true guidance", "guidance of 1"),
    ("the mask's channels", "guidance of 1"),
    ("rows of two prompts in Flux", "pooled rows in Flux"),
    ("positions exchanged", "the last level"),
)
