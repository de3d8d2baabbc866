"""`--only` finds the identities about a function, and otherwise those that call it."""

from __future__ import annotations

import pytest

from ldmref.apps.cli.main import main
from ldmref.check.identity import Functions
from ldmref.check.runner import selected


def names(only):
    return {identity.function for identity in selected(Functions(), only, all_of_them=True)}


@pytest.mark.parametrize(
    ("only", "functions"),
    [
        ("q_sample: ", {"q_sample"}),
        ("x0_from_v: ", {"x0_from_v"}),
        ("codebook_loss: ", {"vq_loss"}),
        ("no_such_function: ", set()),
    ],
)
def test_a_function_without_identities_of_its_own(only, functions):
    assert names(only) == functions


def test_a_misspelt_name_is_refused(capsys):
    assert main(["check", "--only", "comitment_loss"]) == 2
    assert "no identity matches 'comitment_loss'" in capsys.readouterr().err
