"""Fixtures of the benchmark tests."""

from __future__ import annotations

import dataclasses
from collections import namedtuple

import pytest

from benchmarks.__main__ import main
from benchmarks.compare import PairedSamples

Ran = namedtuple("Ran", "code out err")


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    """Run `python -m benchmarks ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capfd.readouterr()
        return Ran(main([*argv]), *capfd.readouterr())

    return run


@pytest.fixture
def result_of():
    """A function that makes a result of a case from the samples of both sides."""

    def result(case, ours=(1.0, 1.0, 2.0), theirs=(2.0, 2.0, 2.0)):
        titles = {"title": case.title, "peer_title": case.peer_title}
        other = {"rounds": 3, "unit": "s", "error": 1e-5}
        return dataclasses.asdict(case) | titles | other | PairedSamples(ours, theirs).to_dict()

    return result


@pytest.fixture
def peers():
    """Skip the test unless the peers' libraries are installed."""
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)


@pytest.fixture
def single_call_rounds(monkeypatch):
    """Time one call per round, however short."""
    monkeypatch.setattr("benchmarks.work.MIN_SECONDS", 0.0)
