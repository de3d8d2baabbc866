"""From a network to a denoiser: `denoise(x, sigma) -> x0` on a path, such as x = x0 + sigma eps.

A network has coordinates of its own: variance preserving for one that predicts eps, v or x0, flow
matching for one that predicts a velocity. x is scaled to them at the same ratio of noise to data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.math.flow import x0_from_velocity
from ldmref.math.prediction import x0_from_eps, x0_from_v
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.samplers.guidance import CODE, Guidance
from ldmref.samplers.interfaces import Guided, GuidedDenoiser, History, Interval
from ldmref.samplers.parts import combine
from ldmref.samplers.path import FLOW, VE, NoisePath
from ldmref.samplers.predictions import (
    TEXTS,
    LayersLeftOut,
    PartsPerturbed,
    Prediction,
    read_prediction,
)

# (xt, prediction, level): the level is alpha-bar, or the flow time of a velocity
TO_X0: dict[str, Callable[[Array, Array, Array], Array]] = {
    "eps": x0_from_eps,
    "v": x0_from_v,
    "x0": lambda xt, y, alpha_bar: y,
    "flow": x0_from_velocity,
}


class Network(Protocol):
    """A network that predicts eps, v, x0 or a velocity under several conditions."""

    def __call__(
        self, xt: Array, sigma: float, names: tuple[Prediction, ...], interval: Interval | None, /
    ) -> Sequence[Array]:
        """Return the named predictions, in this order.

        Args:
            xt: x in the network's own scale, (n, ...): x / sqrt(1 + sigma^2), or for a flow
                x / (1 + sigma), of x = x0 + sigma eps.
            sigma: The noise level on the path.
            names: The predictions; each is equal to its name, such as "cond".
            interval: The interval of the step; None outside of `sample`.
        """
        ...


class Evaluation(NamedTuple):
    """One evaluation of a guided denoiser, as an observer sees it.

    Attributes:
        x: The point, on the path.
        sigma: The noise level on the path.
        interval: The interval of the step; None outside of `sample`.
        predictions: The predicted x0 of each condition by name, in the order of the network's
            batch.
        x0: The guided prediction.
        outputs: What the guidance combined, by name: the network's outputs, or what they were
            converted to (`Guidance.combines`).
        guided: The result of the guidance, of the same kind.
        scale: The guidance scale of this evaluation; a step that guides itself asks for another
            one than the request.
    """

    x: Array
    sigma: float
    interval: Interval | None
    predictions: Mapping[str, Array]
    x0: Array
    outputs: Mapping[str, Array]
    guided: Array
    scale: float


Observer = Callable[[Evaluation], None]


class PredictionExchange(Protocol):
    """What may replace the predictions of a denoiser."""

    def predicted(self, predictions: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return what the guidance combines, by name, each (n, ...), or what replaces it."""
        ...

    def combined(self, guided: Array) -> Array:
        """Return what the guidance returned, (n, ...), or what replaces it."""
        ...


def guided_denoiser(
    network: Network,
    prediction_type: str,
    guidance: Guidance,
    cfg_scale: float,
    observe: Observer | None = None,
    path: NoisePath = VE,
    exchange: PredictionExchange | None = None,
) -> GuidedDenoiser:
    """Return a network as a denoiser, its predictions combined by a guidance.

    Args:
        network: `network(xt, sigma, names, interval)` returns the named predictions, each (n,
            ...), of x in the scale of its training, xt = x / sqrt(1 + sigma^2) for x = x0 + sigma
            eps.
        prediction_type: `eps`, `v` or `x0`; `flow` for a velocity, whose xt is on `FLOW`.
        guidance: From `get_guidance`.
        cfg_scale: The guidance scale s, dimensionless; 1 is no guidance.
        observe: Called with every `Evaluation`, which it must not change. None: nothing is
            called.
        path: The path of x and sigma. The guidance gets the ratio sigma / alpha, which is the
            same noise level on every path.
        exchange: May replace what the guidance combines, and what it returns. None: nothing is
            replaced.

    Returns:
        The denoiser: `denoise(x, sigma)` returns x0 in the shape of x, (n, ...), and
        `denoise.guided(...)` also the prediction without the prompt.

    Raises:
        KeyError: `prediction_type` is not one of these.
        UsageError: The guidance asks for a prediction that does not exist, or combines velocities
            at sigma 0; or the step needs a second prediction that the network does not have
            (raised by the denoiser).

    >>> import numpy as np
    >>> from ldmref.samplers import get_guidance, guided_denoiser
    >>> def network(xt, sigma, names, interval):  # predicts x0: 0, or 1 with the prompt
    ...     return [np.full_like(xt, float(name == "cond")) for name in names]
    >>> denoise = guided_denoiser(network, "x0", get_guidance("cfg"), 3.0)
    >>> denoise(np.zeros((1, 2)), 1.0)
    array([[3., 3.]])
    """
    combined = guidance.combines(prediction_type)
    from_combined = TO_X0[combined]

    def predict(
        x: Array,
        sigma: float,
        memory: History,
        unconditional: bool,
        interval: Interval | None,
        scale: float | None,
    ) -> Guided:
        scale = cfg_scale if scale is None else scale
        xt, level = in_own_scale(prediction_type, x, sigma, path)
        needed = guidance.needs(path.ratio(sigma), scale)
        if unconditional:
            require_second(guidance)
            needed = ("uncond", *needed)
        names = in_order(needed, guidance)
        outputs = network(xt, sigma, names, interval)
        predictions = {x.name: y for x, y in zip(names, outputs, strict=True)}
        if combined != prediction_type:
            named = guidance.name
            predictions = convert(predictions, prediction_type, combined, x, sigma, path, named)
            if combined == "flow":
                xt, level = in_own_scale("flow", x, sigma, path)
        if exchange is not None:
            predictions = dict(exchange.predicted(predictions))
        y, memory = combine(guidance, predictions, sigma, scale, memory, path)
        y = y if exchange is None else exchange.combined(y)
        x0 = from_combined(xt, y, level)
        if observe is not None:
            clean = {name: from_combined(xt, y, level) for name, y in predictions.items()}
            observe(Evaluation(x, sigma, interval, clean, x0, predictions, y, scale))
        uncond = from_combined(xt, predictions["uncond"], level) if unconditional else None
        return Guided(x0, uncond, memory, cfg_scale)

    return GuidedDenoiser(predict, guidance.remembers)


