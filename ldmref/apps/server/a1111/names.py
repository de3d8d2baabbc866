"""What a client names: samplers, schedulers and models, and the lists that answer it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ldmref.apps.a1111 import names
from ldmref.apps.a1111.levels import COMPVIS
from ldmref.apps.a1111.names import LABELS, SCHEDULERS
from ldmref.errors import UsageError, did_you_mean, short_repr
from ldmref.samplers import SAMPLERS, SPACINGS

UNKNOWN = "E-A1111-NAME"  # the code of errors that are answered with 404
AUTOMATIC = "automatic"
OURS = tuple(name for name in SPACINGS if name not in SCHEDULERS)


class Method(NamedTuple):
    """A sampler, and the schedule that the client selects for it.

    Args:
        sampler: A name in `SAMPLERS`; None for the model's sampler.
        schedule: A name in `SPACINGS` that A1111 does not have; None for the sampler's or the
            model's.
        levels: A schedule of `a1111.levels`, which replaces `schedule`; "" for none.
    """

    sampler: str | None = None
    schedule: str | None = None
    levels: str = ""


def read_method(sampler: str | None, scheduler: str | None) -> Method:
    """Return what the names of a sampler and of a scheduler select.

    A sampler's name may end in a scheduler's, such as "DPM++ 2M Karras", which then wins. DDIM,
    PLMS and UniPC ignore the scheduler, as in A1111.

    Raises:
        UsageError: Nothing has such a name; the hint lists those that exist.
    """
    label, named = names.split_sampler(sampler or "")
    name = find_sampler(label) if label else None
    kind = find_scheduler(named or scheduler or AUTOMATIC)
    if kind == AUTOMATIC or name in COMPVIS:
        return Method(name)
    if kind in OURS:
        return Method(name, kind)
    return Method(name, None, kind.replace("_", " "))


def find_sampler(label: str) -> str:
    """Return the name in `SAMPLERS` of A1111's sampler; ours are known also.

    Raises:
        UsageError: There is none.
    """
    name = names.find_sampler(label)
    if name is None:
        raise UsageError(
            f"Sampler not found: {short_repr(label)}",
            code=UNKNOWN,
            hint=did_you_mean(label, (*LABELS.values(), *SAMPLERS)),
        )
    return name


def find_scheduler(label: str) -> str:
    """Return the name of a scheduler, which may be given by its label.

    >>> find_scheduler("SGM Uniform"), find_scheduler("trailing")
    ('sgm_uniform', 'trailing')
    """
    name = str(label).strip().lower().replace(" ", "_")
    if name not in SCHEDULERS and name not in OURS:
        raise UsageError(
            f"Scheduler not found: {short_repr(label)}",
            code=UNKNOWN,
            hint=did_you_mean(name, (*SCHEDULERS, *OURS)),
        )
    return name


def list_samplers() -> list[dict[str, Any]]:
    """Return the answer to GET samplers: A1111's first, then those that A1111 does not have."""
    known = [{"name": label, "aliases": [name], "options": {}} for name, label in LABELS.items()]
    rest = [name for name in SAMPLERS if name not in LABELS]
    return known + [{"name": name, "aliases": [], "options": {}} for name in rest]


def list_schedulers() -> list[dict[str, Any]]:
    """Return the answer to GET schedulers: A1111's first, then those that A1111 does not have."""
    named = SCHEDULERS | {name: name for name in OURS}
    return [
        {
            "name": name,
            "label": label,
            "aliases": None,
            "default_rho": 7.0 if name == "karras" else -1,
            "need_inner_model": False,
        }
        for name, label in named.items()
    ]


def make_title(name: str, sha256: str | None) -> str:
    """Return A1111's title of a model: its name and the beginning of its hash.

    >>> make_title("emoji", "1cbc0411328f")
    'emoji [1cbc041132]'
    """
    return f"{name} [{sha256[:10]}]" if sha256 else name


def find_model(label: object, models: Mapping[str, str | None]) -> str:
    """Return the name of the served model that a title, name or hash means.

    Args:
        label: From the client. A path or the name of a file on disk is never looked up.
        models: The SHA-256 of each served model by its name.

    Raises:
        UsageError: No served model is meant.
    """
    text = label.removesuffix(".safetensors") if isinstance(label, str) else ""
    for name, sha256 in models.items():
        if text in model_labels(name, sha256):
            return name
    titles = [make_title(name, sha256) for name, sha256 in models.items()]
    raise UsageError(
        f"model {short_repr(label)} not found",
        code=UNKNOWN,
        hint=f"this server offers {', '.join(titles)}",
    )


def model_labels(name: str, sha256: str | None) -> Iterable[str]:
    """Return everything by which a client may name a model."""
    return (name, make_title(name, sha256), *((sha256, sha256[:10]) if sha256 else ()))


def list_models(models: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Return the answer to GET sd-models; `filename` is the name, because paths stay private."""
    return [
        {
            "title": make_title(name, sha256),
            "model_name": name,
            "hash": sha256[:10] if sha256 else None,
            "sha256": sha256 or None,
            "filename": name,
            "config": None,
        }
        for name, sha256 in models.items()
    ]
