"""The numbers of classes that a denoiser is given, of a model that makes them of its prompts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, model_of, normal

from ldmref.locate.pipeline.classes import judge_class_labels
from ldmref.models.conditioning import Conditioning
from ldmref.models.declared import CallSize, NetworkInput

LABELS = NetworkInput("labels", "class_labels", (CallSize("batch"),), "labels", also=("y",))
NAMES = ("", "red", "cat", "dog")  # of the classes 0 to 3


class Labelled:
    """A model whose denoiser reads the number of the class that a prompt names."""

    def __init__(self, more: bool = True, encoder: bool = False):
        self.own = model_of("tiny")

        def encode(ops, configs, tokens, compile_network, *_):
            if encoder:
                compile_network(None, "text_encoder")
            return tokens[0]

        def condition_text(ops, config, tokens, size):
            numbers = {tuple(self.ids(name)): i for i, name in enumerate(NAMES)}
            label = numbers[tuple(np.ravel(tokens.ids))]
            return Conditioning(None, more={"labels": np.array([label])} if more else {})

        text = SimpleNamespace(encode=encode, condition_text=condition_text)
        self.family = SimpleNamespace(text=text)
        inputs = (*self.own.denoiser.inputs, LABELS)
        self.denoiser = replace(self.own.denoiser, inputs=inputs)

    def ids(self, prompt):
        return np.ravel(self.own.tokenizer.tokenize([prompt]).ids)

    def __getattr__(self, name):
        return getattr(self.own, name)


def rows_of(got, role="class_labels", images=1, model=None, state=True, **request):
    """Return the rows of a call with both halves of a batch, and what was said of the input."""
    parts = 1 if request.pop("alone", False) else 2
    x = normal(0, images, 4, 8, 8)
    network = {
        "input.sample": np.concatenate([x] * parts),
        f"input.{role}": np.asarray(got),
        "output": np.concatenate([x] * parts),
    }
    guidance = {"input.uncond": x, "input.cond": x, "output": x}
    calls = {"unet.000": network}
    calls |= {"guidance.000": guidance} if parts == 2 else {}
    calls["sampler.000"] = {"input.x": x, "output": x} if state else {"output": x}
    context = context_of(calls, params={"prompt": "cat", **request})
    context = replace(context, model=model or Labelled())
    rows = list(judge_class_labels(context))
    network_entry = context.port.find("unet.000")
    return rows, context.ledger, network_entry


def verdict(*arguments, **more):
    rows, ledger, network = rows_of(*arguments, **more)
    (row,) = rows
    assert ledger.has(network, more.get("role", "class_labels"))
    assert (row.call, row.kind) == ("unet.000", "classes")
    assert row.segment == "from the prompts to the denoiser's classes"
    return row.verdict


def test_classes_are_those_of_the_prompts():
    assert verdict([0, 2]) == "equal"  # the empty prompt, and the cat
    assert verdict([2, 0]) == "differs"
    assert verdict([0, 1]) == "differs"
    assert verdict([0, 2], role="y") == "equal"
    assert verdict([1, 2], negative_prompt="red") == "equal"
    assert verdict([2], alone=True) == "equal"
    assert verdict([3], alone=True) == "differs"


def test_classes_are_those_that_a_pipeline_was_asked_for():
    """By the argument that has the name of the denoiser's; the empty prompt is the null class."""
    assert verdict([0, 3], prompt=None, class_labels=[3]) == "equal"
    assert verdict([3, 0], prompt=None, class_labels=[3]) == "differs"
    assert verdict([0, 2], prompt=None, class_labels=[3]) == "differs"
    assert verdict([0, 3], role="y", prompt=None, y=3) == "equal"
    assert verdict([0, 0, 2, 3], images=2, prompt=None, class_labels=[2, 3]) == "equal"


def test_images_of_a_prompt_follow_each_other():
    prompts = {"prompt": ["cat", "dog"], "images": 4}
    assert verdict([0, 0, 0, 0, 2, 2, 3, 3], **prompts) == "equal"
    assert verdict([0, 0, 0, 0, 2, 3, 2, 3], **prompts) == "differs"


@pytest.mark.parametrize(
    ("got", "more", "reason"),
    [
        ([0, 2, 2], {}, "it has another shape"),
        ([0, 2], {"prompt": None}, "the prompts of the classes were not recorded"),
        ([0, 0, 0, 2, 2, 2], {"prompt": ["cat", "dog"], "images": 3},
         "the prompts of the classes were not recorded"),
        ([0, 2], {"model": Labelled(more=False)}, "the classes do not follow from the prompts"),
        ([0, 2], {"model": Labelled(encoder=True)},
         "the classes depend on the outputs of text_encoder"),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_said_are_explained(got, more, reason):
    rows, ledger, network = rows_of(got, **more)
    assert not rows
    assert not ledger.has(network, "class_labels")
    assert ledger.reasons[network.name, "input", "class_labels"] == reason


def test_without_its_array_or_state_nothing_is_judged():
    assert not rows_of([0, 2], role="other")[0]
    assert not rows_of([0, 2], state=False)[0]
    assert not rows_of([0, 2], model=model_of("tiny"))[0]
