"""Metrics of a trained model: reconstruction, likelihood, distances of samples, retrieval.

run.py          `evaluate`: all metrics of a model on a data set, as `EvaluationSettings` asks
images.py       the autoencoder and the likelihoods on images
likelihood.py   the chain's variational bound, and the flow's exact likelihood
predictions.py  a loaded model as the functions that the likelihoods need
samples.py      generated images compared with images of the data
intervals.py    means and proportions with confidence intervals
report.py       sections of measurements, as text or JSON

The names in `__all__` are public and follow the deprecation policy; everything else in this package
may change in any version. Importing it loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmref.evaluate.intervals import IntervalEstimate, estimate, proportion
    from ldmref.evaluate.likelihood import chain_bound, flow_nats
    from ldmref.evaluate.report import Measurement, Section, to_dict, to_lines
    from ldmref.evaluate.run import EvaluationSettings, evaluate

_MODULES = {
    "EvaluationSettings": "ldmref.evaluate.run",
    "IntervalEstimate": "ldmref.evaluate.intervals",
    "Measurement": "ldmref.evaluate.report",
    "Section": "ldmref.evaluate.report",
    "chain_bound": "ldmref.evaluate.likelihood",
    "estimate": "ldmref.evaluate.intervals",
    "evaluate": "ldmref.evaluate.run",
    "flow_nats": "ldmref.evaluate.likelihood",
    "proportion": "ldmref.evaluate.intervals",
    "to_dict": "ldmref.evaluate.report",
    "to_lines": "ldmref.evaluate.report",
}

__all__ = [
    "EvaluationSettings",
    "IntervalEstimate",
    "Measurement",
    "Section",
    "chain_bound",
    "estimate",
    "evaluate",
    "flow_nats",
    "proportion",
    "to_dict",
    "to_lines",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    from importlib import import_module

    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not, for completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
