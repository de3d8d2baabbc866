"""Guidance: the rule that combines the predictions of a network, a part that can be exchanged.

A guidance is a frozen dataclass. Its fields are its parameters, declared with `ldmref.declare`:

    @dataclass(frozen=True)
    class Fading(Guidance):
        \"\"\"Classifier-free guidance whose scale grows with the noise.\"\"\"

        name = "fading"
        knee: Annotated[float, Range(0.0, above=True), Doc("Noise level of half the scale.")] = 1.0

        def __call__(self, predictions, sigma, cfg_scale, memory):
            scale = 1.0 + (cfg_scale - 1.0) * sigma / (sigma + self.knee)
            return classifier_free_guidance(predictions["uncond"], predictions["cond"], scale), ()

A package offers one with an entry point that names the class:

    [project.entry-points."ldmref.guidance"]
    fading = "my_package:Fading"

It is loaded only when its name is asked for. The guidances of ldmref are in `guidances.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ldmref.declare import Invalid, get_fields, read, verify, write
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.samplers.interfaces import History
from ldmref.samplers.predictions import TEXTS, Prediction, read_texts

CODE = "E-GUIDANCE"


@dataclass(frozen=True)
class Guidance:
    """A rule that combines predictions; the base class of all guidances.

    A guidance is a frozen dataclass whose fields are its parameters, declared with
    `ldmref.declare`. It overrides `__call__`, and `needs` for other predictions than two.

    Attributes:
        name: Name that images record, and the name of the entry point.
        source: The paper or code, with equation or algorithm.
        on_x0: Whether predictions are converted to x0 first; otherwise they are the network's own
            output (eps, v, x0 or velocity).
        on_velocity: Whether predictions are converted to velocities eps - x0 first, those of flow
            matching at the same ratio of noise to data.
        by_guide: Whether it needs a second model, the request's `guide`.
        guide_weight: The parameter that weighs the model against the guide: 1 is the model alone,
            0 the guide alone. "": there is none.
        usual_scale: The guidance scale of a request without one. None: the model's.
        by_level: Whether the texts that `needs` asks for depend on the noise level. All texts are
            then encoded, otherwise only those that are read. True for a class that overrides
            `needs` and does not say so.
        embeds: Whether it is for a network that reads the guidance scale itself, which has no
            second prediction.

    Raises:
        UsageError: A parameter is not as declared.

    >>> from dataclasses import dataclass
    >>> from ldmref.samplers import Guidance
    >>> @dataclass(frozen=True)
    ... class Unguided(Guidance):
    ...     name = "unguided"
    ...
    ...     def needs(self, sigma, cfg_scale):
    ...         return ("cond",)
    ...
    ...     def __call__(self, predictions, sigma, cfg_scale, memory):
    ...         return predictions["cond"], ()
    >>> Unguided()({"cond": 2.0}, 1.0, 7.5, ())
    (2.0, ())
    """

    name: ClassVar[str] = "custom"
    source: ClassVar[str] = ""
    on_x0: ClassVar[bool] = False
    on_velocity: ClassVar[bool] = False
    by_guide: ClassVar[bool] = False
    guide_weight: ClassVar[str] = ""
    usual_scale: ClassVar[float | None] = None
    by_level: ClassVar[bool] = False
    embeds: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "needs" in vars(cls) and "by_level" not in vars(cls):
            cls.by_level = True

    def __post_init__(self) -> None:
        try:
            verify(self, self.name)
        except Invalid as error:
            raise UsageError(str(error), code=CODE, hint=error.hint) from None

    @property
    def remembers(self) -> bool:
        """Whether `memory` is passed from step to step."""
        return False

    @property
    def perturbed(self) -> tuple[Prediction, ...]:
        """The predictions of a perturbed network that it needs at some noise level."""
        return ()

    def embedded(self) -> Guidance | None:
        """Return its form for a network that reads the guidance scale itself; None: it has none."""
        return None

    def combines(self, prediction_type: str) -> str:
        """Return what it combines: `x0`, `flow` (velocities), or what the network predicts.

        Args:
            prediction_type: What the network predicts: `eps`, `v`, `x0` or `flow`.
        """
        if self.on_x0:
            return "x0"
        return "flow" if self.on_velocity else prediction_type

    def needs(self, sigma: float, cfg_scale: float) -> tuple[str, ...]:
        """Return the names of the predictions that are needed at a noise level.

        A name is that of a text: `cond` is with the prompt, `uncond` with the negative prompt,
        which is empty by default, `empty` always with the empty prompt. Others are a `Prediction`,
        which says how the network is steered, such as `Prediction("cond", LayersLeftOut((7,)))`.
        By default `uncond` and `cond`, or only one of them
        where the scale makes that the result.

        Args:
            sigma: The noise level.
            cfg_scale: The guidance scale of the request.
        """
        if cfg_scale == 0.0:
            return ("uncond",)
        return ("cond",) if cfg_scale == 1.0 else ("uncond", "cond")

    def texts(self, cfg_scale: float) -> tuple[str, ...]:
        """Return the texts that its predictions read at some noise level, of those of `TEXTS`.

        Args:
            cfg_scale: The guidance scale of the request.
        """
        return TEXTS if self.by_level else read_texts(self.needs(1.0, cfg_scale))

    def __call__(
        self, predictions: Mapping[str, Array], sigma: float, cfg_scale: float, memory: History
    ) -> tuple[Array, History]:
        """Return the guided prediction, and the memory of the next step.

        Args:
            predictions: The predictions that `needs` names, each (n, ...).
            sigma: The noise level.
            cfg_scale: The guidance scale of the request.
            memory: What the step before returned; () in the first step.

        Returns:
            (the guided prediction, in the shape of the predictions; a tuple).
        """
        raise NotImplementedError

    @property
    def record(self) -> dict[str, Any]:
        """Name and parameters as JSON, which `get_guidance` reads."""
        values = {name: write(getattr(self, name)) for name in get_fields(type(self))}
        return {"name": self.name} | values

    def evaluations(self, cfg_scale: float) -> int:
        """Return the largest number of predictions at any noise level, at the scale `cfg_scale`."""
        return len(self.needs(1.0, cfg_scale))


def read_guidance(cls: type[Guidance], parameters: Mapping[str, Any]) -> Guidance:
    """Return a guidance with parameters by name; others keep their defaults.

    One number stands for a list of one: `slg:layers=7` has no `+` that shows a list.

    Raises:
        UsageError: An unknown parameter, or a value that is not as declared.
    """
    lists = {name for name, field in get_fields(cls).items() if field.kind is tuple}
    named = {name: [x] if name in lists and type(x) is int else x for name, x in parameters.items()}
    try:
        return read(cls, named, cls.name)
    except Invalid as error:
        raise UsageError(str(error), code=CODE, hint=error.hint) from None
