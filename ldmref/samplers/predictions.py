"""What a guidance asks a network for: predictions, and how the network is steered for them.

A `Prediction` has the text that the network reads and, unless the network runs as it is, a
`Steering`: which of its layers are replaced, or by which model it is. It is a string, its name in
recordings, so that what a guidance gets is found by the object and by its name alike:

    skipped = Prediction("cond", LayersLeftOut((7, 8)))   # == "skipped_7_8"

A package adds a kind of steering by a frozen dataclass; its fields are numbers and words.

    @dataclass(frozen=True)
    class HalvedAttention(Steering):
        \"\"\"Half of what some layers compute.\"\"\"

        kind = "halved"
        layer: str

        def replace(self, layer):
            y = layer.compute()
            return 0.5 * y if layer.name.endswith(self.layer) else y

    [project.entry-points."ldmref.steering"]
    halved = "my_package:HalvedAttention"

The entry point is how tools find the kind of a recorded run; a guidance uses the object itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

from ldmref.errors import UsageError
from ldmref.support.plugins import describe_origin, find_plugin, load_plugin

TEXTS = ("uncond", "cond", "empty")
"""The texts of predictions: the negative prompt, the prompt, and the empty prompt."""
GROUP = "ldmref.steering"


class SteerableNetwork(Protocol):
    """What a denoiser declares about its steering."""

    @property
    def block_count(self) -> int:
        """The number of blocks that may be left out."""
        ...

    @property
    def steerable_parts(self) -> Collection[str]:
        """The names of the parts whose self-attention may become the identity."""
        ...

    @property
    def reads_by_attention(self) -> bool:
        """Whether it reads its text by attention."""
        ...

    @property
    def guides_attention(self) -> bool:
        """Whether it declares how its attention reads two texts."""
        ...


class SteeredCall(Protocol):
    """A layer of a steered network, or the network itself, that is about to be computed."""

    @property
    def name(self) -> str:
        """The name of its parameters in diffusers; "" is the network itself."""
        ...

    @property
    def kind(self) -> str:
        """The name of the function that computes it."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Its arguments after its parameters, by name."""
        ...

    @property
    def block(self) -> int | None:
        """Its number if it is one of the blocks that may be left out."""
        ...

    def leave_out(self) -> Any:
        """Return its input as its output."""
        ...

    def is_self_attention(self, parts: Sequence[str]) -> bool:
        """Return whether it is self-attention in one of these parts of the network."""
        ...

    def attend_identically(self) -> Any:
        """Compute self-attention whose map is the identity."""
        ...

    def guide_attention(self, numbers: Sequence[float]) -> Any:
        """Compute it for two texts; attention to both is combined with these numbers."""
        ...

    def compute(self, **changes: Any) -> Any:
        """Compute it, with some arguments changed."""
        ...


@dataclass(frozen=True)
class Steering:
    """How the network differs for a prediction; the base class of all kinds.

    A kind is a frozen dataclass; its fields are hashable, as networks are compiled for each. It
    overrides `replace`, and `find_problem` where not every network can be steered like this.

    Attributes:
        kind: Its name, with which the names of its predictions begin, and its entry point.
        argument: The name of its values in recorded calls of networks. "": its kind.
        texts: The texts that the network reads for each image, one after the other. (): that of the
            prediction.
        by_guide: Whether the request's second model predicts, which is its `guide`.

    >>> from ldmref.samplers import LayersLeftOut
    >>> LayersLeftOut((7, 8)).name, LayersLeftOut((7, 8)).recorded
    ('skipped_7_8', {'skip_layers': (7, 8)})
    """

    kind: ClassVar[str] = ""
    argument: ClassVar[str] = ""
    texts: ClassVar[tuple[str, ...]] = ()
    by_guide: ClassVar[bool] = False

    @property
    def values(self) -> tuple[Any, ...]:
        """Its numbers and words, from which `from_values` makes an equal one."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        """Return the steering with these values.

        Raises:
            TypeError: They are too many, or too few.
            ValueError: They are of another kind.
        """
        return cls(*values)

    @property
    def name(self) -> str:
        """The name of the prediction with the prompt in recordings: its kind and its values."""
        return "_".join((self.kind, *map(str, self.values)))

    @property
    def recorded(self) -> dict[str, tuple[Any, ...]]:
        """What recordings of the network have of it; {} if it steers no layer."""
        return {} if self.by_guide else {self.argument or self.kind: self.values}

    def find_problem(self, network: SteerableNetwork) -> str:
        """Return why a network cannot be steered like this, as the rest of a sentence; or ""."""
        return ""

    def replace(self, call: SteeredCall) -> Any:
        """Return what a layer returns; the network itself is the call without a name."""
        return call.compute()


@dataclass(frozen=True)
class LayersLeftOut(Steering):
    """Some blocks return their input (skip-layer guidance).

    Attributes:
        layers: Their numbers, from 0.

    >>> from ldmref.samplers import LayersLeftOut
    >>> LayersLeftOut((7, 8)).name
    'skipped_7_8'
    """

    kind = "skipped"
    argument = "skip_layers"
    layers: tuple[int, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers of the blocks."""
        return self.layers

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        return cls(tuple(int(number) for number in values))

    def find_problem(self, network: SteerableNetwork) -> str:
        count = network.block_count
        if not count:
            return f"takes no {self.argument}"
        inside = all(0 <= layer < count for layer in self.layers)
        return "" if inside else f"has the layers 0 to {count - 1}"

    def replace(self, call: SteeredCall) -> Any:
        return call.leave_out() if call.block in self.layers else call.compute()


