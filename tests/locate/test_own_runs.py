"""Runs of a pipeline's first step, in which encoders answer with what a port recorded."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from module_runs import X, made, wide  # noqa: E402

from ldmref.locate.modules import own_run  # noqa: E402
from ldmref.locate.modules.own_run import EncoderCall, FirstStepEnded, OwnRun  # noqa: E402
from ldmref.locate.modules.repeated import NetworkCopies  # noqa: E402
from ldmref.trace import build_trace  # noqa: E402

IDS = torch.tensor([[1, 2, 0]])
MASK = torch.tensor([[1, 1, 0]])


class Encoder(torch.nn.Module):
    """A table of tokens, of which a mask hides some, and a layer."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(4, 2)
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, input_ids, attention_mask=None, scale=1.0, other_mask=None):
        x = self.layer(self.table(input_ids))
        x = x if attention_mask is None else x * attention_mask[..., None]
        return SimpleNamespaceOutput(states=x * scale)


class SimpleNamespaceOutput(dict):
    """An output with named parts."""

    @property
    def states(self):
        return self["states"]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.calls = 0

    def forward(self, x, scale=1.0):
        self.calls += 1
        y = self.inner(x)
        return y if scale is None else y * scale


class Scheduler:
    def __init__(self):
        self.times = [1]

    def step(self, *args):
        raise AssertionError


class Pipe:
    """A pipeline of an encoder and a network, which runs each once for its request."""

    def __init__(self):
        self.text_encoder, self.transformer = "own encoder", "own network"
        self.scheduler = Scheduler()
        self.bars = []
        self.seen = []

    def set_progress_bar_config(self, disable):
        self.bars.append(disable)

    def __call__(self, prompt, generator, end=True):
        prompt.append("changed")
        states = self.text_encoder(IDS, attention_mask=MASK)["states"]
        self.seen.append((prompt, torch.randn(1, generator=generator).item(), states))
        form = torch.zeros(1).dtype, torch.zeros(1, dtype=torch.float32).dtype
        self.seen.append((form, torch.is_grad_enabled()))
        self.seen.append(self.transformer(states.to(torch.float32), scale=2.0))
        if end:
            self.scheduler.step(1, 2)
            raise AssertionError


def run_of(port=None, request=None, pipe=None):
    networks = {
        "text_encoder": NetworkCopies(made(Encoder), "float32"),
        "transformer": NetworkCopies(made(Network), "float32"),
    }
    return OwnRun(pipe or Pipe(), networks, port or build_trace({}), request or {"prompt": []})


@pytest.fixture
def recordings(monkeypatch):
    """Return what was recorded: the pipelines with their selections."""
    seen = []

    @contextmanager
    def recording(made_, selection):
        run = SimpleNamespace(trace=f"trace {len(seen)}")
        seen.append((made_, selection))
        yield run
        warnings.warn("not recorded to its end", stacklevel=1)

    monkeypatch.setattr(own_run, "recording", recording)
    return seen


# -- the run --------------------------------------------------------------------------------------


def test_a_pipeline_runs_until_its_first_step_ends(recordings):
    run = run_of(request={"prompt": ["a"]})
    pipe, scheduler = run.pipe, run.pipe.scheduler
    with warnings.catch_warnings(action="error"):
        assert run.record() == "trace 0" and run.record() == "trace 1"
    copied, selection = recordings[0]
    assert copied is not pipe and pipe.text_encoder == "own encoder"
    assert copied.text_encoder is run.networks["text_encoder"].exact.network
    assert copied.transformer is run.networks["transformer"].exact.network
    assert pipe.scheduler is scheduler is not copied.scheduler and pipe.bars == [True, True]
    assert run.request == {"prompt": ["a"]}
    (prompt, noise, _), (forms, grad), _ = pipe.seen[:3]
    assert prompt == ["a", "changed"] and pipe.seen[3][:2] == (prompt, noise)
    assert forms == (torch.float32, torch.float64) and not grad
    assert noise == torch.randn(1, generator=torch.Generator().manual_seed(own_run.SEED)).item()
    assert selection.layers == ("-",) and selection.optional
    assert run.networks["transformer"].exact.network.calls == 1  # it answered as before
    assert run._calls == Counter(text_encoder=1, transformer=1)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


def test_a_pipeline_may_have_no_scheduler_and_no_progress_bar(recordings):
    class Plain:
        def __init__(self):
            self.text_encoder = self.transformer = None

        def __call__(self, prompt, generator):
            return self.transformer(wide(X))

    run = run_of(pipe=Plain())
    assert run.record() == "trace 0" and not hasattr(recordings[0][0], "scheduler")


