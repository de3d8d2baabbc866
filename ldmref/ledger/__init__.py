"""The ledger of quantisation: its cost, layer by layer, and that of noise of the same size.

making.py    `make_ledger`: two models, or one and a type, compared on the first one's own runs
weights.py   the weights that differ, and random perturbations of the same norm
outputs.py   the error of each layer's output on the inputs of the run
images.py    the error of the image, with one layer or all of them exchanged
rows.py      the numbers: rows for layers, as text or JSON

An error says nothing alone: an image changes with any perturbation of the weights. So each number
stands beside two others: the floor, which is the same quantity for the number format of the run,
and the control, which is the same quantity for a random perturbation of the same norm.

The names in `__all__` are public and follow the deprecation policy; everything else in this package
may change in any version. Importing it loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.ledger.making import LedgerSettings as LedgerSettings
    from ldmref.ledger.making import make_ledger as make_ledger
    from ldmref.ledger.making import make_ledgers as make_ledgers
    from ldmref.ledger.rows import LedgerRow as LedgerRow
    from ldmref.ledger.rows import QuantizationLedger as QuantizationLedger
    from ldmref.ledger.rows import to_lines as to_lines
    from ldmref.ledger.rows import to_summary as to_summary

__getattr__, __dir__, __all__ = export_lazily(__name__)