@dataclass(frozen=True)
class PartsPerturbed(Steering):
    """The maps of self-attention in some parts are the identity (perturbed-attention guidance).

    Attributes:
        parts: Their names, as the family declares them.

    >>> from ldmref.samplers import PartsPerturbed
    >>> PartsPerturbed(("mid",)).name, PartsPerturbed(("down", "mid", "up")).name
    ('perturbed_mid', 'perturbed_all')
    """

    kind = "perturbed"
    argument = "identity_attention"
    parts: tuple[str, ...]

    ALL: ClassVar[tuple[str, ...]] = ("down", "mid", "up")

    @property
    def values(self) -> tuple[str, ...]:
        """The names of the parts."""
        return self.parts

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        parts = tuple(str(part) for part in values)
        return cls(cls.ALL if parts == ("all",) else parts)

    @property
    def name(self) -> str:
        """`perturbed_mid`; `perturbed_all` is that of all parts of a U-Net."""
        return "_".join((self.kind, *(("all",) if self.parts == self.ALL else self.parts)))

    def find_problem(self, network: SteerableNetwork) -> str:
        known = network.steerable_parts
        if not known:
            return f"takes no {self.argument}"
        unknown = [part for part in self.parts if part not in known]
        return f"has the parts {', '.join(known)}, not {unknown[0]!r}" if unknown else ""

    def replace(self, call: SteeredCall) -> Any:
        if call.is_self_attention(self.parts):
            return call.attend_identically()
        return call.compute()


@dataclass(frozen=True)
class AttentionGuided(Steering):
    """Attention to the prompt is guided away from the negative prompt (normalised guidance).

    Attributes:
        scale: As of `ldmref.math.normalized_attention_guidance`.
        tau: The largest norm of a guided output, in norms of the output for the prompt.
        alpha: Weight of the guided output. None: the network's own.

    >>> from ldmref.samplers import AttentionGuided
    >>> AttentionGuided(5.0, 2.5).name
    'attended_5.0_2.5'
    """

    kind = "attended"
    argument = "attention_guidance"
    texts = ("uncond", "cond")
    scale: float
    tau: float
    alpha: float | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers that are not None."""
        numbers = (self.scale, self.tau, *(() if self.alpha is None else (self.alpha,)))
        return tuple(float(number) for number in numbers)

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> Self:
        return cls(*(float(number) for number in values))

    def find_problem(self, network: SteerableNetwork) -> str:
        if not network.reads_by_attention:
            return "does not read its text by attention"
        return "" if network.guides_attention else f"takes no {self.argument}"

    def replace(self, call: SteeredCall) -> Any:
        return call.guide_attention(self.values)


@dataclass(frozen=True)
class WeakerModel(Steering):
    """A second, weaker model predicts (autoguidance).

    >>> from ldmref.samplers import Prediction, WeakerModel
    >>> Prediction("cond", WeakerModel())
    'guide'
    """

    kind = "guide"
    by_guide = True


BUILT_IN: tuple[type[Steering], ...] = (LayersLeftOut, PartsPerturbed, AttentionGuided, WeakerModel)


class Prediction(str):
    """A prediction of the network, as a guidance asks for it: a string, its name in recordings.

    Args:
        text: The text that the network reads, of `TEXTS`.
        steering: How the network differs. None: it is as it is.

    >>> from ldmref.samplers import LayersLeftOut, Prediction
    >>> skipped = Prediction("cond", LayersLeftOut((7, 8)))
    >>> skipped, skipped.steering, skipped.texts
    ('skipped_7_8', LayersLeftOut(layers=(7, 8)), ('cond',))
    """

    text: str
    steering: Steering | None

    def __new__(cls, text: str, steering: Steering | None = None) -> Self:
        own = text if steering is None else steering.name
        made = super().__new__(cls, f"{text}_{own}" if steering and text != "cond" else own)
        made.text = text
        made.steering = steering
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.text, self.steering

    @property
    def name(self) -> str:
        """Its name in recordings."""
        return str(self)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the network reads for it, in their order."""
        return (self.steering and self.steering.texts) or (self.text,)

    @property
    def by_guide(self) -> bool:
        """Whether the request's second model makes it."""
        return self.steering is not None and self.steering.by_guide