def test_layers_that_are_recorded_let_their_networks_run_again(recordings):
    run = run_of()
    network = run.networks["transformer"].exact.network
    run.record()
    run.record(layers=["inner"])
    assert network.calls == 2 and recordings[-1][1].layers == ("inner", "-")
    assert {name for name, _ in run._answers} == {"text_encoder", "transformer"}
    answer = run._answers["text_encoder", 0]
    run.record(layers=["inner"])
    assert run._answers["text_encoder", 0] is answer and network.calls == 3


def test_the_output_of_an_encoder_may_be_changed(recordings):
    run = run_of()
    run.record()
    run.record(lambda output: {"states": output["states"] * 2.0})
    run.record()
    first, second, third = (found[2] for found in run.pipe.seen[::3])
    assert torch.equal(second, 2.0 * first) and torch.equal(first, third)


def test_a_changed_output_is_a_copy(recordings):
    run = run_of()
    seen = []

    def change(output):
        seen.append(output)
        output["more"] = 1
        return output

    run.record(change)
    run.record(change)
    assert "more" not in run._answers["text_encoder", 0] and seen[0] is not seen[1]


def test_networks_answer_while_a_block_runs():
    run = run_of()
    network = run.networks["transformer"].exact.network
    watched = vars(network).get("forward")
    with pytest.raises(ZeroDivisionError), run._answering():
        assert vars(network)["forward"] is not watched
        raise ZeroDivisionError
    assert vars(network).get("forward") is watched
    network.forward = before = lambda x: x
    with run._answering():
        assert network.forward is not before
    assert network.forward is before


def test_a_network_within_itself_is_computed():
    run = run_of()
    copies = run.networks["transformer"]
    answer = run._answer("transformer", copies, lambda x: x + 1)
    run._inside = True
    assert answer(1) == 2 and not run._calls and not run._answers
    run._inside = False
    assert answer(1) == 2 and answer(5) == 6 and run._calls == Counter(transformer=2)
    run._calls.clear()
    assert answer(9) == 2 and answer(9) == 6  # as the calls of these numbers did


# -- arguments that are not tensors ---------------------------------------------------------------


def test_arguments_of_layers_are_noted_once():
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Network()

        def forward(self, x):
            return self.inner(self.inner(x, scale=2.0), scale=3.0)

    run, network = run_of(), Outer()
    with run._noting(("transformer", 0), network):
        network(X)
        network.inner.inner(input=X)
    with torch.no_grad():
        network.inner(X, scale=5.0)
    assert run.settings == {("transformer", 0): {"inner": {"scale": 2.0}, "inner.inner": {}}}
    hooks = [part._forward_pre_hooks for part in network.modules()]
    assert not any(hooks)
    with run._noting(("transformer", 1), network):
        network.inner(x=X, scale=None)
    assert run.settings["transformer", 1] == {"inner": {"scale": None}, "inner.inner": {}}
    assert len(run.settings) == 2


@pytest.mark.parametrize(
    ("x", "plain"),
    [
        (1, True), (True, True), (1.5, True), ("a", True), (slice(1, 2), True), ([1, "a"], True),
        ((1, [2.0, (False,)]), True), ([], True), (None, False), ([1, None], False), ({}, False),
        (torch.ones(1), False), ([[torch.ones(1)]], False), (Network, False), (1j, False),
    ],
)  # fmt: skip
def test_plain_arguments(x, plain):
    assert own_run.is_plain(x) == plain


# -- states of the port ---------------------------------------------------------------------------


def port_of(ids=IDS, mask=MASK, states=None, layer=None, number=0, other=None):
    """Return the trace of a port's encoder."""
    call = f"text_encoder.{number:03}"
    tensors = {}
    for role, x in (("input_ids", ids), ("attention_mask", mask), ("other_mask", other)):
        if x is not None:
            tensors[f"{call}//input.{role}"] = np.asarray(x)
    if states is not None:
        tensors[f"{call}//output.states"] = np.asarray(states)
    if layer is not None:
        tensors[f"{call}/layer/output"] = np.asarray(layer, np.float32)
    return build_trace(tensors)


def answered(port, ids=IDS, key=("text_encoder", 0), **arguments):
    """Return the run, and the answer of its encoder."""
    run = run_of(port)
    copies = run.networks["text_encoder"]
    forward = copies.exact.network.forward
    with torch.no_grad():
        arguments = arguments or {"attention_mask": MASK}
        found = run._port_states(key, copies, forward, (ids,), arguments)
    assert not run._inside and copies.exact.network.forward == forward
    return run, found["states"]


def encoded(ids=IDS, mask=MASK, scale=1.0):
    with torch.no_grad():
        return made(Encoder).double()(ids, mask, scale)["states"]


