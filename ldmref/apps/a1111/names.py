"""A1111's names of samplers, schedulers and sources of noise, and what they mean here.

Source: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/sd_samplers.py, sd_schedulers.py and
rng.py.
"""

from __future__ import annotations

from ldmref.io.images.infotext import A1111_SAMPLERS
from ldmref.samplers import ALIASES, SAMPLERS

LABELS = A1111_SAMPLERS | {"lms_euler": "LMS", "unipc_3": "UniPC"}
SCHEDULERS = {  # A1111's name -> its label
    "automatic": "Automatic", "uniform": "Uniform", "karras": "Karras",
    "exponential": "Exponential", "polyexponential": "Polyexponential",
    "sgm_uniform": "SGM Uniform", "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps", "simple": "Simple", "normal": "Normal",
    "ddim": "DDIM", "beta": "Beta", "turbo": "Turbo",
}  # fmt: skip
RNGS = {"CPU": "torch", "NV": "a1111-gpu", "GPU": "a1111-gpu"}  # by `randn_source`
_BY_LABEL = {label.lower(): name for name, label in LABELS.items()}
_SUFFIXES = ("karras", "exponential", "polyexponential", "sgm uniform")  # of samplers' names


def is_of_a1111(label: str) -> bool:
    """Return whether A1111 has a sampler of this name, in any case of letters.

    >>> is_of_a1111("DPM++ 2m"), is_of_a1111("DEIS")
    (True, False)
    """
    return label.lower() in _BY_LABEL


def find_sampler(label: str) -> str | None:
    """Return the name in `SAMPLERS` of A1111's sampler, None if there is none; ours are known also.

    Plug-ins are not looked up, because neither a request nor a downloaded image must import code.

    >>> find_sampler("Euler a"), find_sampler("UniPC"), find_sampler("dpmpp_2m_heun")
    ('euler_a', 'unipc_3', 'dpmpp_2m_heun')
    """
    lower = label.lower()
    name = _BY_LABEL.get(lower) or ALIASES.get(lower, lower)
    return name if name in SAMPLERS else None


def split_sampler(label: str) -> tuple[str, str]:
    """Return a sampler's name and the scheduler at its end, which versions before 1.9 wrote.

    >>> split_sampler("DPM++ 2M SDE Karras"), split_sampler("Euler a")
    (('DPM++ 2M SDE', 'karras'), ('Euler a', ''))
    """
    label = label.strip()
    lower = label.lower()
    suffix = next((suffix for suffix in _SUFFIXES if lower.endswith(" " + suffix)), "")
    return label[: len(label) - len(suffix)].strip(), suffix
