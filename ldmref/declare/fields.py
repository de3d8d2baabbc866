"""The marks of an annotation, and the declared fields of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

Mark = TypeVar("Mark")


class Range(NamedTuple):
    """The interval of a number, or of every number of a tuple, with both ends included.

    Args:
        low: The smallest number.
        high: The largest number.
        above: Whether `low` itself is excluded.

    >>> from ldmref.declare import Range
    >>> Range(0.0, 1.0, above=True).holds(0.0), str(Range(1, 1000))
    (False, 'from 1 to 1000')
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # exclude the low end

    def holds(self, number: float) -> bool:
        """Return whether `number` is in the interval; NaN is not."""
        return self.low <= number <= self.high and not (self.above and number == self.low)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low:g} and at most {self.high:g}"
        low, high = (n if isinstance(n, int) else f"{n:g}" for n in (self.low, self.high))
        return f"of at least {low}" if self.high == math.inf else f"from {low} to {high}"


class Length(NamedTuple):
    """The number of entries of a tuple.

    Args:
        low: The smallest number of entries.
        high: The largest number of entries.

    >>> from ldmref.declare import Length
    >>> Length(1, 10).high
    10
    """

    low: int
    high: int


class Names(NamedTuple):
    """A non-empty tuple of some of these names.

    Args:
        names: The names that are allowed.
        prefix: Whether the tuple must be the first ones in this order.

    >>> from ldmref.declare import Names
    >>> Names(("autoencoder", "diffusion"), prefix=True).holds(("diffusion",))
    False
    """

    names: tuple[str, ...]
    prefix: bool = False

    def holds(self, value: tuple[Any, ...]) -> bool:
        """Return whether the tuple `value` is allowed."""
        if self.prefix:
            return len(value) > 0 and value == self.names[: len(value)]
        return len(value) > 0 and all(name in self.names for name in value)

    def __str__(self) -> str:
        if not self.prefix:
            return f"a list of some of {', '.join(self.names)}"
        return " or ".join(str(list(self.names[: i + 1])) for i in range(len(self.names)))


class Doc(NamedTuple):
    """The description of a field.

    Args:
        text: One or more sentences.
        none: The meaning of None, where that is the default, such as "the model's setting".

    >>> from ldmref.declare import Doc
    >>> Doc("Sampler steps.", "the model's setting").none
    "the model's setting"
    """

    text: str
    none: str = ""


@dataclasses.dataclass(frozen=True, eq=False)  # hashable, which `Annotated[...] | None` requires
class Check:
    """The check of a value that is not a number, a text or a flag, such as an array.

    Args:
        function: `function(name, value)` returns the value in its own type, or raises an error.
            It accepts its own results, and a default other than None and () passes through it.
        json: The JSON schema of the value.

    >>> from ldmref.declare import Check
    >>> upper = Check(lambda name, value: str(value).upper(), json={"type": "string"})
    >>> upper.function("word", "cat")
    'CAT'
    """

    function: Callable[[str, Any], Any]
    json: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Flag(NamedTuple):
    """The flag of a field on the command line, where name and type do not say it.

    Args:
        names: The flags; () if the command declares its own. None: `--name`.
        metavar: The placeholder of the value. With it, choices are checked with the other
            values. None: the type says it.
        parse: `parse(text)` returns the value. None: the type does.
        multiple: Whether the flag may be repeated, for a list of values.
        help: The help text, where the description of the field speaks of Python.

    >>> from ldmref.declare import Flag
    >>> Flag(("-n", "--steps"), metavar="N").names
    ('-n', '--steps')
    """

    names: tuple[str, ...] | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    multiple: bool = False
    help: str = ""


class Attachment(NamedTuple):
    """What a field holds that is not plain JSON, so that each interface says how it comes.

    Args:
        kind: `image`; `images`, a list of them; `array`, of numbers; `controlnet`, networks with
            their images; or `model`.

    >>> from ldmref.declare import Attachment
    >>> Attachment("image").kind
    'image'
    """

    kind: Literal["image", "images", "array", "controlnet", "model"]


