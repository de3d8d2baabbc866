"""The card of the embedded model says how much the seed decides; the numbers are recomputed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import ldmref
from ldmref.apps.server.forms import prompts_to_try
from ldmref.models import preset

ROOT = Path(__file__).parents[2]
CARD = ROOT / "ldmref" / "assets" / "emoji" / "README.md"

sys.path.insert(0, str(ROOT / "scripts"))
import measure_seeds  # noqa: E402

# A number is rounded to 0.1. Another processor rounds a pixel otherwise, by 1, at most in one value
# of a hundred: two such images are further from each other by at most 2 sqrt(0.01).
TOLERANCE = 0.05 + 0.2


@pytest.fixture(scope="module")
def printed():
    """Return the numbers of the card's table by prompt."""
    text = CARD.read_text("utf-8")
    [table] = re.findall(r"between seeds \|\n.*?\n((?: *\|.*\n)+)", text)
    rows = (row.strip(" |").split(" | ") for row in table.splitlines())
    return {prompt: float(number) for prompt, number in rows}


@pytest.fixture(scope="module")
def emoji():
    return ldmref.load("emoji", backend="numpy")


@pytest.mark.parametrize("prompt", measure_seeds.PROMPTS)
def test_a_number_of_the_card_is_what_the_model_gives(printed, emoji, prompt):
    found = measure_seeds.measure_seeds(emoji, prompt)
    assert found == pytest.approx(printed[prompt], abs=TOLERANCE)


def test_the_first_prompts_to_try_are_those_whose_seeds_differ(printed):
    """They differ several times as much as every prompt that is memorised."""
    assert printed.keys() == set(measure_seeds.PROMPTS)
    most = max(number for prompt, number in printed.items() if number < 10)
    assert all(printed[prompt] > 3 * most for prompt in prompts_to_try(preset("emoji-128"))[:3])
