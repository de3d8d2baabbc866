"""Notations of other programs in a prompt: a warning says what the text means here."""

from __future__ import annotations

import pytest
from cheap import stays_cheap

from ldmref.prompts.text_checks import find_unread_notation

STEPS = "A1111 changes the prompt from step to step by it"
NOTATIONS = {  # the prompt: what is said of it with prompt_weights none, and with a1111
    "a (red:1.3) cat": ("(red:1.3) is read as text: prompt_weights=a1111 reads weights", ""),
    "a cat <lora:fur:1>": ("<lora:fur:1> in a prompt is read as text",) * 2,
    "a red++ cat": ("red++ is read as text: compel's + and - are (red:1.21)",) * 2,
    "a red-- cat": ("red-- is read as text: compel's + and - are (red:0.81)",) * 2,
    "a (red cat)+, dog": ("(red cat)+ is read as text: compel's + and - are (red cat:1.1)",) * 2,
    "[red|blue] cat": (
        f"[red|blue] is read as text: {STEPS}",
        f"[red|blue] is read as text of weight 0.91: {STEPS}",
    ),
    "a [cat:dog:0.5]": (
        f"[cat:dog:0.5] is read as text: {STEPS}",
        f"[cat:dog:0.5] is read as text of weight 0.91: {STEPS}",
    ),
    "a [hat:10]": (f"[hat:10] is read as text: {STEPS}",) * 1
    + (f"[hat:10] is read as text of weight 0.91: {STEPS}",),
    "a {red|blue} cat": ("{red|blue} is read as text: other programs choose one of these",) * 2,
}
PLAIN = (
    "a red heart", "C++ code", "an A+ grade", "a well-known cat", "state--of", "a -- b", "1 + 1",
    "[a cat]", "(a cat)", "a|b", "{a}", "[note: see below]", "12:30", "notes: a, b", "",
)  # fmt: skip


@pytest.mark.parametrize("prompt", NOTATIONS)
@pytest.mark.parametrize("weights", ["none", "a1111"])
def test_what_is_said_of_a_notation(prompt, weights):
    said = NOTATIONS[prompt][weights == "a1111"]
    found = find_unread_notation(prompt, weights)
    assert found == [] if not said else (len(found) == 1 and found[0].startswith(said))


@pytest.mark.parametrize("prompt", PLAIN)
def test_nothing_is_said_of_plain_text(prompt):
    assert find_unread_notation(prompt, "none") == find_unread_notation(prompt, "a1111") == []


@pytest.mark.parametrize("part", ["[", "[|", "[a:", "{|", "(a", "a+", "++", "a++x", "[:|", "-"])
def test_long_prompts_take_no_time(part):
    with stays_cheap():
        find_unread_notation(part * (100_000 // len(part)), "a1111")
