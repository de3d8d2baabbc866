"""`ldmref bench --against COMMIT` on the command line; no test looks at how long anything took."""

from __future__ import annotations

import pytest

from ldmref.bench import against
from ldmref.bench.against import TreeComparison

EQUAL = TreeComparison("a step", (1.0,), (1.0,))


@pytest.fixture
def rows(monkeypatch):
    """`rows(...)`: what the comparison yields."""

    def replace(*found):
        monkeypatch.setattr(against, "compare_with_commit", lambda *a, **k: iter(found))

    return replace


def test_a_slower_tree_fails(ldm, rows):
    rows(EQUAL, TreeComparison("a prompt", (2.0,), (1.0,)))
    ran = ldm("bench", "--against", "HEAD~1")
    assert ran.code == 4 and "a step" in ran.out
    assert "more than 1.1 times as slow as HEAD~1: a prompt" in ran.err


def test_an_equal_tree_passes(ldm, rows):
    rows(EQUAL)
    assert ldm("bench", "--against", "HEAD~1").code == 0


def test_other_options_do_not_mix(ldm):
    ran = ldm("bench", "unet", "--against", "HEAD")
    assert ran.code == 2 and "--backend, --rounds and --quick" in ran.err
