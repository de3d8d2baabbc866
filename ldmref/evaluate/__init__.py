"""Metrics of a trained model: reconstruction, likelihood, distances of samples, retrieval.

evaluation.py   `evaluate`: all metrics on a data set, those of generated images among them
images.py       the autoencoder and the likelihoods on images, and the model as they read it
styles.py       names and styles of generated images, where the data have several styles
likelihood.py   the chain's variational bound, and the flow's exact likelihood
intervals.py    means and proportions with confidence intervals
report.py       sections of measurements, as text or JSON

The names in `__all__` are public and follow the deprecation policy; everything else in this package
may change in any version. Importing it loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.evaluate.evaluation import EvaluationSettings as EvaluationSettings
    from ldmref.evaluate.evaluation import evaluate as evaluate
    from ldmref.evaluate.intervals import IntervalEstimate as IntervalEstimate
    from ldmref.evaluate.intervals import estimate as estimate
    from ldmref.evaluate.intervals import proportion as proportion
    from ldmref.evaluate.likelihood import chain_bound as chain_bound
    from ldmref.evaluate.likelihood import flow_nats as flow_nats
    from ldmref.evaluate.report import Measurement as Measurement
    from ldmref.evaluate.report import Section as Section
    from ldmref.evaluate.report import to_dict as to_dict
    from ldmref.evaluate.report import to_lines as to_lines

__getattr__, __dir__, __all__ = export_lazily(__name__)
