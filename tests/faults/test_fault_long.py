"""Kills at random moments, memory over many images, and the page that says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fault_cases import COMMAND_LINE, PYTHON, covers

ROOT = Path(__file__).parents[2]


def script(name):
    """Return a script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@covers(84, "killed at random moments of generating and converting", COMMAND_LINE)
def test_a_few_kills():
    tally = script("kill").run(kills=3, seed=5, training=False)
    assert not any(value for value in tally.values() if isinstance(value, list)), tally


@covers(84, "killed at random moments of training, resumed to the same bits", COMMAND_LINE)
@covers(93, "training that was killed and resumed", COMMAND_LINE)
@pytest.mark.slow
def test_many_kills():
    pytest.importorskip("torch")
    tally = script("kill").run(kills=40, seed=6)
    assert not any(value for value in tally.values() if isinstance(value, list)), tally


@covers(82, "memory over many images", PYTHON)
@pytest.mark.slow
def test_memory_is_flat():
    soak = script("soak")
    assert soak.soak(400)[0] < soak.BOUND


def test_the_page_is_up_to_date():
    made = script("make_evidence_page")
    assert made.PAGE.read_text("utf-8") == made.page(), "run python scripts/make_evidence_page.py"