def test_an_encoder_reads_what_the_port_gave_to_its_own():
    other = torch.tensor([[3, 1, 2]])
    run, states = answered(port_of(ids=other, mask=1 - MASK))
    assert torch.allclose(states, encoded(other, 1 - MASK)) and run.foreign == set()
    (call,) = run.encoders.values()
    assert isinstance(call, EncoderCall) and call.hooks == ()
    assert torch.equal(call.arguments["input_ids"], other)
    assert torch.equal(call.arguments["attention_mask"], 1 - MASK)
    assert [*run.encoders] == ["text_encoder.000"]
    run, states = answered(port_of(mask=None))
    assert torch.allclose(states, encoded(mask=None))
    assert next(iter(run.encoders.values())).arguments["attention_mask"] is None
    run, states = answered(port_of(mask=None), attention_mask=MASK, other_mask=MASK, scale=2.0)
    assert torch.allclose(states, encoded(mask=None, scale=2.0))
    some = port_of(mask=None, other=MASK)
    run, states = answered(some, attention_mask=MASK, other_mask=1 - MASK)
    given = next(iter(run.encoders.values())).arguments
    assert given["attention_mask"] is None and torch.equal(given["other_mask"], MASK)
    run, states = answered(port_of(ids=None))
    assert torch.allclose(states, encoded()) and run.foreign == set()
    run, states = answered(port_of(), attention_mask=MASK, scale=3.0)
    assert torch.allclose(states, encoded(scale=3.0))
    run, states = answered(port_of(ids=other, mask=None), attention_mask=None)
    assert torch.allclose(states, encoded(other, None))


def test_an_encoder_answers_with_the_states_of_the_port():
    layer = np.full((1, 3, 2), 0.5)
    _, states = answered(port_of(layer=layer))
    assert torch.equal(states, torch.tensor(layer) * MASK[..., None])
    _, states = answered(port_of(layer=layer[:, :2]))  # which does not fit
    assert torch.allclose(states, encoded())


def test_encoders_that_were_called_otherwise_are_foreign():
    run, states = answered(port_of(ids=torch.tensor([[3, 1]])))
    assert run.foreign == {"text_encoder"} and torch.allclose(states, encoded())
    assert torch.equal(next(iter(run.encoders.values())).arguments["input_ids"], IDS)
    run, states = answered(port_of(number=1))
    assert run.foreign == {"text_encoder"} and run.encoders == {}
    assert torch.allclose(states, encoded())
    run, _ = answered(port_of(number=1), key=("text_encoder", 1))
    assert run.foreign == set() and [*run.encoders] == ["text_encoder.001"]
    alone = build_trace({"text_encoder.000/layer/output": np.ones((1, 3, 2), np.float32)})
    run, _ = answered(alone)
    assert run.foreign == {"text_encoder"}
    assert answered(alone)[0].encoders == {}


def test_hooks_of_the_pipeline_are_those_that_the_recording_did_not_add():
    run = run_of(port_of())
    copies = run.networks["text_encoder"]
    network = copies.exact.network

    def ours(module, args, output):
        return None

    def theirs(module, args, output):
        return None

    network.table.register_forward_hook(ours)
    run._hooks = [*own_run._hooks_of(network)]
    network.layer.register_forward_hook(theirs)
    with torch.no_grad():
        run._port_states(("text_encoder", 0), copies, network.forward, (IDS,), {})
    assert next(iter(run.encoders.values())).hooks == (("layer", theirs),)
    theirs.__module__ = "transformers.utils"
    assert [*own_run._hooks_of(network)] == [("table", ours)]
    theirs.__module__ = "transformers_of_others"
    network.register_forward_hook(ours)
    assert [*own_run._hooks_of(network)] == [("", ours), ("table", ours), ("layer", theirs)]


def test_recorded_arrays_are_taken_if_they_have_the_shape():
    judge = own_run._Accepted()
    point = SimpleNamespace(recorded=np.ones((2, 2)), computed=np.zeros((2, 2)))
    assert judge.observe(None, point) is point.recorded
    point.computed = np.zeros((1, 2))
    assert judge.observe(None, point) is point.computed
    assert judge.skip("a", "b") is None is judge.refuse("a", "b", "c")


def test_calls_are_found_by_name_and_number():
    port = build_trace({f"{x}//input": X.numpy() for x in ("a.000", "a.001", "b.001")})
    assert own_run.find_call(port, "a", 1) == "a.001" and own_run.find_call(port, "b", 1) == "b.001"
    assert own_run.find_call(port, "b", 0) is None and own_run.find_call(port, "c", 0) is None


def test_the_step_of_a_scheduler_ends_the_run():
    scheduler = Scheduler()
    ending = own_run._ending(scheduler)
    with pytest.raises(FirstStepEnded):
        ending.step(1, x=2)
    assert ending is not scheduler and ending.times == [1] and ending.times is not scheduler.times
    assert "step" not in vars(scheduler) and not issubclass(FirstStepEnded, Exception)