GUIDE = Prediction("cond", WeakerModel())  # of a second, weaker model with the prompt


def read_prediction(name: str) -> Prediction | None:
    """Return the prediction of a name in a recording, or of a guidance; None if there is none.

    >>> read_prediction("attended_5.0_2.5").steering
    AttentionGuided(scale=5.0, tau=2.5, alpha=None)
    """
    if isinstance(name, Prediction):
        return name
    if name in TEXTS:
        return Prediction(name)
    first, _, rest = name.partition("_")
    text = first if first in TEXTS and rest else "cond"
    kind, *words = (rest if text == first else name).split("_")
    found = find_steering(kind)
    if found is None:
        return None
    with suppress(TypeError, ValueError):
        made = Prediction(text, found.from_values([_read_word(word) for word in words]))
        return made if made == name else None
    return None


def read_steering(recorded: Mapping[str, Any]) -> list[Steering]:
    """Return how a recorded call of a network was steered, by its attributes.

    >>> read_steering({"skip_layers": [7, 8], "conditioning_scale": 1.0})
    [LayersLeftOut(layers=(7, 8))]
    """
    found = []
    for name, values in recorded.items():
        kind = find_steering(name, recorded=True) if isinstance(values, list | tuple) else None
        if kind is not None and values:
            with suppress(TypeError, ValueError):
                found.append(kind.from_values(values))
    return found


def find_steering(name: str, recorded: bool = False) -> type[Steering] | None:
    """Return a kind of steering by its name; None if there is none.

    Args:
        name: Its name.
        recorded: Whether it is that in recorded calls of networks (`Steering.argument`).

    Raises:
        UsageError: A plug-in of that name cannot be used.
    """
    for known in BUILT_IN:
        if name == (known.argument if recorded else known.kind):
            return known
    point = find_plugin(GROUP, name)
    if point is None:
        return None
    found = load_plugin(point)
    if not (isinstance(found, type) and issubclass(found, Steering) and found.kind == point.name):
        message = f"{describe_origin(point)} is not a Steering of that kind"
        raise UsageError(message, code="E-PLUGIN", hint="update or uninstall it")
    return found


def calls_of(predictions: Iterable[Prediction]) -> list[tuple[Prediction, ...]]:
    """Return which predictions a network computes in each of its calls, in their order.

    Those of the network as it is are one batch, in their order; each other has a call.

    >>> calls_of([Prediction("uncond"), Prediction("cond"), GUIDE])
    [('uncond', 'cond'), ('guide',)]
    """
    listed = [*predictions]
    plain = tuple(prediction for prediction in listed if prediction.steering is None)
    alone = [(prediction,) for prediction in listed if prediction.steering is not None]
    return [plain, *alone] if plain else alone


def read_texts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that predictions of these names read, in the order of `TEXTS`.

    >>> read_texts(("uncond", "attended_5.0_2.5")), read_texts(("cond", "perturbed_mid"))
    (('uncond', 'cond'), ('cond',))
    """
    known = [read_prediction(name) for name in names]
    read = {text for prediction in known if prediction is not None for text in prediction.texts}
    return tuple(text for text in TEXTS if text in read)


def _read_word(word: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return word
