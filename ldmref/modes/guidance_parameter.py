"""The parameter `guidance`: how it is read, what an image records of it, what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.samplers import ClassifierFree, Guidance, Sampler, get_guidance
from ldmref.samplers.guidance import CODE
from ldmref.samplers.guidances import EmbeddedScale
from ldmref.samplers.notation import read_notation
from ldmref.samplers.path import FLOW

PLAIN = ClassifierFree()
EMBEDDED = EmbeddedScale()
HINT = "--guidance rescale, or with parameters --guidance rescale:phi=0.7"


def check_guidance(name: str, value: object) -> Guidance:
    """Return a guidance by its name or record; a `Guidance` is returned unchanged."""
    return get_guidance(value)


def parse_guidance(text: str) -> dict[str, Any]:
    """Read a name and parameters: `rescale`, or `rescale:phi=0.7,...`.

    >>> parse_guidance("interval:low=0.2,high=3")
    {'name': 'interval', 'low': 0.2, 'high': 3}
    >>> parse_guidance("slg:layers=7+8")
    {'name': 'slg', 'layers': [7, 8]}
    """
    name, parameters = read_notation(text, "guidance", CODE, HINT)
    return {"name": name} | parameters


def choose_guidance(
    config: ModelConfig,
    asked: str | Mapping[str, Any] | Guidance | None,
    sampler: Sampler,
) -> Guidance:
    """Return the guidance of a job: classifier-free, or that of a network that reads the scale.

    Raises:
        UsageError: The network or the step cannot be guided like this.
    """
    if config.denoiser.reads_guidance:
        return choose_embedded(config, asked, sampler)
    guidance = PLAIN
    if asked is not None:
        guidance = get_guidance(asked)
        check_perturbed(config, guidance)
    if sampler.own_guidance:
        check_guiding_step(config, guidance, sampler)
    return guidance


def choose_embedded(
    config: ModelConfig,
    asked: str | Mapping[str, Any] | Guidance | None,
    sampler: Sampler,
) -> Guidance:
    """Return the guidance of a job for a network that reads the scale.

    Raises:
        UsageError: Something needs a second prediction.
    """
    guidance = PLAIN if asked is None else get_guidance(asked)
    embedded = guidance.embedded()
    second = ""
    if embedded is None:
        second = f"guidance {guidance.name!r}"
    elif sampler.unconditional:
        second = f"sampler {sampler.name!r}, which guides by two predictions"
    if embedded is None or second:
        raise UsageError(
            f"{config.name!r} reads the guidance scale itself, so it takes no {second}",
            code=CODE,
            hint="leave it out, or take guidance nag or autoguidance; the network reads cfg_scale",
        )
    check_perturbed(config, embedded)
    return embedded


def plain_guidance(config: ModelConfig) -> Guidance:
    """Return the guidance of a model without a wish: classifier-free, or that of its network."""
    return EMBEDDED if config.denoiser.reads_guidance else PLAIN


def check_guiding_step(config: ModelConfig, guidance: Guidance, sampler: Sampler) -> None:
    """Refuse a step that guides itself on a path that is not its own, or a guidance without effect.

    Such a step uses only predictions at guidance scale 1, where most guidances do nothing.
    """
    if config.scheduler.path is not FLOW:
        raise UsageError(
            f"sampler {sampler.name!r} is made for flow matching, which {config.name!r} does not "
            "use",
            code="E-SAMPLER",
            hint="take euler_cfgpp",
        )
    if guidance != PLAIN and guidance.needs(1.0, 1.0) == ("cond",):
        raise UsageError(
            f"sampler {sampler.name!r} guides itself, so guidance {guidance.name!r} would do "
            "nothing",
            code=CODE,
            hint="leave it out; cfg_scale is the strength of this sampler's guidance",
        )


def check_perturbed(config: ModelConfig, guidance: Guidance) -> None:
    """Refuse a guidance that needs the network in a way in which it cannot be perturbed."""
    for name, problem in find_unperturbed(config, guidance):
        raise UsageError(
            f"guidance {guidance.name!r} needs the prediction {name!r}, but {config.name!r} "
            f"{problem}",
            code=CODE,
            hint="take another guidance, or other layers",
        )


def find_unperturbed(config: ModelConfig, guidance: Guidance) -> Iterator[tuple[str, str]]:
    """Yield the predictions of a guidance that a model cannot make, and the reason."""
    denoiser = family_of(config).declared(config, config.denoiser.network)
    for prediction in guidance.perturbed:
        steering = prediction.steering
        problem = denoiser.find_unsteerable([] if steering is None else [steering])
        if problem:
            yield prediction.name, problem


def is_asked(guidance: Guidance) -> bool:
    """Return whether a guidance is one that a request asked for, not the model's own.

    Only such a guidance is recorded, and only such a one may need the empty prompt.
    """
    return guidance not in (PLAIN, EMBEDDED)


def texts_read(guidance: Guidance, sampler: Sampler, *scales: float) -> set[str]:
    """Return the texts that a job reads, of `cond`, `uncond` and `empty`; `cond` always is.

    Args:
        guidance: Its guidance.
        sampler: Its sampler, which may need an unconditional prediction.
        scales: The guidance scales that it uses.
    """
    texts = {text for scale in scales for text in guidance.texts(scale)}
    return {"cond", *texts, *(("uncond",) if sampler.unconditional else ())}


def count_predictions(guidance: Guidance, sampler: Sampler, cfg_scale: float, calls: int) -> int:
    """Return the number of predictions of the network for calls of the denoiser, at most."""
    scale = 1.0 if sampler.own_guidance else cfg_scale
    count = guidance.evaluations(scale)
    alone = sampler.unconditional and "uncond" not in guidance.needs(1.0, scale)
    if sampler.own_guidance:  # only its last call in a step asks for both
        return count * calls + (calls // sampler.nfe if alone else 0)
    return (count + 1 if alone and count == 1 else count) * calls
