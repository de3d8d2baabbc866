"""Classes of several calls and inputs: what is not known of one hides no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal
from test_class_units import LABELS, Labelled

from ldmref.locate.pipeline import classes
from ldmref.models.conditioning import Conditioning

X = normal(0, 1, 4, 8, 8)


def call(**inputs):
    given = {f"input.{name}": np.asarray(x) for name, x in inputs.items()}
    return {"input.sample": X, "output": X, **given}


class Twice(Labelled):
    """A model whose denoiser reads the class and one more number, of which ones are known."""

    def __init__(self, known=("labels", "second")):
        super().__init__()
        second = replace(LABELS, argument="second", role="second_labels", also=())
        self.denoiser = replace(self.denoiser, inputs=(*self.denoiser.inputs, second))
        self.sizes = []

        def condition_text(ops, config, tokens, size):
            self.sizes.append(size)
            return Conditioning(None, more={name: np.array([[2.0, 9.0]]) for name in known})

        self.family.text.condition_text = condition_text


def rows_of(calls, model=None):
    context = context_of(calls, params={"prompt": "cat"})
    context = replace(context, model=model or Twice())
    rows = [(row.call, row.verdict) for row in classes.judge_class_labels(context)]
    return rows, context


@pytest.mark.parametrize(
    ("inputs", "verdicts"),
    [
        ({"second_labels": [2]}, ["equal"]),
        ({"class_labels": [2, 2], "second_labels": [2]}, ["equal"]),
        ({"class_labels": [2], "second_labels": [3]}, ["equal", "differs"]),
        ({"class_labels": [3], "second_labels": [2]}, ["differs", "equal"]),
    ],
)
def test_each_input_is_judged_by_itself(inputs, verdicts):
    calls = {"unet.000": call(**inputs), "sampler.000": {"input.x": X}}
    rows, context = rows_of(calls)
    assert rows == [("unet.000", verdict) for verdict in verdicts]
    assert {*context.model.sizes} == {(0, 0)}


def test_an_input_that_does_not_follow_hides_no_other():
    both = {"class_labels": [2], "second_labels": [2]}
    calls = {"unet.000": call(**both), "sampler.000": {"input.x": X}}
    rows, context = rows_of(calls, Twice(known=("second",)))
    assert rows == [("unet.000", "equal")]
    entry = entry_of(context, "unet.000")
    assert [context.ledger.has(entry, name) for name in both] == [False, True]


def test_calls_without_classes_or_states_hide_no_others():
    calls = {
        "unet.000": call(class_labels=[3]),
        "sampler.000": {"output": X},
        "unet.001": call(),
        "sampler.001": {"input.x": X},
        "unet.002": call(class_labels=[2]),
        "sampler.002": {"input.x": X},
    }
    assert rows_of(calls)[0] == [("unet.002", "equal")]