class Formerly(NamedTuple):
    """An earlier name of a field, which is still read.

    Args:
        name: The name.

    >>> from typing import Annotated
    >>> from dataclasses import make_dataclass
    >>> from ldmref.declare import Formerly, read
    >>> Data = make_dataclass("Data", [("images", Annotated[int, Formerly("pictures")])])
    >>> read(Data, {"pictures": 3}).images
    3
    """

    name: str


class Field(NamedTuple):
    """A declared field, from `get_fields`.

    Args:
        name: Its name.
        kind: Its type: bool, int, float, str, tuple, a dataclass, or object for other types.
        element: The type of a tuple's entries; None for others.
        optional: Whether None is allowed.
        choices: The texts that are allowed; () for others.
        default: The default; `dataclasses.MISSING` for a required field.
        marks: The marks of its annotation by class.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Range, get_fields
    >>> Settings = make_dataclass("Settings", [("steps", Annotated[int, Range(1, 1000)], 20)])
    >>> field = get_fields(Settings)["steps"]
    >>> field.kind, field.default, field.get(Range).high
    (<class 'int'>, 20, 1000)
    """

    name: str
    kind: Any  # bool, int, float, str, tuple, a dataclass, or object for other types
    element: Any  # the type of a tuple's entries
    optional: bool  # None is allowed
    choices: tuple[str, ...]
    default: Any  # dataclasses.MISSING for a required field
    marks: Mapping[type, Any]

    @property
    def attachment(self) -> str:
        """The kind of its mark `Attachment`, "" for plain JSON."""
        mark = self.get(Attachment)
        return "" if mark is None else mark.kind

    @property
    def required(self) -> bool:
        """Whether the field has no default."""
        return self.default is dataclasses.MISSING

    def get(self, mark: type[Mark]) -> Mark | None:
        """Return the field's mark of the class `mark`, or None."""
        return self.marks.get(mark)


def read_hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and its bases, with their marks.

    Equals `typing.get_type_hints(cls, include_extras=True)`, but evaluates each base only once.

    Args:
        cls: The class.

    Returns:
        The annotation of each field by name.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, read_hints
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> read_hints(Settings)["steps"].__metadata__[0]
    Range(low=1, high=1000, above=False)
    """
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        hints |= _read_own_hints(base)
    return hints


@functools.cache
def _read_own_hints(cls: type) -> Mapping[str, Any]:
    return inspect.get_annotations(cls, eval_str=True)


@functools.cache
def get_fields(cls: type) -> Mapping[str, Field]:
    """Return the declared fields of a dataclass by name, in the order of its constructor.

    Args:
        cls: The dataclass.

    Returns:
        The fields; the same object for the same class.

    >>> from dataclasses import make_dataclass
    >>> from typing import Annotated
    >>> from ldmref.declare import Doc, Range, get_fields
    >>> steps = Annotated[int, Range(1, 1000), Doc("Sampler steps.")]
    >>> Settings = make_dataclass("Settings", [("steps", steps, 20)])
    >>> list(get_fields(Settings))
    ['steps']
    """
    hints = read_hints(cls)
    fields = {}
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.kw_only is True):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields[field.name] = _field(field.name, hints[field.name], default)
    return fields


def _field(name: str, hint: object, default: object) -> Field:
    marks: dict[type, Any] = {}
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        marks = {type(mark): mark for mark in extras}
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional = NoneType in kinds
    kind, *more = (k for k in kinds if k is not NoneType)
    kind = object if more else kind
    if get_origin(kind) is Annotated:  # Annotated[...] | None
        inner = _field(name, kind, default)
        return inner._replace(optional=optional, marks={**inner.marks, **marks})
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    element = get_args(kind)[0] if get_origin(kind) is tuple else None
    kind = str if choices else get_origin(kind) or kind
    return Field(name, kind, element, optional, choices, default, marks)
