"""Layers of a repeated run that return what was recorded, and where such a run ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import CALL, Part, X, followed, made, recorded  # noqa: E402

from ldmref.locate.modules.repeated import ResultForm  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402
from ldmref.trace.model import TraceEntry  # noqa: E402


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("output.0", "output.1"), "output.1"),
        (("0", "1"), "1"),
        (("b", "1"), "b"),
        (("1", "output.1"), "1"),
        (("0", "output.0"), None),
        ((), None),
    ],
)
def test_outputs_have_names_or_numbers(roles, expected):
    entry = TraceEntry(CALL, "a", outputs=dict.fromkeys(roles, "t"))
    form = ResultForm(None, {"a": torch.empty(0), "b": torch.empty(0)}, "")
    assert form.recorded_names(entry)[1] == expected and len(form) == 2


def test_layers_of_a_known_kind_return_one_array():
    form = ResultForm(None, {"output.0": torch.empty(0), "output.1": torch.empty(0)}, "linear")
    for role in ("output", "output.0", "0"):
        assert form.recorded_names(TraceEntry(CALL, "a", outputs={role: "t"})) == [role]


@pytest.mark.parametrize("numbers", [True, False])
def test_layers_whose_outputs_have_numbers_are_not_computed_again(numbers):
    """A wrong output is what the rest of the run follows from."""

    class Pair(torch.nn.Module):
        def forward(self, x):
            return x * 2.0, x * 3.0

    class Pairs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            first, second = self.pair(torch.cos(x))
            return first * second

    first, second = np.full((2, 2), 5.0), np.full((2, 2), 7.0)
    roles = ("0", "1") if numbers else ("output.0", "output.1")
    tensors = {"x": X.numpy(), "a": first, "b": second, "y": np.ones((2, 2))}
    entries = [
        {"call": CALL, "layer": "", "inputs": {"input": "x"}, "outputs": {"output": "y"}},
        {"call": CALL, "layer": "pair", "outputs": dict(zip(roles, "ab", strict=True))},
    ]
    network = Pairs()
    replay, observer = followed(network, build_trace(tensors, {"entries": entries}), x=X)
    whole = observer.find("")
    assert np.array_equal(whole.computed, np.full((2, 2), 35.0))
    assert np.array_equal(replay.rerun(whole), whole.computed)
    assert np.array_equal(replay.rerun(whole, low=True), whole.computed)


def test_outputs_that_were_not_recorded_are_computed_again_beside_those_that_were():
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x * 2.0, {"more": x * 3.0, "text": "t"}

    class Pairs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            first, second = self.pair(torch.cos(x))
            assert second["text"] == "t"
            return first * second["more"]

    tensors = {"x": X.numpy(), "b": np.full((2, 2), 7.0), "y": np.ones((2, 2))}
    entries = [
        {"call": CALL, "layer": "", "inputs": {"input": "x"}, "outputs": {"output": "y"}},
        {"call": CALL, "layer": "pair", "outputs": {"1": "b"}},
    ]
    replay, observer = followed(Pairs(), build_trace(tensors, {"entries": entries}), x=X)
    whole = observer.find("")
    np.testing.assert_allclose(whole.computed, 14.0 * torch.cos(X.double()).numpy(), rtol=1e-12)
    np.testing.assert_allclose(replay.rerun(whole), whole.computed, rtol=1e-12)


def test_a_video_of_one_frame_was_recorded_as_an_image():
    class Decoder(torch.nn.Module):
        def forward(self, x):
            return x[None, None, None] * torch.ones(1, 3, 1, 2, 2)

    class Decodes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = Decoder()

        def forward(self, x):
            return self.last(torch.cos(x)).sum()

    tensors = {"x": X.numpy(), "b": np.ones((1, 3, 2, 2)), "y": np.ones(())}
    entries = [
        {"call": CALL, "layer": "", "inputs": {"input": "x"}, "outputs": {"output": "y"}},
        {"call": CALL, "layer": "last", "outputs": {"output": "b"}},
    ]
    replay, observer = followed(Decodes(), build_trace(tensors, {"entries": entries}), x=X)
    assert observer.find("last").recorded.shape == (1, 3, 1, 2, 2)
    assert observer.find("").computed == replay.rerun(observer.find("")) == 12.0


def test_layers_of_the_second_call_of_a_layer_are_computed_again():
    """The first call, which is not computed again, counts the names within it all the same."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Part(2.0)

        def forward(self, x):
            return self.part(torch.cos(self.part(x)))

    network = made(Twice)
    trace = recorded(network, "", "part", "part~1", "part.inner", "part.inner~1", x=X)
    replay, observer = followed(network, trace, x=X)
    for point in observer.points:
        np.testing.assert_allclose(replay.rerun(point), point.computed, rtol=1e-5)
    second = observer.find("part.inner~1", "input")
    whole = replay.rerun(replace(second, frame=observer.find("").frame))
    np.testing.assert_allclose(whole, second.computed, rtol=1e-5)
