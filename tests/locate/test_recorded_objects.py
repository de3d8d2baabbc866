"""Results and arguments of modules in objects: recorded, compared, or said not to be."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers_output = pytest.importorskip("transformers.utils.generic").ModelOutput

import ldmref  # noqa: E402
from ldmref.locate import diff_modules  # noqa: E402


@dataclasses.dataclass
class Result:
    sample: torch.Tensor
    text: str = "a heart"


@dataclasses.dataclass(frozen=True)
class Frozen:
    sample: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slotted:
    sample: torch.Tensor


@dataclasses.dataclass
class Output(transformers_output):
    sample: torch.Tensor | None = None


class Named(NamedTuple):
    sample: torch.Tensor


class Plain:
    def __init__(self, sample):
        self.sample = sample
        self.scale = 2.0


class Slots:
    __slots__ = ("__hidden", "unset")

    def __init__(self, sample):
        self.__hidden = sample

    @property
    def sample(self):
        return self.__hidden


Pair = namedtuple("Pair", "number sample")

FORMS = {
    "tensor": lambda x: x,
    "dataclass": Result,
    "frozen": Frozen,
    "slotted dataclass": Slotted,
    "ModelOutput": lambda x: Output(sample=x),
    "NamedTuple": Named,
    "namedtuple": lambda x: Pair(1, x),
    "object": Plain,
    "slots": Slots,
    "namespace": lambda x: SimpleNamespace(sample=x),
    "dict": lambda x: {"sample": x},
    "ordered": lambda x: OrderedDict(sample=x),
    "proxy": lambda x: MappingProxyType({"sample": x}),
    "list": lambda x: [0.5, x],
    "nested": lambda x: {"first": [Result({"sample": Plain(x)})]},
    "in a tuple": lambda x: (None, Plain(Named(x))),
    "equal keys": lambda x: ({"sample": x * 0}, {"sample": x}),
}


def read(value):
    """Return the last tensor in a value."""
    if isinstance(value, torch.Tensor):
        return value
    if hasattr(value, "sample"):
        return read(value.sample)
    return read([*value.values()][-1] if isinstance(value, dict | MappingProxyType) else value[-1])


class Part(torch.nn.Module):
    """A layer that takes and returns its array in an object."""

    def __init__(self, form, factor):
        super().__init__()
        self.form = form
        self.factor = factor
        self.inner = torch.nn.Linear(8, 8)

    def forward(self, given):
        return self.form(self.factor * torch.sin(self.inner(read(given))))


class Net(torch.nn.Module):
    """A network that takes and returns its array in an object, and passes it in one."""

    def __init__(self, form, of_layer=1.0, of_network=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.of_network = of_network
        self.first = Part(form, of_layer)
        self.second = Part(form, 1.0)

    def forward(self, given):
        return self.form(self.of_network * read(self.second(self.first(given))))


def diffed(port, original, given):
    with torch.no_grad(), ldmref.recording(port, call="net") as run:
        port(given)
    return diff_modules(run.trace, original)


def given_to(form):
    return form(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_right_port_is_equal_with_all_its_results(form):
    report = diffed(Net(form), Net(form), given_to(form))
    assert report.verdict == "equal", (report.gaps, report.rows)
    assert {"", "first", "second"} <= {row.layer for row in report.rows}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("fault", "layer"), [("of_layer", "first"), ("of_network", "")])
def test_a_doubled_result_is_found_where_it_was_returned(form, fault, layer):
    report = diffed(Net(form, **{fault: 2.0}), Net(form), given_to(form))
    assert report.verdict == "differs"
    assert {row.layer for row in report.faults} == {layer}


def test_what_is_passed_to_a_layer_in_an_object_is_compared():
    class Between(Net):
        def forward(self, given):
            first = self.first(given)
            return self.form(read(self.second(self.form(1.5 * read(first)))))

    report = diffed(Between(Result), Net(Result), given_to(Result))
    assert [(row.layer, row.kind) for row in report.faults] == [("second", "wiring")]


class Hostile(dict):
    def items(self):
        raise RuntimeError("its parts are secret")


class Opaque:
    __slots__ = ()


class Lazy:
    """An object whose arrays only a function knows."""

    def __init__(self, x):
        self.get = lambda: x


UNREAD = {
    "set": (lambda x: {x}, "set"),
    "numpy": (lambda x: x.numpy(), "ndarray"),
    "numpy in a dataclass": (lambda x: Result(x.numpy()), "ndarray"),
    "iterator": (lambda x: iter([x]), "list_iterator"),
    "beside a tensor": (lambda x: (x, object()), "object"),
    "nothing": (lambda x: None, "NoneType"),
    "a number": (lambda x: float(x.sum()), "float"),
    "function": (lambda x: lambda: x, "function"),
    "lazy": (Lazy, "Lazy"),
    "opaque": (lambda x: Opaque(), "Opaque"),
    "error": (lambda x: Hostile(x=x), "its parts are secret"),
    "no array": (lambda x: Result("none"), "Result"),
}


class Ends(torch.nn.Module):
    """A network whose result, or that of its layer `shown`, has another form."""

    def __init__(self, form, inside):
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.inside = inside
        self.inner = torch.nn.Linear(8, 8)
        self.shown = Shown(form)

    def forward(self, x):
        x = self.inner(x)
        if self.inside:
            self.shown(x)
            return torch.sin(x)
        return self.form(x)


class Shown(torch.nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


@pytest.mark.parametrize(("form", "words"), UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("inside", [True, False])
def test_what_could_not_be_read_is_named_and_no_run_is_equal(form, words, inside):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = diffed(Ends(form, inside), Ends(form, inside), given_to(FORMS["tensor"]))
    assert report.verdict == "incomplete"
    said = " ".join(report.gaps)
    assert words in said
    assert ("net.000/shown" if inside else "net.000") in said
    assert any(words in str(warning.message) for warning in warned)


def test_an_argument_that_could_not_be_read_is_named():
    class Takes(torch.nn.Module):
        def forward(self, x, table):
            return x * 2

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.takes = Takes()

        def forward(self, x):
            return self.takes(x, np.ones(3))

    with pytest.warns(UserWarning, match="not recorded"):
        report = diffed(Net(), Net(), given_to(FORMS["tensor"]))
    assert report.verdict == "incomplete"
    assert "net.000/takes/input.table (no array is found in a ndarray)" in " ".join(report.gaps)


def test_arguments_of_one_name_are_both_recorded():
    class Twice(torch.nn.Module):
        def forward(self, x, more):
            return x + 2 * more["x"]

    x = given_to(FORMS["tensor"])
    port = Twice()
    with ldmref.recording(port, call="net") as run:
        port(x, {"x": 3 * x})
    found = run.trace.find("net.000").inputs
    assert [*found] == ["x", "more.x"]
    np.testing.assert_array_equal(run.trace.tensors[found["more.x"]], (3 * x).numpy())
    assert diff_modules(run.trace, Twice()).verdict == "equal"


def test_an_object_that_holds_itself_is_read_once():
    class Knot:
        def __init__(self, x):
            self.sample = x
            self.me = self
            self.parts = [self, {"me": self}]

    report = diffed(Net(Knot), Net(Knot), given_to(FORMS["tensor"]))
    assert report.verdict == "equal"
