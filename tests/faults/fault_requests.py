"""Rows 32 to 59: prompts and numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fault_cases import COMMAND_LINE, PYTHON, Case, case, command

from ldmref.errors import BackendUnavailable, InputError, ResourceError, UsageError

BIG = 2**64


def python_only(row: int, title: str, error: Any, code: str, **parameters: Any) -> Case:
    return case(row, title, error, code, only=PYTHON, **parameters)


def noise(shape: tuple[int, ...] = (1, 4, 8, 8), dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def not_a_number() -> np.ndarray:
    latents = noise()
    latents[0, 0, 0, 0] = np.nan
    return latents


def read_only() -> np.ndarray:
    latents = noise()
    latents.flags.writeable = False
    return latents


STRANGE = {
    "emoji": "❤️ \U0001f468‍\U0001f469‍\U0001f467",
    "right to left": "قلب أحمر ‮red",
    "CJK": "赤いハート 红心",
    "combining": "e" + "́" * 500,
    "control": "a\x00b\x1b[2Jc\x7f",
    "line breaks": "red\r\nheart\u2028",
    "braces": "{}%s%d{seed}",
    "brackets": "(((((red" * 50,
    "Steps: 5": "cat\nNegative prompt: dog\nSteps: 1, Seed: 7",
}

PROMPTS: list[Case] = [
    case(32, "500 words", warns=True, prompt="red heart " * 250),
    case(32, "500 words, strict", UsageError, "E-PROMPT-TRUNCATED", prompt="red heart " * 250,
         strict_prompt=True),
    case(32, "short, strict", prompt="red heart", strict_prompt=True),
    case(33, "empty", prompt=""),
    case(33, "white space", prompt=" \t\n"),
    *(case(34, title, prompt=text) for title, text in STRANGE.items() if title != "control"),
    case(35, "control characters", prompt=STRANGE["control"]),
    case(36, "lone surrogate", UsageError, "E-PROMPT", prompt="a \udcff"),
    case(36, "in the negative prompt", UsageError, "E-PROMPT", negative_prompt="a \ud83d"),
    case(37, "a word of 1 MB", UsageError, "E-PROMPT-LENGTH", prompt="a" * 10**6),
    case(37, "words of 1 MB", UsageError, "E-PROMPT-LENGTH", prompt="a " * 500_000),
    case(38, "end of text", prompt="red <|endoftext|> heart"),
    python_only(39, "None", UsageError, "E-PROMPT", prompt=None),
    python_only(39, "bytes", UsageError, "E-PROMPT", prompt=b"cat"),
    python_only(39, "number", UsageError, "E-PROMPT", prompt=7),
    python_only(39, "empty list", UsageError, "E-PROMPT", prompt=[]),
    python_only(39, "list of numbers", UsageError, "E-PROMPT", prompt=["cat", 7]),
    python_only(39, "three negative, two prompts", UsageError, "E-PROMPT", prompt=["a", "b"],
                negative_prompt=["c", "d", "e"]),
    python_only(39, "unknown parameter", UsageError, "E-USAGE", stpes=3),
    command(39, "none", UsageError, "E-USAGE", "txt2img"),
    case(41, "weight", warns=True, prompt="a (red:1.3) heart"),
    case(41, "LoRA", warns=True, prompt="heart <lora:style:1>"),
    case(41, "weight that is read", prompt="a (red:1.3) heart", prompt_weights="a1111"),
]  # fmt: skip


def refused(
    row: int, name: str, code: str, values: dict[str, Any], usage: bool = False, **others: Any
) -> list[Case]:
    """Return the cases of a parameter with bad values, by title."""
    return [
        case(row, f"{name} {title}", UsageError, code, usage=usage, **others | {name: value})
        for title, value in values.items()
    ]


RANGE = {"0": 0, "-1": -1, "1001": 1001, "10^9": 10**9}
NOT_WHOLE = {"1.5": 1.5, "text": "many", "NaN": math.nan, "infinite": math.inf}
NO_NUMBER = {"NaN": math.nan, "infinite": math.inf, "-infinite": -math.inf, "10^30": 1e30}
FILE_OR_VALUE = {PYTHON: UsageError, COMMAND_LINE: InputError}
SAMPLERS = ("ddim", "ddpm", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_sde", "lms", "unipc")

NUMBERS: list[Case] = [
    *refused(42, "steps", "E-STEPS", RANGE),
    *refused(42, "steps", "E-STEPS", NOT_WHOLE, usage=True),
    python_only(42, "steps True", UsageError, "E-STEPS", steps=True),
    python_only(42, "steps as text", UsageError, "E-STEPS", steps="20"),
    *(case(42, f"steps 0 of {name}", UsageError, "E-STEPS", steps=0, sampler=name)
      for name in SAMPLERS),
    *(case(43, f"1 step of {name}", steps=1, sampler=name) for name in SAMPLERS),
    *refused(44, "cfg_scale", "E-CFG-SCALE", NO_NUMBER),
    python_only(44, "cfg_scale as text", UsageError, "E-CFG-SCALE", cfg_scale="7"),
    python_only(44, "cfg_scale True", UsageError, "E-CFG-SCALE", cfg_scale=True),
    case(44, "cfg_scale 51", warns=True, cfg_scale=51),
    case(44, "cfg_scale 0", warns=True, cfg_scale=0),
    case(44, "cfg_scale 1", cfg_scale=1),
    case(44, "cfg_scale -1", cfg_scale=-1),
    *refused(45, "seed", "E-SEED", {"-2": -2, "2^64": BIG, "1.5": 1.5, "text": "x"}),
    python_only(45, "seed True", UsageError, "E-SEED", seed=True),
    python_only(45, "seed as text", UsageError, "E-SEED", seed="7"),
    python_only(45, "seed as array", UsageError, "E-SEED", seed=np.zeros((1, 1))),
    case(45, "seed 2^64 - 1", seed=BIG - 1),
    case(45, "seed -1", seed=-1),
    case(46, "two of three", UsageError, "E-SEED", seed=[1, 2], count=3),
    case(46, "the same twice", seed=[1, 1], count=2),
    python_only(46, "none", UsageError, "E-SEED", seed=[]),
    case(47, "2^64 - 1 and the next", seed=BIG - 1, count=2),
    *refused(49, "eta", "E-ETA", {"-0.1": -0.1, "1.1": 1.1, "NaN": math.nan}, sampler="ddim"),
    case(49, "eta of heun", UsageError, "E-ETA", eta=0.5, sampler="heun"),
    *refused(49, "clip_skip", "E-CLIP-SKIP", {"-1": -1, "2": 2, "99": 99}),
    *refused(49, "tile", "E-TILE", {"0": 0, "-8": -8, "10^9": 10**9}),
    python_only(50, "rising", UsageError, "E-SIGMAS", sigmas=[1.0, 2.0, 0.0], steps=None),
    python_only(50, "NaN", UsageError, "E-SIGMAS", sigmas=[1.0, math.nan, 0.0], steps=None),
    python_only(50, "length 1", UsageError, "E-SIGMAS", sigmas=[1.0], steps=None),
    python_only(50, "below 0", UsageError, "E-SIGMAS", sigmas=[1.0, -1.0], steps=None),
    python_only(50, "text", UsageError, "E-SIGMAS", sigmas="x", steps=None),
    *refused(51, "width", "E-SIZE", {"13": 13, "15": 15}),
    *refused(51, "height", "E-SIZE", {"17": 17}),
    *refused(52, "width", "E-WIDTH", {"0": 0, "-8": -8, "10^6": 10**6}),
    *refused(52, "height", "E-HEIGHT", {"0": 0, "10^6": 10**6}),
    *refused(52, "width", "E-WIDTH", {"1.5": 1.5, "text": "wide"}, usage=True),
    case(52, "8192 x 8192", ResourceError, "E-SIZE-LIMIT", width=8192, height=8192),
    *refused(53, "count", "E-COUNT", {"0": 0, "-1": -1, "10^6": 10**6}),
    *refused(53, "count", "E-COUNT", {"1.5": 1.5}, usage=True),
    *refused(53, "batch_size", "E-BATCH-SIZE", {"0": 0, "10^6": 10**6}),
    *(case(54, f"dtype {name}", UsageError, "E-DTYPE", load={"dtype": name})
      for name in ("float31", "int8", "complex64", "object")),
    case(54, "float16", warns=True, load={"dtype": "float16"}),
    case(54, "float64", load={"dtype": "float64"}),
    case(55, "sampler", UsageError, "E-SAMPLER", sampler="eular"),
    case(55, "schedule", UsageError, "E-SCHEDULE", schedule="carras"),
    case(55, "guidance", UsageError, "E-GUIDANCE", guidance="rescal"),
    case(55, "guidance parameter", UsageError, "E-GUIDANCE", guidance="rescale:phi=2"),
    case(55, "rng", UsageError, "E-RNG", rng="mt"),
    case(55, "backend", UsageError, "E-BACKEND-NAME", load={"backend": "nunpy"}),
    case(55, "speed", UsageError, "E-SPEED", load={"speed": "faster"}),
    case(55, "device", BackendUnavailable, "E-DEVICE", load={"device": "tpu"}),
    python_only(55, "sampler as number", UsageError, "E-SAMPLER", sampler=7),
    case(55, "memory", UsageError, "E-MAX-MEMORY", load={"max_memory": "much"}),
    case(56, "karras with ddim", sampler="ddim", schedule="karras", steps=2),
    case(57, "cfg", UsageError, "E-CFG-SCALE", cfg_scale="7,5", usage=True),
    case(57, "eta", UsageError, "E-ETA", eta="0,5", sampler="ddim", usage=True),
    case(58, "shape", UsageError, "E-LATENTS", latents=noise((1, 4, 9, 8))),
    case(58, "three dimensions", UsageError, "E-LATENTS", latents=noise((4, 8, 8))),
    case(58, "NaN", FILE_OR_VALUE, "E-LATENTS", latents=not_a_number()),
    python_only(58, "text", UsageError, "E-LATENTS", latents="x"),
    python_only(58, "objects", UsageError, "E-LATENTS", latents=[None]),
    case(58, "complex", FILE_OR_VALUE, "E-LATENTS", latents=noise(dtype=np.complex64)),
    case(58, "read-only", latents=read_only()),
    case(58, "not contiguous", latents=noise((1, 8, 8, 4)).transpose(0, 3, 1, 2)),
    case(58, "float64", latents=noise(dtype=np.float64)),
    python_only(58, "embeddings of another shape", UsageError, "E-PROMPT-EMBEDS", prompt=None,
                prompt_embeds=np.zeros((1, 3, 5))),
    python_only(58, "embeddings with NaN", UsageError, "E-PROMPT-EMBEDS", prompt=None,
                prompt_embeds=np.full((1, 16, 32), np.nan)),
]  # fmt: skip

REQUESTS = [*PROMPTS, *NUMBERS]
