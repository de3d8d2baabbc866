"""Programs that write A1111's text with names of their own, and what these mean.

| program              | recognised by                   | own names                       |
|----------------------|---------------------------------|---------------------------------|
| A1111                |                                 |                                 |
| stable-diffusion.cpp | `Version: stable-diffusion.cpp` | samplers, schedules, RNG, hires |
| SD.Next              | `App: SD.Next`                  |                                 |
| Fooocus              | `Version: Fooocus v2.5.0`       |                                 |
| Forge                | `Version: f2.0.1`               | `Distilled CFG Scale`           |

Sources: leejet/stable-diffusion.cpp, examples/common/common.cpp (`get_image_params`),
src/stable-diffusion.cpp (`rng_type_to_str`, `sample_method_to_str`, `scheduler_to_str`) and
src/runtime/denoiser.hpp; vladmandic/sdnext, modules/processing_info.py; lllyasviel/Fooocus,
modules/meta_parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ldmref.apps.a1111.names import RNGS, find_sampler, split_sampler


@dataclass(frozen=True)
class Program:
    """What a program means by its names.

    Attributes:
        name: The program.
        rngs: Its sources of noise: ours by its own name.
        samplers: Its samplers by its own names, where these differ from A1111's.
        schedules: Its schedules by its own names, which stand behind that of the sampler: A1111's
            name of the same levels, "" if there is none. Empty: A1111's names and places.
        own_samplers: Its samplers that have the name of another method.
        renamed: Its names of values, and A1111's for the same.
        defaults: Values that say nothing, by A1111's names.
        drops_level: Whether it leaves out the last but one level for the samplers for which A1111
            does so by default.
    """

    name: str
    rngs: Mapping[str, str] = field(default_factory=lambda: RNGS)
    samplers: Mapping[str, str] = field(default_factory=dict)
    schedules: Mapping[str, str] = field(default_factory=dict)
    own_samplers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    drops_level: bool = True

    def read_sampler(self, label: str) -> tuple[str | None, str]:
        """Return (our name, schedule) of a sampler as the program writes it; None: unknown."""
        if not self.schedules:
            sampler, suffix = split_sampler(label)
            return find_sampler(sampler), suffix
        method, _, schedule = label.partition(" ")
        found = self.samplers.get(method) or find_sampler(method)
        return found, self.schedules.get(schedule, "") or schedule


A1111 = Program("A1111")
FORGE = Program("Forge")
SD_NEXT = Program("SD.Next")
FOOOCUS = Program("Fooocus")
SD_CPP = Program(
    "stable-diffusion.cpp",
    rngs={"cpu": "torch", "cuda": "a1111-gpu"},  # std_default is that of the C++ library
    samplers={
        "dpm++2s_a": "dpmpp_2s_a",
        "dpm++2m": "dpmpp_2m",
        "dpm++2m_sde": "dpmpp_2m_sde",
    },
    schedules={
        "": "uniform",
        "discrete": "uniform",
        "karras": "karras",
        "exponential": "exponential",
        "sgm_uniform": "sgm uniform",
        "simple": "simple",
    },
    own_samplers=("ipndm_v", "tcd"),
    renamed={
        "Guidance": "Distilled CFG Scale",
        "Hires upscale": "Hires upscaler",
        "Hires scale": "Hires upscale",
    },
    defaults={"Eta": "inf", "Hires resize": "0x0", "Hires steps": "0"},
    drops_level=False,
)
_BY_VERSION = (
    (re.compile(r"stable-diffusion\.cpp"), SD_CPP),
    (re.compile(r"Fooocus"), FOOOCUS),
    (re.compile(r"f\d"), FORGE),
)


def find_program(pairs: Mapping[str, Any]) -> Program:
    """Return the program that wrote the pairs of a text; A1111 unless they say otherwise.

    >>> find_program({"Version": "stable-diffusion.cpp"}).name
    'stable-diffusion.cpp'
    """
    if pairs.get("App") == "SD.Next":
        return SD_NEXT
    version = str(pairs.get("Version", ""))
    return next((program for form, program in _BY_VERSION if form.match(version)), A1111)


def rename_pairs(program: Program, pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pairs under A1111's names, without those that say nothing."""
    renamed = {program.renamed.get(key, key): value for key, value in pairs.items()}
    return {key: value for key, value in renamed.items() if program.defaults.get(key) != value}