def convert(
    predictions: Mapping[str, Array],
    prediction_type: str,
    combined: str,
    x: Array,
    sigma: float,
    path: NoisePath = VE,
    guidance: str = "",
) -> dict[str, Array]:
    """Return predictions of a network as those that a guidance combines: of x0, or velocities.

    Args:
        predictions: By name, each (n, ...).
        prediction_type: What the network predicts.
        combined: What the guidance combines.
        x: The state on the path, (n, ...).
        sigma: Its level.
        path: The path.
        guidance: Its name, for messages.

    Raises:
        UsageError: It combines velocities, and sigma is 0.
    """
    if combined == prediction_type:
        return dict(predictions)
    xt, level = in_own_scale(prediction_type, x, sigma, path)
    converted = {name: TO_X0[prediction_type](xt, y, level) for name, y in predictions.items()}
    if combined != "flow":
        return converted
    xs, s = in_own_scale("flow", x, sigma, path)
    return {name: velocity_from_x0(guidance, xs, s, x0) for name, x0 in converted.items()}


def in_own_scale(
    prediction_type: str, x: Array, sigma: float, path: NoisePath = VE
) -> tuple[Array, float]:
    r"""Return x in the scale of a network's training, and its level there, as `TO_X0` takes them.

    .. math:: x_t = \frac{x}{\sqrt{\alpha^2 + \sigma^2}} \text{ at }
              \bar\alpha = \frac{\alpha^2}{\alpha^2 + \sigma^2}, \qquad
              x_s = \frac{x}{\alpha + \sigma} \text{ at } s = \frac{\sigma}{\alpha + \sigma}

    Args:
        prediction_type: `eps`, `v` or `x0`, of variance-preserving x_t, or `flow`, of x_s.
        x: The state on the path, (n, ...).
        sigma: Its level.
        path: The path.

    Returns:
        (x_t, alpha-bar), or (x_s, s).
    """
    ratio = path.ratio(sigma)
    if prediction_type == "flow":
        return (x, sigma) if path is FLOW else (x / (1.0 + ratio), FLOW.level(ratio))
    alpha_bar = float(alpha_bar_from_sigma(ratio))
    return x * (alpha_bar**0.5 if path is VE else 1.0 / path.spread(sigma)), alpha_bar


def require_second(guidance: Guidance) -> None:
    """Refuse a second prediction of a network that reads the guidance scale itself.

    Raises:
        UsageError: Both predictions would have the scale, and their difference is no guidance.
    """
    if guidance.embeds:
        message = "the step needs two predictions, but this network reads the guidance scale itself"
        raise UsageError(message, code=CODE, hint="take the step of euler or ddim")


def velocity_from_x0(guidance: str, xs: Array, s: float, x0: Array) -> Array:
    """Return the velocity eps - x0 of a prediction of x0, for x_s at flow time s.

    Raises:
        UsageError: s is 0, where x0 says nothing about the velocity.
    """
    if s == 0.0:
        message = f"guidance {guidance!r} combines velocities, which do not exist at sigma 0"
        raise UsageError(message, code=CODE, hint="sigma above 0")
    return (xs - x0) / s


def in_order(needed: Sequence[str], guidance: Guidance) -> tuple[Prediction, ...]:
    """Return predictions as a network makes them: those of texts alone first, each once.

    Raises:
        UsageError: The guidance asks for a prediction that does not exist, or for none.
    """
    found = {name: read_prediction(name) for name in needed}
    known = [prediction for prediction in found.values() if prediction is not None]
    if not known or len(known) != len(found):
        unknown = [name for name, prediction in found.items() if prediction is None]
        asks = f"the prediction {unknown[0]!r}" if unknown else "no prediction"
        steered = PartsPerturbed(("mid",)), LayersLeftOut((7, 8, 9))
        examples = (Prediction("cond", steering) for steering in steered)
        hint = f"known: {', '.join((*TEXTS, *examples))} and others with a `Steering`"
        raise UsageError(f"guidance {guidance.name!r} needs {asks}", code=CODE, hint=hint)
    plain = [Prediction(text) for text in TEXTS if text in known]
    return (*plain, *(prediction for prediction in known if prediction.steering is not None))
