"""`python -m benchmarks --against COMMIT`: this checkout and a commit of its own, in turn."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.against import TreeComparison
from ldmref.errors import UsageError

ROOT = Path(__file__).parents[2]


def comparison(new, old):
    return TreeComparison("a step", new, old)


def test_the_ratio_is_that_of_the_rounds():
    """The median of the rounds' ratios, so a disturbance that slows both down changes nothing."""
    assert comparison((1.0, 20.0, 1.0), (2.0, 40.0, 2.0)).ratio == 0.5
    assert comparison((1.2,), (1.0,)).slower and not comparison((1.05,), (1.0,)).slower
    assert "new / old  0.50" in str(comparison((1.0,), (2.0,)))


def test_both_trees_take_turns_and_the_first_round_warms_up():
    asked = []
    answers = iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])

    def program(side):
        return (lambda name: asked.append((side, name))), lambda: next(answers)

    (row,) = against._take_turns(["a step"], [program("new"), program("old")], rounds=2)
    assert (row.new, row.old) == ((1.0, 3.0), (2.0, 4.0))
    assert asked == [("new", "a step"), ("old", "a step")] * 3


def test_unknown_commits_and_copies_without_history_are_refused(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(against, "__file__", str(tmp_path / "benchmarks" / "against.py"))
    with pytest.raises(UsageError, match="knows no commit 'nowhere'"):
        next(against.compare_with_commit("nowhere"))
    monkeypatch.setattr(against, "__file__", str(tmp_path / "lib" / "benchmarks" / "a.py"))
    with pytest.raises(UsageError, match="git checkout"):
        next(against.compare_with_commit("HEAD"))


@pytest.mark.slow
def test_a_commit_of_this_checkout():
    """Two processes, each with a model; needs the history."""
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("git: this is no checkout")
    found = list(against.compare_with_commit("HEAD", rounds=1, model="tiny"))
    assert [row.name.split()[0] for row in found] == ["embedded", "tiny", "tiny", "tiny"]
